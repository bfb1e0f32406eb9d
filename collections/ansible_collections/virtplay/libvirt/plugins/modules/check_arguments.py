#!/usr/bin/python
# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Document `check_arguments`; plugins/action/check_arguments.py implements it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: check_arguments
short_description: Check the variables of a play's roles before any host is touched
version_added: 0.1.0
description:
  - Validates the variables of all roles of a play against their C(meta/argument_specs.yml) before
    the play changes anything. Ansible itself validates each role only when that role starts. The
    module runs on the controller only.
  - For a value in a list or mapping, the message names the index, the key and the declared VM.
  - Also applies the rules that argument_specs cannot express and that the modules of this
    collection check. It refuses, for example, V(0) CPUs, a name with a slash, an invalid IP
    address, and a template that is not in the catalogue.
  - Also refuses variables that have no effect and that Ansible would ignore. These are unknown
    variables that begin with a role's name, and variables given with C(-e) that the entry point
    does not read.
  - Also refuses a role for one VM if neither its name nor its UUID is set, and a play for one host
    that has several hosts.
  - Replaces the validation that each role does at its start. Import the roles with
    C(rolespec_validate=false).
author:
  - Virtplay contributors (@virtplay)
options:
  roles:
    description:
      - Mapping of role name to entry point. The entry point is the value of C(tasks_from), or
        V(main).
    type: dict
    required: true
  single_host:
    description: Fail if the play has more than one host.
    type: bool
    default: false
  all_hosts:
    description:
      - Check the variables of all hosts of the play in one task with C(run_once), and report a
        fault that several of them have once.
    type: bool
    default: false
attributes:
  check_mode:
    description: Makes no changes, with or without check mode.
    support: full
  diff_mode:
    description: Makes no changes, so there is no diff.
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
code:
  description: Error code. C(msg) contains all errors.
  returned: failure
  type: str
  sample: VALIDATION_ERROR
"""
