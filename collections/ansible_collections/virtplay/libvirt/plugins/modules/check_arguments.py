#!/usr/bin/python
# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Documents `check_arguments`, which plugins/action/check_arguments.py carries out."""

from __future__ import annotations

DOCUMENTATION = r"""
module: check_arguments
short_description: Check the variables of a play's roles before any host is touched
version_added: 0.1.0
description:
  - Validates the variables of all roles that a play is about to run against their
    C(meta/argument_specs.yml), as Ansible does at the beginning of each role, but all at once and
    first. Runs on the controller only.
  - A message names the index and the key of a value in a list or mapping, and the declared VM.
  - Also refuses what argument_specs cannot express, by the rules of this collection's modules,
    such as V(0) CPUs, a name with a slash, a text that is no address, and a template that no
    catalogue has.
  - Also refuses variables without effect, which Ansible would ignore, namely unknown ones that
    begin with a role's name, and those given with C(-e) that the entry point does not read.
  - Also refuses roles about one VM without its name and UUID, and several hosts in a play for one.
  - Replaces the validation of each role by itself; set C(rolespec_validate=false) there.
author:
  - Virtplay contributors (@virtplay)
options:
  roles:
    description:
      - Name of each role and its entry point, the value of C(tasks_from) or else V(main).
    type: dict
    required: true
  single_host:
    description: Fail when the play has more than one host.
    type: bool
    default: false
attributes:
  check_mode:
    description: Changes nothing in either mode.
    support: full
  diff_mode:
    description: Changes nothing.
    support: none
"""

EXAMPLES = r"""
# The roles are then imported with rolespec_validate: false.
- name: Check the variables before a VM is created from a template
  virtplay.libvirt.check_arguments:
    roles:
      libvirt_domain: create
      libvirt_image: main
    single_host: true
  run_once: true
  tags: [always]
"""

RETURN = r"""
argument_errors:
  description: A message for each fault; C(msg) joins them.
  returned: failure
  type: list
  elements: str
  sample:
    - >-
      cannot use libvirt_domain_memroy: role libvirt_domain has no such variable, did you mean
      libvirt_domain_memory?
"""
