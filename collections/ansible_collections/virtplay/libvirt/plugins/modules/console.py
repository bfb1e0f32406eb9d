#!/usr/bin/python
# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Open a domain's console for one client (module `console`)."""

from __future__ import annotations

DOCUMENTATION = r"""
module: console
short_description: Open the VNC console of a running domain, or check its serial console
version_added: "0.1.0"
description:
  - For V(vnc), sets a VNC password on the running QEMU process that is valid for O(seconds). A
    connection opened in that time stays open afterwards. The definition of the domain does not
    change, and the password is gone when the QEMU process ends.
  - For V(serial), changes nothing and fails if libvirt cannot open the serial console.
  - VNC must listen on the loopback address of the host. Clients connect through SSH.
  - Takes no lock and does not wait for other tasks on the domain.
author:
  - Virtplay contributors (@virtplay)
extends_documentation_fragment:
  - virtplay.libvirt.connection
options:
  uuid:
    description: UUID of the domain. If it is set, it alone identifies the domain.
    type: str
  name:
    description: Name of the domain. It identifies the domain if O(uuid) is not set.
    type: str
  type:
    description: Type of the console, the screen (V(vnc)) or the serial console (V(serial)).
    type: str
    choices: [vnc, serial]
    default: vnc
  password:
    description:
      - VNC password, 6 to 8 printable ASCII characters. VNC does not support longer passwords.
      - Required if O(type=vnc).
    type: str
  seconds:
    description: Time in seconds during which new clients can connect with the password.
    type: int
    default: 60
  job:
    description: Id of the job that this task belongs to. It is not stored.
    type: str
attributes:
  check_mode:
    description: Sets no password in check mode.
    support: full
  diff_mode:
    description: Returns no diff, because a password must not be shown.
    support: none
"""

EXAMPLES = r"""
- name: Allow a VNC client to connect within the next minute
  virtplay.libvirt.console:
    name: web-1
    type: vnc
    password: "{{ console_password }}"
    seconds: 60

- name: Check whether the domain has a serial console
  virtplay.libvirt.console:
    name: web-1
    type: serial
"""

RETURN = r"""
changed:
  description: Whether a password was set.
  returned: success
  type: bool
  sample: true
domain:
  description: The domain, as the module P(virtplay.libvirt.domain#module) returns it.
  returned: success
  type: dict
  sample:
    name: web-1
    uuid: 0157c680-d8f0-4d2a-855a-94a165065017
    state: running
console:
  description: Where and how the console can be opened.
  returned: success
  type: dict
  contains:
    type:
      description: V(vnc) or V(serial).
      type: str
    host:
      description: Address on the host on which VNC listens. Null for V(serial).
      type: str
    port:
      description: TCP port on which VNC listens. Null for V(serial).
      type: int
    password_set:
      description:
        - Whether clients need the password. False for V(serial), and for a QEMU process that was
          started without password authentication, to which every user of the host can connect.
      type: bool
    seconds:
      description: Time in seconds during which new clients can connect with the password.
      type: int
  sample: {type: vnc, host: 127.0.0.1, port: 5900, password_set: true, seconds: 60}
code:
  description:
    - Error code. One of V(VM_NOT_FOUND), V(VM_ALREADY_STOPPED), V(CONSOLE_NOT_AVAILABLE),
      V(GUEST_NOT_RESPONDING), V(VALIDATION_ERROR), V(LIBVIRT_ERROR).
  returned: failure
  type: str
  sample: VM_ALREADY_STOPPED
"""

import time
from functools import partial
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.virtplay.libvirt.plugins.module_utils.console_open import utc_text
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain.console_xml import (
    check_serial,
    find_vnc,
    has_password,
    set_password,
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
from ansible_collections.virtplay.libvirt.plugins.module_utils.host.python import (
    require_libraries,
)
from ansible_collections.virtplay.libvirt.plugins.module_utils.values import CONSOLE, DEFAULT_URI

ARGUMENTS: dict[str, Any] = {
    "uri": {"type": "str", "default": DEFAULT_URI},
    "uuid": {"type": "str"},
    "name": {"type": "str"},
    "type": {"type": "str", "choices": ["vnc", "serial"], "default": "vnc"},
    "password": {"type": "str", "no_log": True},
    "seconds": {"type": "int", "default": 60},
    "job": {"type": "str"},
}
# Seconds until QEMU must have set the password; then it is reported as stuck. A user waits for it.
PATIENCE = 10.0


def open_console(params: dict[str, Any], *, dry_run: bool) -> dict[str, Any]:
    """Open the requested console and return the module's result; raise Failure."""
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
    """Set the password on the running QEMU; return False if it uses no password authentication.

    The password is set through the live definition, which libvirt stores on a tmpfs. A command
    sent directly to QEMU's monitor would make libvirt mark the domain as tainted.
    """
    # libvirt reads the time as UTC, and QEMU compares it with the clock of this host.
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
            ) from error  # the domain has stopped since it was viewed
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
    require_libraries(module)
    label = module.params["name"] or module.params["uuid"]
    run_module(
        module,
        lambda: open_console(module.params, dry_run=module.check_mode),
        partial(failure_of, prefix=f"cannot open a console of {label}"),
    )


if __name__ == "__main__":
    main()
