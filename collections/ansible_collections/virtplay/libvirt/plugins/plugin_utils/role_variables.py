# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Checks role variables by argument_specs and by our own rules; pure, no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.module_utils.common.parameters import DEFAULT_TYPE_VALIDATORS
from ansible.module_utils.common.validation import check_type_dict

from ..module_utils.declared import ABSENT, InvalidVms, domain_list
from ..module_utils.domain.arguments import given_values
from ..module_utils.values import (
    DOMAIN,
    TEMPLATE,
    Table,
    name_owner,
    shorten,
    shorten_list,
    suggest,
    unknown_keys,
)
from .role_rules import ROLES, rules_of

Options = Mapping[str, Mapping[str, Any]]

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
_FIXED = "it is fixed at creation; create another VM with it"
_FIRST_START = "cloud-init reads it at a VM's first start; change it in the guest"
# Variables that an entry point ignores, so that -e would have no effect:
# (role, entry point) → variable without the role's prefix → reason and remedy.
_REFUSED = {
    ("libvirt_domain", "update"): {
        **dict.fromkeys(("template", "clone", "virt_type", "firmware"), _FIXED),
        **dict.fromkeys(("hostname", "ssh_keys", "user_data", "network_config"), _FIRST_START),
        "state": "an update does not change the power state; use vm_start or vm_stop",
    },
    ("libvirt_snapshot", "create"): {
        "guard": "only snapshot_restore creates a guard",
        "force": "a snapshot of a running VM does not need it",
    },
}
_CLOSE = 0.9  # how similar a name must be to one of the role's, 0 to 1


def _is_of_type(value: Any, option: Mapping[str, Any]) -> bool:
    kind = option.get("type", "str")
    if kind in ("str", "path") and isinstance(value, (list, Mapping)):
        return False  # Ansible would convert it to a text
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
    """Return a message for each name with the role's prefix that is not a variable of the role.

    Variables of its other entry points are allowed, since an inventory has those of all, and so is
    the role's result.
    """
    prefix = _prefix(role)
    known = {name for spec in specs.values() for name in spec.get("options", {})}
    return [
        f"cannot use {name}: role {role} has no such variable{suggest(name, known, prefix=prefix)}"
        for name in sorted(names)
        if name.startswith(prefix) and name not in known and name != f"{prefix}result"
    ]


def check_variables(
    role: str, entry: str, options: Options, values: Mapping[str, Any]
) -> list[str]:
    """Return a message for each value that has a wrong type or choice or breaks a rule."""
    rules = rules_of(role, entry)
    prefix = _prefix(role)
    nouns = {
        f"{prefix}{key}": rule.noun for key, rule in rules.keys.items() if isinstance(rule, Table)
    }
    faults, typed = check_options(options, values, nouns=nouns)
    own = {key[len(prefix) :]: value for key, value in typed.items() if key.startswith(prefix)}
    faults += rules.find_faults(own, prefix=prefix)
    if "vms" in own and not faults:
        try:
            domains = domain_list(own["vms"], own["vms_defaults"])
        except InvalidVms as error:
            return [f"{prefix}vms: {error}"]
        # Relations need a VM's values merged with the defaults.
        return DOMAIN.find_faults(domains, f"{prefix}vms")
    return faults


def check_options(
    options: Options,
    values: Mapping[str, Any],
    where: str = "",
    owner: str = "",
    nouns: Mapping[str, str] | None = None,
) -> tuple[list[str], dict[str, Any]]:
    """Return a message for each value of a wrong type or choice, and the converted values.

    Converted values have their types, and defaults are filled in. Nested options are checked one by
    one, since Ansible's own messages contain neither the index nor the VM. nouns maps a list's name
    to the word for its elements, such as "VM".
    """
    start = f"{where}." if where else ""
    messages = unknown_keys(values, options, start, owner) if where else []
    # Without nested options: ansible-core 2.19 drops a wrong element, which changes the indexes
    # after it.
    specs = {
        name: {**option, "options": None, "elements": None} if option.get("options") else option
        for name, option in options.items()
    }
    known = {}
    for name, option in options.items():
        value = values.get(name)
        # ansible-core 2.19 treats null as an unset value only if there is no default.
        if name not in values or (value is None and option.get("required")):
            continue
        if (value is None and option.get("default") is None) or _is_of_type(value, option):
            known[name] = value
        else:
            del specs[name]
            shown = "" if option.get("no_log") else f" {shorten(value)}"
            sentence = _TYPES[option.get("type", "str")]
            messages.append(f"cannot use {start}{name}{shown}{owner}: it must be {sentence}")
    checked = ArgumentSpecValidator(specs).validate(known)
    place = f"{where}{owner}: " if where else ""
    messages += [f"{place}{message}" for message in checked.error_messages]
    typed = dict(checked.validated_parameters)
    for name, option in options.items():
        value = typed.get(name)
        if value is None or not option.get("options"):
            continue
        several = isinstance(value, list)
        found = []
        for number, element in enumerate(value if several else [value]):
            place = f"{start}{name}[{number}]" if several else f"{start}{name}"
            if _is_of_type(element, {"type": "dict"}):
                mapping = check_type_dict(element)
                of = owner or name_owner((nouns or {}).get(name, ""), mapping)
                faults, mapping = check_options(option["options"], mapping, place, of)
                messages += faults
            else:
                mapping = {}
                messages.append(f"cannot use {place}{owner}: it must be a mapping")
            found.append(mapping)
        typed[name] = found if several else found[0]
    return messages, typed


def refuse_extra_variables(
    role: str, entry: str, options: Options, names: Iterable[str]
) -> list[str]:
    """Return a message for each name given with -e that would have no effect.

    An inventory may have variables for other plays. Those on a command line are for this play, and
    a name similar to one of the role's is a mistake.
    """
    prefix = _prefix(role)
    refused = _REFUSED.get((prefix[:-1], entry), {})
    prefixes = tuple(f"{name}_" for name in ROLES)
    messages = []
    for name in sorted(names):
        key = name.removeprefix(prefix)
        if key in refused and key != name:
            messages.append(f"cannot use {name} for {entry}: {refused[key]}")
        elif name not in options and not name.startswith(prefixes):
            hint = suggest(name, options, _CLOSE)
            messages += [f"cannot use {name}: no role has such a variable{hint}"] if hint else []
    return messages


def missing_vm(
    role: str, options: Mapping[str, Mapping[str, Any]], values: Mapping[str, Any]
) -> list[str]:
    """Return a message if a role for one VM has neither its name nor its UUID."""
    prefix = _prefix(role)
    named = [
        name
        for name in (f"{prefix}domain", f"{prefix}name")
        if name in options and not options[name].get("required")
    ]
    uuid = f"{prefix}uuid"
    if not named or uuid not in options or any(values.get(name) for name in (*named, uuid)):
        return []
    return [f"cannot find the VM: {named[0]} or {uuid} is required"]


def unknown_templates(options: Options, values: Mapping[str, Any]) -> list[str]:
    """Return a message for each template that is in no catalogue.

    options are those of the role libvirt_image; values are its variables, and of the role
    libvirt_domain either the name of the VM that is to have the template, or the declared VMs.
    check_variables reports wrong types.
    """
    entries: set[str] = set()
    for name in ("libvirt_image_catalogue", "libvirt_image_catalogue_extra"):
        found = values.get(name, options.get(name, {}).get("default"))
        entries |= set(found) if isinstance(found, Mapping) else set()
    known = ", ".join(sorted(map(str, entries)))
    faults = []
    for name, vms in _template_users(values).items():
        if isinstance(name, str) and TEMPLATE.allows(name) and name not in entries:
            user = f" for VM{'s' * (len(vms) > 1)} {shorten_list(vms)}" if vms else ""
            hint = suggest(name, map(str, entries)) or ":"
            faults.append(f"cannot find template {name}{user}{hint} the catalogue has {known}")
    return faults


def _template_users(values: Mapping[str, Any]) -> dict[Any, list[str]]:
    """Return template → the names of the VMs that require it."""
    wanted = values.get("libvirt_image_name") or []
    vm = values.get("libvirt_domain_name")
    names = wanted if isinstance(wanted, list) else [wanted]
    users: dict[Any, list[str]] = {name: [str(vm)] if vm else [] for name in names}
    defaults = values.get("libvirt_domain_vms_defaults")
    for vm in _mappings(values.get("libvirt_domain_vms")):
        merged = {**(defaults if isinstance(defaults, Mapping) else {}), **given_values(vm)}
        if merged.get("state") != ABSENT:
            disks = _mappings(merged.get("disks"))
            # Each once, in their order.
            for template in {disk.get("template"): None for disk in [merged, *disks]}:
                if template:
                    users.setdefault(template, []).append(str(merged.get("name")))
    return users


def _mappings(value: Any) -> list[Mapping[str, Any]]:
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []


def join_hosts(faults: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the faults of several hosts, each once, with its hosts if it is not one of all."""
    hosts: dict[str, list[str]] = {}
    for host, messages in faults.items():
        for message in messages:
            hosts.setdefault(message, []).append(host)
    return [
        message if len(found) == len(faults) else f"{shorten_list(found)}: {message}"
        for message, found in hosts.items()
    ]


def refuse_several_hosts(play: str, hosts: Sequence[str]) -> list[str]:
    """Return a message if a play for one host, with a name like "Start a VM", has several."""
    if len(hosts) <= 1:
        return []
    named = ", ".join(hosts[:5]) + (", …" if len(hosts) > 5 else "")
    action = play[:1].lower() + play[1:]
    return [f"cannot {action} on {len(hosts)} hosts: select one with --limit ({named})"]
