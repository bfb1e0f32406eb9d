#!/usr/bin/python
# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Documents `check_arguments`, which plugins/action/check_arguments.py carries out."""

from __future__ import annotations

DOCUMENTATION = r"""
module: check_arguments
short_description: Check the variables of a play's roles before anything is touched
version_added: 0.1.0
description:
  - Validates the variables of all roles that a play is about to run against their
    C(meta/argument_specs.yml), as Ansible does at the beginning of each role, but of all of them
    at once and first. It runs on the controller only.
  - A fault in a list or in a mapping is told with index and key, that of a declared VM with the VM.
  - Also refuses values of the right type that make no sense, as V(0) CPUs, a name with a slash or
    an address that is none, by the same rules as the modules of this collection, templates that no
    catalogue has, and, among the variables given with C(-e), those that the entry point would
    ignore although somebody waits for their effect.
  - Also refuses variables that begin with a role's name and that it does not have, since Ansible
    would ignore the misspelt one, roles about one VM that are told neither its name nor its UUID,
    and a play for one host that was started for several.
  - Saves the tasks that validate each role by itself, with C(rolespec_validate=false) there.
author:
  - Virtplay contributors (@virtplay)
options:
  roles:
    description:
      - Name of each role, and its entry point (what C(tasks_from) names, else V(main)).
    type: dict
    required: true
  single_host:
    description: Fail when the play has more than one host.
    type: bool
    default: false
attributes:
  check_mode:
    description: Changes nothing, and does the same in check mode.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
"""

EXAMPLES = r"""
# The roles are then imported with rolespec_validate: false.
- name: Check the variables before a VM is made of a template
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
  description: Every fault, as one message each; C(msg) has them all.
  returned: failure
  type: list
  elements: str
  sample:
    - >-
      cannot use libvirt_domain_memroy: role libvirt_domain has no such variable, did you mean
      libvirt_domain_memory?
"""
