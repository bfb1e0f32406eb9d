#!/usr/bin/python
# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Opens a domain's console for one client (module `console`)."""

from __future__ import annotations

DOCUMENTATION = r"""
module: console
short_description: Open a running domain's screen for a short time, or find its serial console
version_added: "0.1.0"
description:
  - For V(vnc) the running QEMU gets a password that is valid for some seconds. A connection made
    in that time stays. The definition of the domain does not change, and the password does not
    outlive the QEMU.
  - For V(serial) nothing changes; the module says whether libvirt can open the text console.
  - VNC must listen on the loopback of its host; clients come through SSH.
  - It waits for no other task on the domain and takes no lock.
author:
  - Virtplay contributors (@virtplay)
extends_documentation_fragment:
  - virtplay.libvirt.connection
options:
  uuid:
    description: UUID of the domain. The domain is looked up by it when it is given.
    type: str
  name:
    description: Name of the domain. The domain is looked up by it when O(uuid) is not given.
    type: str
  type:
    description: The screen (V(vnc)) or the text console (V(serial)).
    type: str
    choices: [vnc, serial]
    default: vnc
  password:
    description:
      - The password for VNC, 6 to 8 printable ASCII characters (VNC has no longer ones).
      - Needed for V(vnc).
    type: str
  seconds:
    description: For how long the password lets new clients in.
    type: int
    default: 60
  job:
    description: Id of the job that this task is part of. It is written nowhere.
    type: str
attributes:
  check_mode:
    description: No password is set.
    support: full
  diff_mode:
    description: There is nothing to show; a password never is.
    support: none
"""

EXAMPLES = r"""
- name: Let a VNC client in within the next minute
  virtplay.libvirt.console:
    name: vm-001
    type: vnc
    password: "{{ console_password }}"
    seconds: 60

- name: See whether there is a serial console
  virtplay.libvirt.console:
    name: vm-001
    type: serial
"""

RETURN = r"""
changed:
  description: Whether a password was set.
  returned: success
  type: bool
  sample: true
domain:
  description: The domain, as in the module domain.
  returned: success
  type: dict
  sample:
    name: vm-001
    uuid: 0157c680-d8f0-4d2a-855a-94a165065017
    state: running
console:
  description: The console.
  returned: success
  type: dict
  contains:
    type:
      description: V(vnc) or V(serial).
      type: str
    host:
      description: The address on the host that VNC listens on; none for V(serial).
      type: str
    port:
      description: The TCP port that VNC listens on; none for V(serial).
      type: int
    password_set:
      description:
        - Whether clients need the password. False for V(serial), and for a QEMU that was started
          without password authentication, which lets every user of its host in.
      type: bool
    seconds:
      description: For how long the password lets new clients in.
      type: int
  sample: {type: vnc, host: 127.0.0.1, port: 5900, password_set: true, seconds: 60}
code:
  description:
    - Why it failed, for programs. One of V(VM_NOT_FOUND), V(VM_ALREADY_STOPPED),
      V(CONSOLE_NOT_AVAILABLE), V(GUEST_NOT_RESPONDING), V(VALIDATION_ERROR), V(LIBVIRT_ERROR).
  returned: failure
  type: str
  sample: VM_ALREADY_STOPPED
"""

import time
from functools import partial
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain.console_xml import (
    check_serial,
    find_vnc,
    has_password,
    set_password,
    utc_text,
    vnc_address,
)
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain.power import call_within
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain.view import (
    describe,
    view_domain,
)
from ansible_collections.virtplay.libvirt.plugins.module_utils.failure import (
    Failure,
    check_values,
    run_module,
)
from ansible_collections.virtplay.libvirt.plugins.module_utils.host.connection import (
    error_text,
    has_error_code,
    libvirt,
    lookup_domain,
    open_connection,
)
from ansible_collections.virtplay.libvirt.plugins.module_utils.host.failures import failure_of
from ansible_collections.virtplay.libvirt.plugins.module_utils.values import CONSOLE

ARGUMENTS: dict[str, Any] = {
    "uri": {"type": "str", "default": "qemu:///system"},
    "uuid": {"type": "str"},
    "name": {"type": "str"},
    "type": {"type": "str", "choices": ["vnc", "serial"], "default": "vnc"},
    "password": {"type": "str", "no_log": True},
    "seconds": {"type": "int", "default": 60},
    "job": {"type": "str"},
}
# How long QEMU may take for the password before it counts as stuck: somebody waits for it.
PATIENCE = 10.0


def open_console(params: dict[str, Any], *, dry_run: bool) -> dict[str, Any]:
    """Open what was asked for and return the module's result."""
    check_values(CONSOLE, params)
    conn = open_connection(params["uri"])
    dom = lookup_domain(conn, uuid=params["uuid"], name=None if params["uuid"] else params["name"])
    if dom is None:
        label = params["name"] or params["uuid"]
        raise Failure(f"cannot find domain {label}", "VM_NOT_FOUND")
    current = view_domain(conn, dom)
    if not current.active:
        raise Failure(
            f"cannot open a console of {current.label}: it is {current.state}",
            "VM_ALREADY_STOPPED",
        )
    console: dict[str, Any] = {
        "type": params["type"],
        "host": None,
        "port": None,
        "password_set": False,
        "seconds": params["seconds"],
    }
    if params["type"] == "serial":
        check_serial(current.live_xml, current.label)
    else:
        graphics = find_vnc(dom.XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE), current.label)
        console["host"], console["port"] = vnc_address(graphics)
        console["password_set"] = (
            has_password(graphics)
            if dry_run
            else give_password(dom, graphics, current.label, params)
        )
    return {
        "changed": console["password_set"],
        "domain": describe(current),
        "console": console,
    }


def give_password(dom: Any, graphics: Any, label: str, params: dict[str, Any]) -> bool:
    """Set the password on the running QEMU; False when that asks for none and takes none.

    Through the live definition, which libvirt keeps for itself on a tmpfs: a command straight to
    QEMU's monitor would mark the domain as tampered with.
    """
    # libvirt reads the time as UTC, and QEMU compares it with the clock of this same host.
    valid_to = utc_text(time.time() + params["seconds"])
    xml = set_password(graphics, params["password"], valid_to)
    try:
        call_within(
            PATIENCE,
            lambda: dom.updateDeviceFlags(xml, libvirt.VIR_DOMAIN_AFFECT_LIVE),
            f"cannot open a console of {label}",
        )
    except libvirt.libvirtError as error:
        if has_error_code(error, "VIR_ERR_OPERATION_INVALID"):
            raise Failure(
                f"cannot open a console of {label}: {error_text(error)}", "VM_ALREADY_STOPPED"
            ) from error  # it went down a moment ago
        if has_password(graphics) or has_error_code(
            error, "VIR_ERR_OPERATION_TIMEOUT", "VIR_ERR_NO_DOMAIN"
        ):
            raise
        return False
    return True


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec=ARGUMENTS,
        supports_check_mode=True,
        required_one_of=[["uuid", "name"]],
    )
    label = module.params["name"] or module.params["uuid"]
    run_module(
        module,
        lambda: open_console(module.params, dry_run=module.check_mode),
        partial(failure_of, prefix=f"cannot open a console of {label}"),
    )


if __name__ == "__main__":
    main()
