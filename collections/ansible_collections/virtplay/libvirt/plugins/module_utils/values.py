# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Collection layer: what values may be beyond their type, of roles and modules; pure, no I/O.

A table says it for each key. The playbooks are told before any host is touched
(`check_arguments`), and whoever uses a module or a role by itself is told by the module.
"""

from __future__ import annotations

import datetime
import ipaddress
import re
import uuid as uuids
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Union

LONGEST_SHOWN = 60


@dataclass(frozen=True)
class Rule:
    """What one value must be; with each, also each element of a list."""

    allows: Callable[[Any], bool]
    sentence: str
    shown: bool = True  # whether a message may repeat the value
    each: bool = True

    def find_faults(self, value: Any, where: str, owner: str) -> Iterator[str]:
        """Yield a message for a value, or for each element of a list, that may not be."""
        if self.each and isinstance(value, list):
            for number, element in enumerate(value):
                yield from self.find_faults(element, f"{where}[{number}]", owner)
        elif not self.allows(value):
            shown = f" {shorten(value)}" if self.shown else ""
            yield f"cannot use {where}{shown}{owner}: it {self.sentence}"


@dataclass(frozen=True)
class Relation:
    """What a key's value must be beside others; {other} in the sentence is what that is called."""

    key: str
    holds: Callable[[Mapping[str, Any]], bool]
    sentence: str


@dataclass(frozen=True)
class Table:
    """The rules of a mapping's keys, or of each mapping in a list; further keys are let through.

    noun is what the mappings of a list are, for messages that give their name. defaults is the key
    beside it whose mapping fills theirs up; relations are looked at in what comes of that.
    """

    keys: Mapping[str, Checked]
    relations: tuple[Relation, ...] = ()
    noun: str = ""
    defaults: str = ""
    closed: bool = False  # whether further keys are refused

    def find_faults(
        self,
        value: Any,
        where: str = "",
        owner: str = "",
        *,
        prefix: str = "",
        defaults: Mapping[str, Any] | None = None,
    ) -> Iterator[str]:
        """Yield a message for each value that may not be; prefix is that of a role's variables."""
        if isinstance(value, list):
            for number, element in enumerate(value):
                of = owner + name_owner(self.noun, element)
                yield from self.find_faults(element, f"{where}[{number}]", of, defaults=defaults)
        elif isinstance(value, Mapping):
            start = prefix or (f"{where}." if where else "")
            if self.closed:
                yield from unknown_keys(value, self.keys, start, owner)
            told = set()
            for key, rule in self.keys.items():
                if value.get(key) is not None:
                    for fault in self._find_in(rule, value, key, start, owner):
                        told.add(key)
                        yield fault
            given = {key: its for key, its in value.items() if its is not None}
            whole = {**(defaults or {}), **given}
            for relation in self.relations:
                if relation.key not in told and not relation.holds(whole):
                    yield _broken(relation, self.keys, whole, start, owner)

    @staticmethod
    def _find_in(
        rule: Checked, values: Mapping[str, Any], key: str, start: str, owner: str
    ) -> Iterator[str]:
        where = f"{start}{key}"
        if isinstance(rule, Table):
            usual = values.get(rule.defaults)
            defaults = usual if isinstance(usual, Mapping) else None
            yield from rule.find_faults(values[key], where, owner, defaults=defaults)
        else:
            yield from rule.find_faults(values[key], where, owner)


@dataclass(frozen=True)
class Entries:
    """The rules of a mapping with keys of the user's own: of each key, and of each value."""

    key: Rule
    value: Checked
    most: int = 1000

    def find_faults(self, value: Any, where: str, owner: str) -> Iterator[str]:
        """Yield a message for each key and each value that may not be."""
        if not isinstance(value, Mapping):
            return
        if len(value) > self.most:
            yield f"cannot use {where}{owner}: it must have {self.most} entries at most"
        for key, entry in value.items():
            if not self.key.allows(key):
                yield (f"cannot use key {shorten(key)} of {where}{owner}: it {self.key.sentence}")
            if isinstance(self.value, Table) and not isinstance(entry, Mapping):
                yield f"cannot use {where}.{key}{owner}: it must be a mapping"
            yield from self.value.find_faults(entry, f"{where}.{key}", owner)


Checked = Union[Rule, Table, Entries]


def name_owner(noun: str, element: Any) -> str:
    """Return " of VM web-1" for an element of a list of VMs, nothing for one without a name."""
    name = element.get("name") if isinstance(element, Mapping) else None
    return f" of {noun} {name}" if noun and isinstance(name, str) and name.isprintable() else ""


def unknown_keys(
    values: Iterable[Any],
    known: Iterable[str],
    start: str = "",
    owner: str = "",
    noun: str = "key",
) -> list[str]:
    """Return a message for each key that is not a known one, with the nearest that is."""
    # Imported for a fault only: the modules of power actions are to be quick.
    import difflib  # noqa: PLC0415

    names = sorted(known)
    messages = []
    for key in sorted(str(key) for key in values if key not in names):
        near = difflib.get_close_matches(key, names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"
        messages.append(f"cannot use {start}{key}{owner}: there is no such {noun}, {hint}")
    return messages


def _broken(
    relation: Relation, keys: Iterable[str], values: Mapping[str, Any], start: str, owner: str
) -> str:
    # In a mapping of its own the other keys are near enough to be called by their bare names.
    prefix = "" if start.endswith((".", "]")) else start
    sentence = relation.sentence.format(**{key: f"{prefix}{key}" for key in keys})
    if values.get(relation.key) is None:
        return f"cannot do without {start}{relation.key}{owner}: it {sentence}"
    return f"cannot use {start}{relation.key}{owner}: it {sentence}"


def shorten(value: Any) -> str:
    """Return a value as a message shows it."""
    text = repr(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 1]}…"


# --- kinds of rules ---------------------------------------------------------------------------
# A value of another type is let through: that is told by those who check types.


def between(low: float, high: float, unit: str = "") -> Rule:
    """Return the rule of a number, or a list of them, that lies in a range."""

    def allows(value: Any) -> bool:
        wrong_type = not isinstance(value, (int, float)) or isinstance(value, bool)
        return wrong_type or low <= value <= high

    return Rule(allows, f"must be {low} to {high}{f' {unit}' if unit else ''}")


def matching(pattern: str, sentence: str, *, shown: bool = True) -> Rule:
    """Return the rule of a text, or a list of them, that matches a pattern as a whole."""

    def allows(value: Any) -> bool:
        # Compiled when it is needed: a power action needs two of all these patterns.
        return not isinstance(value, str) or re.fullmatch(pattern, value) is not None

    return Rule(allows, sentence, shown)


def text(allows: Callable[[str], bool], sentence: str, *, shown: bool = True) -> Rule:
    """Return the rule of a text, or a list of them, that is allowed."""
    return Rule(lambda value: not isinstance(value, str) or allows(value), sentence, shown)


def given(values: Mapping[str, Any], *keys: str) -> bool:
    """Tell whether there are values of all those keys."""
    return all(values.get(key) is not None for key in keys)


def at_least(key: str, other: str) -> Relation:
    """Return the relation of a number that is not below another."""

    def holds(values: Mapping[str, Any]) -> bool:
        one, least = values.get(key), values.get(other)
        return not isinstance(one, int) or not isinstance(least, int) or one >= least

    return Relation(key, holds, f"must not be below {{{other}}}")


def distinct(key: str, inner: str) -> Relation:
    """Return the relation of a list whose mappings have different values of a key."""

    def holds(values: Mapping[str, Any]) -> bool:
        found = [
            str(entry[inner]).lower()
            for entry in values.get(key) or ()
            if isinstance(entry, Mapping) and entry.get(inner)
        ]
        return len(found) == len(set(found))

    return Relation(key, holds, f"must not have a {inner} twice")


# --- texts ------------------------------------------------------------------------------------

_JOINERS = "\u200c\u200d"  # inside emoji
_MOMENT = r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]([0-9:]{8})(?:\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})"


def is_printable(text: str, also: str = "") -> bool:
    """Tell whether a text holds no control characters and no invisible marks."""
    return all(c.isprintable() or c in _JOINERS or c in also for c in text)


def is_uuid(text: str) -> bool:
    """Tell whether a text is a UUID, in any of its spellings."""
    try:
        uuids.UUID(text)
    except ValueError:
        return False
    return True


def _is_guests(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    nowhere = ip.is_unspecified or ip.is_loopback or ip.is_link_local or ip.is_multicast
    return not nowhere and not (ip.version == 4 and ip.is_reserved)


def is_guest_address(text: str) -> bool:
    """Tell whether a text is an IP address that a guest can have, with or without prefix."""
    try:
        return _is_guests(ipaddress.ip_interface(text).ip)
    except ValueError:
        return False


def is_address(text: str) -> bool:
    """Tell whether a text is an IP address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def is_moment(text: str) -> bool:
    """Tell whether a text is a moment as RFC 3339 writes it."""
    found = re.fullmatch(_MOMENT, text)
    if found is None:
        return False
    zone = "+00:00" if found[3] in "Zz" else found[3]
    try:
        datetime.datetime.fromisoformat(f"{found[1]}T{found[2]}{zone}")
    except ValueError:
        return False
    return True


def _is_label_value(value: Any) -> bool:
    # Numbers and truth values are kept as text; null and what is nested would be kept as "None".
    text = str(value) if isinstance(value, (str, int, float)) else "\0"
    return is_printable(text) and len(text) <= 255


ONE_LINE = text(
    lambda text: is_printable(text) and len(text) <= 255,
    "must be one line of at most 255 printable characters",
)
SOME_LINE = text(
    lambda text: 0 < len(text) <= 255 and is_printable(text) and text == text.strip(),
    "must be one line of 1 to 255 printable characters, with no space at its ends",
)
LINES = text(
    lambda text: is_printable(text, also="\n\r\t") and len(text) <= 1024,
    "must be at most 1024 printable characters",
)
UUID = text(is_uuid, "must be a UUID such as 0b9a217a-5d53-4d7e-9b0c-3c6f1c9d2e11")
URI = matching(r"[a-z][a-z0-9+.-]*://[!-~]*", "must be a libvirt URI such as qemu:///system")
ABSOLUTE = text(
    lambda text: text.startswith("/") and is_printable(text) and ".." not in text.split("/"),
    "must be an absolute path, without ..",
)
SECONDS = between(1, 3600, "seconds")
LOCK_SECONDS = between(0, 86_400, "seconds")
GENERATION = between(0, 2**63 - 1)

# --- domains ----------------------------------------------------------------------------------

NEW_NAME = matching(
    r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}",
    "must be 1 to 64 letters, digits and . _ -, the first a letter or digit",
)
# Somebody else may have made it: libvirt takes nearly all names.
KNOWN_NAME = text(
    lambda text: not re.search(r"[/\r\n\0]", text) and (not text or bool(text.strip())),
    "must be one line without /, as libvirt's names are",
)
TEMPLATE = matching(
    r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?",
    "must be 1 to 63 letters, digits and . _ -, with a letter or digit at both ends",
)
VCPUS = between(1, 512)
MEMORY = between(32, 16_777_216, "MiB")
DISK_SIZE = between(1, 65_536, "GiB")
DISK_TARGET = matching(r"vd[a-z]{1,2}", "must be vda, vdb and so on")
DEVICE_NAME = matching(
    r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}",
    "must be 1 to 64 letters, digits and . _ -, the first a letter or digit",
)
BRIDGE_NAME = matching(
    r"[A-Za-z0-9][A-Za-z0-9._-]{0,14}",
    "must be 1 to 15 letters, digits and . _ -, the first a letter or digit",
)
MAC = matching(
    r"(?!00(?::00){5})[0-9a-fA-F][02468aceACE](?::[0-9a-fA-F]{2}){5}",
    "must be the MAC address of a single card, such as 52:54:00:12:34:56",
)
GUEST_ADDRESS = text(
    is_guest_address,
    "must be an IP address that a guest can have, such as 192.0.2.5, on a bridge 192.0.2.5/24",
)
ADDRESS = text(is_address, "must be an IP address such as 192.0.2.1")
HOSTNAME = matching(
    r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?",
    "must be 1 to 63 letters, digits and -, with a letter or digit at both ends and no domain",
)
SSH_KEY = text(
    lambda text: (
        text.isprintable()
        and re.fullmatch(
            r"(?:ssh-|ecdsa-|sk-)[A-Za-z0-9@.-]+ [A-Za-z0-9+/]+=*(?: .*)?", text.strip()
        )
        is not None
    ),
    "must be an OpenSSH public key in one line",
    shown=False,
)
USER_DATA = text(
    lambda text: (
        text.lstrip().startswith(("#", "MIME-Version:", "Content-Type: multipart/"))
        and len(text) <= 65_536
    ),
    "must begin with #cloud-config, #!, another of cloud-init's headers or that of MIME, "
    "and have at most 65536 characters",
    shown=False,
)
NETWORK_CONFIG = Rule(
    lambda value: not isinstance(value, Mapping) or bool({"version", "network"} & value.keys()),
    "must have a version, as cloud-init's network configurations do",
    shown=False,
)
LABELS = Entries(
    matching(
        r"[A-Za-z0-9](?:[A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?",
        "must be 1 to 63 letters, digits and . _ / -, with a letter or digit at both ends",
    ),
    Rule(_is_label_value, "must be one line of at most 255 printable characters", each=False),
    most=64,
)


def _bridge_is_named(nic: Mapping[str, Any]) -> bool:
    return nic.get("type") != "bridge" or bool(nic.get("bridge"))


def _fits_kind(nic: Mapping[str, Any]) -> bool:
    ip = nic.get("ip")
    return nic.get("type") is None or not ip or ("/" in str(ip)) == (nic["type"] == "bridge")


_NIC: Mapping[str, Checked] = {
    "mac": MAC,
    "ip": GUEST_ADDRESS,
    "gateway": ADDRESS,
    "nameservers": ADDRESS,
}
_FIXED_ADDRESS = Relation(
    "ip",
    _fits_kind,
    "needs a prefix length, as in 192.0.2.5/24, on a bridge, and must have none on a network",
)
_DOMAIN: Mapping[str, Checked] = {
    "uri": URI,
    "uuid": UUID,
    "title": ONE_LINE,
    "description": LINES,
    "vcpus": VCPUS,
    "vcpus_max": between(1, 1024),
    "memory": MEMORY,
    "memory_max": MEMORY,
    "template": TEMPLATE,
    "disk": DISK_SIZE,
    "disks": Table(
        {
            "target": DISK_TARGET,
            "size": DISK_SIZE,
            "template": TEMPLATE,
            "pool": DEVICE_NAME,
        }
    ),
    # The role's word for one interface, and the module's for several.
    "network": Table(
        {**_NIC, "network": DEVICE_NAME, "bridge": BRIDGE_NAME},
        (
            Relation("bridge", _bridge_is_named, "is needed when type is bridge"),
            Relation(
                "bridge",
                lambda nic: nic.get("type") != "network" or not nic.get("bridge"),
                "is allowed only when type is bridge",
            ),
            Relation(
                "network",
                lambda nic: nic.get("type") != "bridge" or not nic.get("network"),
                "is allowed only when type is network",
            ),
            _FIXED_ADDRESS,
        ),
    ),
    "interfaces": Table({**_NIC, "source": DEVICE_NAME}, (_FIXED_ADDRESS,)),
    "labels": LABELS,
    "os": ONE_LINE,
    "hostname": HOSTNAME,
    "ssh_keys": SSH_KEY,
    "user_data": USER_DATA,
    "network_config": NETWORK_CONFIG,
    # The module has these of the role's in mappings.
    "seed": Table(
        {
            "hostname": HOSTNAME,
            "ssh_keys": SSH_KEY,
            "user_data": USER_DATA,
            "network_config": NETWORK_CONFIG,
        }
    ),
    "metadata": Table({"id": ONE_LINE, "template": TEMPLATE, "os": ONE_LINE, "labels": LABELS}),
    "timeout": SECONDS,
    "job": ONE_LINE,
    "generation": GENERATION,
    "lock_timeout": LOCK_SECONDS,
}
_DOMAIN_RELATIONS = (
    at_least("vcpus_max", "vcpus"),
    at_least("memory_max", "memory"),
    distinct("disks", "target"),
    distinct("interfaces", "mac"),
)
DOMAIN = Table({**_DOMAIN, "name": KNOWN_NAME}, _DOMAIN_RELATIONS)
NEW_DOMAIN = Table({**_DOMAIN, "name": NEW_NAME}, _DOMAIN_RELATIONS)

# --- snapshots --------------------------------------------------------------------------------

NEW_SNAPSHOT_NAME = matching(
    r"(?![0-9]+$)[A-Za-z0-9_][A-Za-z0-9._-]{0,63}",
    "must be 1 to 64 letters, digits and . _ -, begin with neither dash nor dot, and be no number",
)
MOMENT = text(is_moment, "must be a time like 2026-12-31T23:59:00Z")
_SNAPSHOT: Mapping[str, Checked] = {
    "uri": URI,
    "uuid": UUID,
    "title": ONE_LINE,
    "description": LINES,
    "expires_at": MOMENT,
    "guard": NEW_SNAPSHOT_NAME,
    "guard_title": ONE_LINE,
    "job": ONE_LINE,
    "generation": GENERATION,
    "lock_timeout": LOCK_SECONDS,
}
# The module calls the domain's name `name` and the snapshot's `snapshot`, the role `domain` and
# `name`. Snapshots that are there already may be somebody else's.
KNOWN_SNAPSHOT_NAME = text(
    lambda name: bool(name) and KNOWN_NAME.allows(name),
    "must be a snapshot's name, one line without /",
)
SNAPSHOT = Table({**_SNAPSHOT, "name": KNOWN_NAME, "snapshot": KNOWN_SNAPSHOT_NAME})
# --- consoles and observations ----------------------------------------------------------------

CONSOLE = Table(
    {
        "uri": URI,
        "name": KNOWN_NAME,
        "uuid": UUID,
        "type": Rule(lambda value: True, ""),
        "password": matching(
            r"[!-~]{6,8}", "must be 6 to 8 printable ASCII characters, no space", shown=False
        ),
        "seconds": between(1, 86_400, "seconds"),
        "job": ONE_LINE,
    },
    (
        Relation(
            "password",
            lambda values: values.get("type", "vnc") != "vnc" or given(values, "password"),
            "is needed unless {type} is serial",
        ),
    ),
)
HOST_INFO = Table({"uri": URI, "timeout": between(0.5, 600, "seconds"), "templates_path": ABSOLUTE})
# --- images -----------------------------------------------------------------------------------

HTTP_URL = matching(r"https?://[!-~]+", "must be an http or https URL")
CHECKSUM = matching(
    r"(?:sha256:)?[0-9a-fA-F]{64}|(?:sha512:)?[0-9a-fA-F]{128}|https?://[!-~]+",
    "must be sha256:HEX, sha512:HEX, or the URL of a file with checksums",
)
MIRROR = matching(
    r"|https?://[!-~]+|/(?!(?:.*/)?\.\.(?:/|$))[^\x00-\x1f\x7f]*",
    "must be an absolute path on the host or an http or https URL",
)
IMAGE_MODULE = Table(
    {
        "name": TEMPLATE,
        "url": HTTP_URL,
        "path": ABSOLUTE,
        "checksum": CHECKSUM,
        "mirror": MIRROR,
        "os": SOME_LINE,
        "templates_path": ABSOLUTE,
        "max_virtual_size": DISK_SIZE,
        "timeout": between(1, 86_400, "seconds"),
    }
)
