# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Checks of role variables what argument_specs cannot express; pure, no I/O."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.module_utils.common.parameters import DEFAULT_TYPE_VALIDATORS
from ansible.module_utils.common.validation import check_type_dict

from ..module_utils.declared import InvalidFleet, domain_list
from ..module_utils.values import DOMAIN, TEMPLATE, Table, name_owner, shorten, unknown_keys
from .role_rules import ROLES, rules_of

Options = Mapping[str, Mapping[str, Any]]

_NESTED = ("options", "elements")
_TYPES = {
    "str": "a text",
    "path": "a text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "list": "a list",
    "dict": "a mapping",
    "raw": "a value",
}
_FIXED = "it is fixed when a VM is made; make another VM with it"
_FIRST_START = "cloud-init reads it at a VM's first start; change it in the guest"
_POWER = "an update leaves a VM's power alone; start and stop it with vm_start and vm_stop"
# What an entry point does not have, and whoever gives it with -e would wait for in vain:
# (role, entry point) → variable → what can be done.
_REFUSED = {
    ("libvirt_domain", "update"): {
        "libvirt_domain_template": _FIXED,
        "libvirt_domain_clone": _FIXED,
        "libvirt_domain_virt_type": _FIXED,
        "libvirt_domain_firmware": _FIXED,
        "libvirt_domain_hostname": _FIRST_START,
        "libvirt_domain_ssh_keys": _FIRST_START,
        "libvirt_domain_user_data": _FIRST_START,
        "libvirt_domain_network_config": _FIRST_START,
        "libvirt_domain_state": _POWER,
    },
    ("libvirt_snapshot", "create"): {
        "libvirt_snapshot_guard": "a guard is made by snapshot_restore",
        "libvirt_snapshot_force": "a snapshot is made of a VM that runs, too",
    },
}
_CLOSE = 0.9  # of 1: how near a name must be to one of the role's


def _is_of_type(value: Any, option: Mapping[str, Any]) -> bool:
    kind = option.get("type", "str")
    if kind in ("str", "path") and isinstance(value, (list, Mapping)):
        return False  # Ansible would make a text of it
    try:
        DEFAULT_TYPE_VALIDATORS[kind](value)
    except (TypeError, ValueError):
        return False
    return True


def _prefix(role: str) -> str:
    return f"{role.rpartition('.')[2]}_"


def unknown_variables(
    role: str, specs: Mapping[str, Mapping[str, Any]], names: Iterable[str]
) -> list[str]:
    """Return a message for each of the names that has the role's prefix and is no variable of it.

    Those of the role's other entry points may be there, too: in an inventory they are for all of
    them. So may its result.
    """
    known = {name for spec in specs.values() for name in spec.get("options", {})}
    prefix = _prefix(role)
    messages = []
    for name in sorted(names):
        if name.startswith(prefix) and name not in known and name != f"{prefix}result":
            near = difflib.get_close_matches(name, known, n=1)
            hint = f", did you mean {near[0]}?" if near else ""
            messages.append(f"cannot use {name}: role {role} has no such variable{hint}")
    return messages


def check_variables(
    role: str, entry: str, options: Options, values: Mapping[str, Any]
) -> list[str]:
    """Return a message for each value of a wrong type, a wrong choice, or that makes no sense."""
    rules = rules_of(role, entry)
    prefix = _prefix(role)
    nouns = {
        f"{prefix}{key}": rule.noun for key, rule in rules.keys.items() if isinstance(rule, Table)
    }
    faults, typed = check_options(options, values, nouns=nouns)
    own = {key[len(prefix) :]: value for key, value in typed.items() if key.startswith(prefix)}
    faults += rules.find_faults(own, prefix=prefix)
    vms = f"{prefix}vms"
    if vms in options and not faults:
        try:
            domains = domain_list(typed[vms], typed[f"{vms}_defaults"])
        except InvalidFleet as error:
            return [f"{vms}: {error}"]
        # A VM's value and a default's may not fit together.
        return Table(DOMAIN.keys, DOMAIN.relations, noun="VM").find_faults(domains, vms)
    return faults


def check_options(
    options: Options,
    values: Mapping[str, Any],
    where: str = "",
    owner: str = "",
    nouns: Mapping[str, str] | None = None,
) -> tuple[list[str], dict[str, Any]]:
    """Return a message for each value of a wrong type or choice, and the values as they are used.

    Those are of the types asked for, with defaults. Options of options are looked at one by one,
    so that a message says where a fault is: Ansible's own name neither index nor VM. nouns says
    what the elements of a list are, as "VM".
    """
    start = f"{where}." if where else ""
    place = f"{where}{owner}: " if where else ""
    messages = []
    # Ansible would take a wrong element out of its list, and the others would change their places.
    inner = {name: option["options"] for name, option in options.items() if option.get("options")}
    flat = {
        name: {k: v for k, v in option.items() if name not in inner or k not in _NESTED}
        for name, option in options.items()
    }
    known = {}
    for name, value in values.items():
        option = flat.get(name)
        if option is None or (value is None and option.get("required")):
            continue
        # Ansible takes null for "not set", but where there is a default.
        unset = value is None and option.get("default") is None
        if not unset and not _is_of_type(value, option):
            del flat[name]
            shown = "" if option.get("no_log") else f" {shorten(value)}"
            sentence = _TYPES[option.get("type", "str")]
            messages.append(f"cannot use {start}{name}{shown}{owner}: it must be {sentence}")
        else:
            known[name] = value
    checked = ArgumentSpecValidator(flat).validate(known)
    messages += [f"{place}{message}" for message in checked.error_messages]
    if where:
        messages += unknown_keys(values, options, start, owner)
    typed = dict(checked.validated_parameters)
    for name, nested in inner.items():
        value = typed.get(name)
        path = f"{start}{name}"
        if isinstance(value, Mapping):
            faults, typed[name] = check_options(nested, value, path, owner)
            messages += faults
        elif isinstance(value, list):
            typed[name] = []
            for number, element in enumerate(value):
                place = f"{path}[{number}]"
                try:
                    keys = check_type_dict(element)
                except TypeError:
                    messages.append(f"cannot use {place}{owner}: it must be a mapping")
                    typed[name].append({})
                    continue
                of = owner or name_owner((nouns or {}).get(path, ""), keys)
                faults, one = check_options(nested, keys, place, of)
                messages += faults
                typed[name].append(one)
    return messages, typed


def refuse_extra_variables(
    role: str, entry: str, options: Options, names: Iterable[str]
) -> list[str]:
    """Return a message for each name given with -e that would be without effect.

    In an inventory such a variable is for those whom it concerns; on a command line somebody means
    it. So he does with a name that is nearly one of the role's.
    """
    refused = _REFUSED.get((role.rpartition(".")[2], entry), {})
    prefixes = tuple(f"{name}_" for name in ROLES)
    messages = []
    for name in sorted(names):
        if name in refused:
            messages.append(f"cannot use {name} for {entry}: {refused[name]}")
        elif name not in options and not name.startswith(prefixes):
            near = difflib.get_close_matches(name, options, n=1, cutoff=_CLOSE)
            if near:
                hint = f"did you mean {near[0]}?"
                messages.append(f"cannot use {name}: no role has such a variable, {hint}")
    return messages


def missing_vm(
    role: str, options: Mapping[str, Mapping[str, Any]], values: Mapping[str, Any]
) -> list[str]:
    """Return a message when a role that is about one VM is told neither its name nor its UUID."""
    prefix = _prefix(role)
    name = next((prefix + key for key in ("domain", "name") if prefix + key in options), "")
    uuid = f"{prefix}uuid"
    if not name or uuid not in options or options[name].get("required"):
        return []
    if values.get(name) or values.get(uuid):
        return []
    return [f"cannot tell which VM is meant: set {name} or {uuid}"]


def unknown_templates(options: Options, values: Mapping[str, Any], user: str = "") -> list[str]:
    """Return a message for each template that the role libvirt_image is to bring and cannot find.

    user says what wants it, like " for VM web-1". Values of other types are told elsewhere.
    """
    entries: set[str] = set()
    for name in ("libvirt_image_catalogue", "libvirt_image_catalogue_extra"):
        found = values.get(name, options.get(name, {}).get("default"))
        entries |= set(found) if isinstance(found, Mapping) else set()
    wanted = values.get("libvirt_image_name") or []
    names = [wanted] if isinstance(wanted, str) else wanted
    known = ", ".join(sorted(map(str, entries)))
    return [
        f"cannot find template {name}{user}: the catalogue has {known}"
        for name in (names if isinstance(names, list) else [])
        if isinstance(name, str) and TEMPLATE.allows(name) and name not in entries
    ]


def refuse_several_hosts(play: str, hosts: Sequence[str]) -> list[str]:
    """Return a message when a play named like "Start a VM", which is for one host, has several."""
    if len(hosts) <= 1:
        return []
    named = ", ".join(hosts[:5]) + (", …" if len(hosts) > 5 else "")
    action = play[:1].lower() + play[1:]
    return [f"cannot {action} on {len(hosts)} hosts: name one with --limit ({named})"]
