# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Defines which values arguments may have beyond their type; pure, standard library only.

The action check_arguments applies them on the controller before any host is touched, and each
module applies its own again. Bounds and patterns are data: `VCPUS.bounds`, `MAC.pattern`.
"""

from __future__ import annotations

import datetime
import ipaddress
import re
import uuid as uuids
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Union

LONGEST_SHOWN = 60
MOST_LISTED = 10
Bounds = tuple[float, float]


@dataclass(frozen=True)
class Rule:
    """The rule of one value, or with `each` of every element of a list."""

    allows: Callable[[Any], bool]
    sentence: str
    shown: bool = True  # whether a message may repeat the value
    each: bool = True
    bounds: Bounds | None = None  # of a number, or of the length of a text in characters
    pattern: str = ""  # a regular expression that must match the whole text
    explain: Callable[[Any], str] | None = None  # the sentence for a value that is refused

    def find_faults(self, value: Any, where: str, owner: str = "") -> list[str]:
        """Return a message for a value that is refused, or for each such element of a list."""
        if self.each and isinstance(value, list):
            places = ((f"{where}[{number}]", element) for number, element in enumerate(value))
            return [fault for at, one in places for fault in self.find_faults(one, at, owner)]
        if self.allows(value):
            return []
        shown = f" {shorten(value)}" if self.shown else ""
        return [f"cannot use {where}{shown}{owner}: it {self.reason(value)}"]

    def reason(self, value: Any) -> str:
        """Return what is wrong with a value that is refused."""
        return self.explain(value) if self.explain else self.sentence


@dataclass(frozen=True)
class Relation:
    """A rule for the value of a key that depends on other keys of its mapping.

    {0} in the sentence stands for the prefix of the other keys' names.
    """

    key: str
    holds: Callable[[Mapping[str, Any]], bool]
    sentence: str

    def describe_fault(self, values: Mapping[str, Any], start: str, owner: str) -> str:
        """Return the message for a relation that does not hold; start precedes the key."""
        # In a nested mapping the other keys are close enough to appear by their bare names.
        sentence = self.sentence.format("" if start.endswith(".") else start)
        where = f"{start}{self.key}{owner}"
        return (
            f"cannot use {where}: it {sentence}" if values.get(self.key) else f"{where} {sentence}"
        )


@dataclass(frozen=True)
class Table:
    """The rules of a mapping's keys, or of each mapping in a list.

    noun is the word for the mappings of a list in messages: "VM". unique is a key whose values must
    all differ.
    """

    keys: Mapping[str, Checked]
    relations: tuple[Relation, ...] = ()
    noun: str = ""
    unique: str = ""
    closed: bool = False  # whether keys without a rule are refused

    def find_faults(
        self, value: Any, where: str = "", owner: str = "", *, prefix: str = ""
    ) -> list[str]:
        """Return a message for each value that is refused; prefix is that of a role's variables."""
        faults: list[str] = []
        if isinstance(value, list):
            for number, element in enumerate(value):
                of = owner + name_owner(self.noun, element)
                faults += self.find_faults(element, f"{where}[{number}]", of)
            if self.unique and not faults:
                found = [str(one[self.unique]).lower() for one in value if one.get(self.unique)]
                if len(found) > len(set(found)):
                    faults.append(
                        f"cannot use {where}{owner}: it must not have a {self.unique} twice"
                    )
        if not isinstance(value, Mapping):
            return faults
        start = prefix or (f"{where}." if where else "")
        if self.closed:
            faults += unknown_keys(value, self.keys, start, owner)
        wrong = set()
        for key, rule in self.keys.items():
            given = value.get(key) is not None
            if given and (found := rule.find_faults(value[key], f"{start}{key}", owner)):
                faults += found
                wrong.add(key)
        return faults + [
            relation.describe_fault(value, start, owner)
            for relation in self.relations
            if relation.key not in wrong and not relation.holds(value)
        ]


@dataclass(frozen=True)
class Entries:
    """The rules of a mapping whose keys are the user's: of each key, and of each value."""

    key: Rule
    value: Checked
    most: int = 1000
    several: bool = False  # whether each value is a list, of which each element has the rules

    def find_faults(self, value: Any, where: str, owner: str = "") -> list[str]:
        """Return a message for each key and each value that is refused."""
        faults = []
        if len(value) > self.most:
            faults.append(f"cannot use {where}{owner}: it must have {self.most} entries at most")
        for key, entry in value.items():
            if not self.key.allows(key):
                faults.append(
                    f"cannot use key {shorten(key)} of {where}{owner}: it {self.key.sentence}"
                )
            if self.several and not isinstance(entry, list):
                faults.append(f"cannot use {where}.{key}{owner}: it must be a list")
            elif isinstance(self.value, Table) and not _are_mappings(entry, self.several):
                what = "a list of mappings" if self.several else "a mapping"
                faults.append(f"cannot use {where}.{key}{owner}: it must be {what}")
            else:
                faults += self.value.find_faults(entry, f"{where}.{key}", owner)
        return faults


Checked = Union[Rule, Table, Entries]


def _are_mappings(entry: Any, several: bool) -> bool:
    return all(isinstance(one, Mapping) for one in (entry if several else [entry]))


def name_owner(noun: str, element: Any) -> str:
    """Return " of VM web-1" for an element of a list of VMs, "" for one without a name."""
    name = element.get("name") if isinstance(element, Mapping) else None
    return f" of {noun} {name}" if noun and isinstance(name, str) and name.isprintable() else ""


# The words that API, roles, modules and other tools have for one thing.
SYNONYMS = (
    ("name", "domain", "vm", "vm_name"),
    ("title", "display_name"),
    ("vcpus", "cpu", "cpus", "cores"),
    ("memory", "ram", "mem"),
    ("disk", "disk_size", "size"),
    ("network", "nic", "bridge"),
    ("template", "image", "os_variant"),
    ("labels", "tags"),
    ("autostart", "autoStart", "auto_start", "start_on_boot"),
    ("ssh_keys", "sshKeys", "ssh_key", "sshKey"),
    ("user_data", "userData", "cloud_init"),
)


def suggest(name: str, known: Iterable[str], cutoff: float = 0.6, prefix: str = "") -> str:
    """Return ", did you mean memory?" for a name like a known one or a word for the same, else "".

    prefix is one that the known names have in common, as a role's variables do.
    """
    # Imported only for a fault: it would slow down every power action.
    import difflib  # noqa: PLC0415

    found = list(known)
    word = name[len(prefix) :] if name.startswith(prefix) else name
    same = [prefix + other for words in SYNONYMS if word in words for other in words]
    near = [other for other in same if other in found and other != name]
    near += difflib.get_close_matches(name, found, n=1, cutoff=cutoff)
    return f", did you mean {near[0]}?" if near else ""


def unknown_keys(
    values: Iterable[Any],
    known: Iterable[str],
    start: str = "",
    owner: str = "",
    noun: str = "key",
) -> list[str]:
    """Return a message for each unknown key, with the most similar known one."""
    names = sorted(known)
    return [
        f"cannot use {start}{key}{owner}: there is no such {noun}"
        + (suggest(key, names) or f", there are {', '.join(names)}")
        for key in sorted(str(key) for key in values if key not in names)
    ]


def shorten(value: Any) -> str:
    """Return a value as text for messages, of limited length."""
    text = repr(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 1]}…"


def shorten_list(names: Sequence[str]) -> str:
    """Return the first MOST_LISTED of some names, and the number of the others."""
    more = len(names) - MOST_LISTED
    return ", ".join(names[:MOST_LISTED]) + (f" and {more} more" if more > 0 else "")


# --- kinds of rules ---------------------------------------------------------------------------
# They allow values of other types: the type is checked elsewhere.


def between(low: float, high: float, unit: str = "") -> Rule:
    """Return the rule of a number within bounds, both allowed."""

    def allows(value: Any) -> bool:
        wrong_type = not isinstance(value, (int, float)) or isinstance(value, bool)
        return wrong_type or low <= value <= high

    return Rule(allows, f"must be {low} to {high} {unit}".rstrip(), bounds=(low, high))


def text(
    sentence: str,
    check: Callable[[str], object] | None = None,
    *,
    bounds: Bounds | None = None,
    pattern: str = "",
    shown: bool = True,
    explain: Callable[[str], str] | None = None,
) -> Rule:
    """Return the rule of a text; check returns false or raises ValueError for an invalid one."""

    def allows(value: Any) -> bool:
        if not isinstance(value, str):
            return True
        if bounds and not bounds[0] <= len(value) <= bounds[1]:
            return False
        # Compiled on use: a power action needs only two of all these patterns.
        if pattern and not re.fullmatch(pattern, value):
            return False
        try:
            return check is None or bool(check(value))
        except ValueError:
            return False

    return Rule(allows, sentence, shown, bounds=bounds, pattern=pattern, explain=explain)


def explained(sentence: str, explain: Callable[[str], str], bounds: Bounds | None = None) -> Rule:
    """Return the rule of a text that is secret; explain returns its fault, "" for none."""

    def reason(value: str) -> str:
        return explain(value) or sentence

    return text(
        sentence, lambda value: not explain(value), bounds=bounds, shown=False, explain=reason
    )


def starting_alphanumeric(longest: int) -> Rule:
    """Return the rule of a name that begins with a letter or digit."""
    return text(
        f"must be 1 to {longest} letters, digits and . _ -, the first a letter or digit",
        pattern=f"[A-Za-z0-9][A-Za-z0-9._-]{{0,{longest - 1}}}",
    )


def enclosed_alphanumeric(marks: str, note: str = "") -> Rule:
    """Return the rule of a name that begins and ends with a letter or digit."""
    return text(
        f"must be 1 to 63 letters, digits and {' '.join(marks)}, with a letter or digit at both "
        f"ends{note}",
        pattern=f"[A-Za-z0-9](?:[A-Za-z0-9{marks}]{{0,61}}[A-Za-z0-9])?",
    )


def required(key: str, other: str, value: str = "") -> Relation:
    """Return the relation of a key that is required if another one is set, or has a value."""
    return Relation(
        key,
        lambda values: bool(
            values.get(key) or not (values.get(other) == value if value else values.get(other))
        ),
        f"is required when {{0}}{other} is {value}" if value else f"is required with {{0}}{other}",
    )


def allowed(key: str, other: str, value: str) -> Relation:
    """Return the relation of a key that is allowed only if another one has a value."""
    return Relation(
        key,
        lambda values: not values.get(key) or values.get(other) in (None, value),
        f"is allowed only when {{0}}{other} is {value}",
    )


def at_least(key: str, other: str) -> Relation:
    """Return the relation of a number that must not be below another."""

    def holds(values: Mapping[str, Any]) -> bool:
        value, least = values.get(key), values.get(other)
        return not isinstance(value, int) or not isinstance(least, int) or value >= least

    return Relation(key, holds, f"must not be below {{0}}{other}")


# --- texts ------------------------------------------------------------------------------------

_JOINERS = "\u200c\u200d"  # inside emoji


def is_printable(text: str, also: str = "") -> bool:
    """Whether a text has no control characters and no invisible marks, except those in also."""
    return all(c.isprintable() or c in _JOINERS or c in also for c in text)


def _is_guest_address(text: str) -> bool:
    ip = ipaddress.ip_interface(text).ip
    nowhere = ip.is_unspecified or ip.is_loopback or ip.is_link_local or ip.is_multicast
    return not nowhere and not (ip.version == 4 and ip.is_reserved)


def _is_label_value(value: Any) -> bool:
    # Numbers and truth values are stored as text; null and nested values cannot be.
    text = str(value) if isinstance(value, (str, int, float)) else "\0"
    return is_printable(text) and len(text) <= 255


ONE_LINE = text(
    "must be one line of at most 255 printable characters", is_printable, bounds=(0, 255)
)
SOME_LINE = text(
    "must be one line of 1 to 255 printable characters, with no space at its ends",
    lambda text: is_printable(text) and text == text.strip(),
    bounds=(1, 255),
)
LINES = text(
    "must be at most 1024 printable characters, line feeds and tabs, and not blank",
    # XML readers turn a carriage return into a line feed, and drop blank text.
    lambda text: is_printable(text, also="\n\t") and (not text or text.strip()),
    bounds=(0, 1024),
)
UUID = text("must be a UUID such as 0b9a217a-5d53-4d7e-9b0c-3c6f1c9d2e11", uuids.UUID)
DEFAULT_URI = "qemu:///system"
# Where distributions have the Python that their packages are for.
HOST_PYTHONS = ("/usr/bin/python3", "/usr/libexec/platform-python")
URI = text(f"must be a libvirt URI such as {DEFAULT_URI}", pattern=r"[a-z][a-z0-9+.-]*://[!-~]*")
ABSOLUTE = text(
    "must be an absolute path, without ..",
    lambda text: text.startswith("/") and is_printable(text) and ".." not in text.split("/"),
)
ADDRESS = text("must be an IP address such as 192.0.2.1", ipaddress.ip_address)
MOMENT = text(
    "must be a time like 2026-12-31T23:59:00Z",
    # Python before 3.11 reads neither Z nor every number of digits in a fraction.
    lambda text: datetime.datetime.fromisoformat(
        re.sub(r"\.[0-9]+", "", text.upper()).replace("Z", "+00:00")
    ),
    pattern=r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9:]{8}(?:\.[0-9]+)?(?:[Zz]|[+-][0-9]{2}:[0-9]{2})",
)
SECONDS = between(1, 3600, "seconds")
LONG_SECONDS = between(1, 86_400, "seconds")
# The domain may have been created by another tool, and libvirt allows nearly all names.
KNOWN_NAME = text(
    "must be one line without /, as libvirt's names are",
    lambda text: not text or text.strip(),
    pattern=r"[^/\r\n\0]*",
)
# Shared by most modules and roles; a table may have rules for keys that are never set.
COMMON: Mapping[str, Checked] = {
    "uri": URI,
    "id": ONE_LINE,
    "uuid": UUID,
    "name": KNOWN_NAME,
    "title": ONE_LINE,
    "description": LINES,
    "timeout": SECONDS,
    "templates_path": ABSOLUTE,
    "job": ONE_LINE,
    "generation": between(0, 2**63 - 1),
    "lock_timeout": between(0, 86_400, "seconds"),
}

# --- domains ----------------------------------------------------------------------------------

NAME_LENGTH = 64
NEW_NAME = DEVICE_NAME = starting_alphanumeric(NAME_LENGTH)
BRIDGE_NAME = starting_alphanumeric(15)
TEMPLATE = enclosed_alphanumeric("._-")
HOSTNAME = enclosed_alphanumeric("-", " and no domain")
VCPUS = between(1, 512)
MEMORY = between(32, 16_777_216, "MiB")
DISK_SIZE = between(1, 65_536, "GiB")
NEW_DISK_TARGET = text("must be vda, vdb and so on", pattern="vd[a-z]{1,2}")
DISK_TARGET = text("must be a target as vda or sda", pattern="(vd|sd|hd|xvd|ubd)[a-z]{1,2}")
MAC = text(
    "must be the MAC address of a single interface, such as 52:54:00:12:34:56",
    pattern="(?!00(?::00){5})[0-9a-fA-F][02468aceACE](?::[0-9a-fA-F]{2}){5}",
)
GUEST_ADDRESS = text(
    "must be an IP address that a guest can have, such as 192.0.2.5, on a bridge 192.0.2.5/24",
    _is_guest_address,
)
KEY_TYPES = (
    r"(?:ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(?:256|384|521)"
    r"|sk-(?:ssh-ed25519|ecdsa-sha2-nistp256)@openssh\.com)"
)
# How cloud-init's user-data may begin, in any case; a header comes before those it begins with.
HEADERS = (
    "#cloud-config-archive",
    "#cloud-config-jsonp",
    "#cloud-config",
    "#cloud-boothook",
    "#include-once",
    "#include",
    "#part-handler",
    "## template: jinja",
    "#!",
)
_MIME_HEADERS = ("mime-version:", "content-type: multipart/")
_MIME_REACH = 4096  # cloud-init looks for the header MIME-Version in so many bytes


def clean_key(text: str) -> str:
    """Return an SSH key without white space at its ends, as a key file has it."""
    return text.strip(" \t\r\n")


def _key_fault(text: str) -> str:
    key = clean_key(text)
    kind, _space, rest = key.partition(" ")
    if "PRIVATE KEY" in key:
        return "is a private key: use the public one, of the file that ends in .pub"
    if key.startswith("---- BEGIN SSH2"):
        return "is in the format of RFC 4716: convert it with ssh-keygen -i -f FILE"
    if "\n" in key or "\r" in key:
        return "has several lines: use an entry for each key"
    if "-cert-v01@" in kind:
        return "is a certificate: use the public key that it certifies"
    if kind == "ssh-dss":
        return "is a DSA key, which OpenSSH no longer accepts"
    if not re.fullmatch(KEY_TYPES, kind):
        if re.search(rf"\s{KEY_TYPES}\s+AAAA", key):
            return "begins with options: use the key alone"
        return "is no OpenSSH public key, such as ssh-ed25519 AAAA… me@example.org"
    # YAML treats U+0085 and U+2028 as line ends, so a comment must be printable.
    if not re.fullmatch(r" *[A-Za-z0-9+/]+={0,3}(?: .*)?", rest) or not key.isprintable():
        return "is damaged: after its type come base64 and at most a printable comment"
    return ""


def _user_data_fault(text: str) -> str:
    begin = text.lstrip()[:64].lower()
    header = next((header for header in HEADERS if begin.startswith(header)), None)
    if text.startswith("\ufeff"):
        return "begins with a byte order mark, with which cloud-init ignores it"
    if text.lower().startswith(_MIME_HEADERS):
        if b"mime-version:" in text.encode(errors="replace")[:_MIME_REACH].lower():
            return ""
        return (
            f"lacks the header MIME-Version in its first {_MIME_REACH} bytes, without which "
            "cloud-init ignores it"
        )
    if header is None:
        return f"must begin with one of {', '.join(HEADERS)}, or with the headers of a MIME message"
    if header == "#!" and text.lstrip().partition("\n")[0].endswith("\r"):
        return "has lines that end in CR LF: no guest finds such a program"
    return ""


SSH_KEY = explained("must be an OpenSSH public key in one line", _key_fault)
USER_DATA = explained("must have 1 to 65536 characters", _user_data_fault, (1, 65_536))
LABELS = Entries(
    enclosed_alphanumeric("._/-"),
    Rule(
        _is_label_value,
        "must be one line of at most 255 printable characters",
        each=False,
        bounds=(0, 255),
    ),
    most=64,
)
SEED: Mapping[str, Checked] = {
    "hostname": HOSTNAME,
    "ssh_keys": SSH_KEY,
    "user_data": USER_DATA,
    "network_config": Rule(
        lambda value: not isinstance(value, Mapping) or bool({"version", "network"} & value.keys()),
        "must have a version, as cloud-init's network configurations do",
        shown=False,
    ),
}
METADATA: Mapping[str, Checked] = {"template": TEMPLATE, "os": ONE_LINE, "labels": LABELS}
CARD = {"mac": MAC, "ip": GUEST_ADDRESS, "gateway": ADDRESS, "nameservers": ADDRESS}


def _fits_its_type(card: Mapping[str, Any]) -> bool:
    kind, address = card.get("type"), str(card.get("ip") or "")
    if not address or kind not in ("network", "bridge"):
        return True
    return "/" in address if kind == "bridge" else "/" not in address and ":" not in address


FIXED_ADDRESS = Relation(
    "ip",
    _fits_its_type,
    "needs a prefix length, as in 192.0.2.5/24, on a bridge, and on a network must have none and "
    "be IPv4",
)
# Measured with the firmware of Debian 12, 13 and forky and the smallest guest, micro: 160 MiB are
# enough, with 144 MiB the firmware or its boot loader runs out of memory.
UEFI_MEMORY = 160


def _fits_firmware(vm: Mapping[str, Any]) -> bool:
    # A guest boots with memory_max, and gives the rest back once it has a balloon driver.
    memory = vm.get("memory_max") or vm.get("memory")
    return vm.get("firmware") != "efi" or not isinstance(memory, int) or memory >= UEFI_MEMORY


_FIRMWARE_FITS = Relation(
    "memory",
    _fits_firmware,
    f"must be at least {UEFI_MEMORY} MiB with {{0}}firmware efi, which does not boot with less",
)
NETWORK = Table(
    {**CARD, "network": DEVICE_NAME, "bridge": BRIDGE_NAME},
    (
        required("bridge", "type", "bridge"),
        allowed("bridge", "type", "bridge"),
        allowed("network", "type", "network"),
        FIXED_ADDRESS,
    ),
)
DOMAIN = Table(
    {
        **COMMON,
        "new_name": NEW_NAME,
        "template": TEMPLATE,
        "disk": DISK_SIZE,
        "network": NETWORK,
        "labels": LABELS,
        "vcpus": VCPUS,
        "vcpus_max": between(1, 1024),
        "memory": MEMORY,
        "memory_max": MEMORY,
        "disks": Table(
            {"target": DISK_TARGET, "size": DISK_SIZE, "template": TEMPLATE, "pool": DEVICE_NAME},
            unique="target",
        ),
        "interfaces": Table({**CARD, "source": DEVICE_NAME}, (FIXED_ADDRESS,), unique="mac"),
        "seed": Table(SEED),
        "metadata": Table({"id": ONE_LINE, **METADATA}),
    },
    (at_least("vcpus_max", "vcpus"), at_least("memory_max", "memory"), _FIRMWARE_FITS),
    noun="VM",
)

POWER_STATES = ("running", "stopped", "restarted", "paused", "resumed")
POWER_DOMAIN: Mapping[str, Checked] = {
    **{key: COMMON[key] for key in ("uuid", "name", "timeout", "job", "generation")},
    "state": text(f"must be one of {', '.join(POWER_STATES)}", pattern="|".join(POWER_STATES)),
    "force": Rule(lambda value: isinstance(value, bool), "must be true or false"),
}
POWER: Table = Table(
    {
        **COMMON,
        "domains": Table(POWER_DOMAIN, noun="VM"),
        "at_once": between(1, 64),
        "time_limit": LONG_SECONDS,
    }
)

# --- snapshots, consoles, observations, images ------------------------------------------------

NEW_SNAPSHOT_NAME = text(
    "must be 1 to 64 letters, digits and . _ -, begin with neither dash nor dot, and be no number",
    pattern="(?![0-9]+$)[A-Za-z0-9_][A-Za-z0-9._-]{0,63}",
)
KNOWN_SNAPSHOT_NAME = text(
    "must be a snapshot's name, one line without /",
    lambda name: name.strip(),
    pattern=KNOWN_NAME.pattern,
)
# Here `name` is the domain's; in the role it is the snapshot's, and `domain` the domain's.
SNAPSHOT = Table(
    {
        **COMMON,
        "snapshot": KNOWN_SNAPSHOT_NAME,
        "expires_at": MOMENT,
        "guard": NEW_SNAPSHOT_NAME,
        "guard_title": ONE_LINE,
    }
)
CONSOLE = Table(
    {
        **COMMON,
        "password": text(
            "must be 6 to 8 printable ASCII characters, no space", pattern="[!-~]{6,8}", shown=False
        ),
        "seconds": LONG_SECONDS,
    },
    (required("password", "type", "vnc"),),
)
HOST_INFO = Table(
    {
        **COMMON,
        "timeout": between(0.5, 600, "seconds"),
        "startup_timeout": between(0, 86_400, "seconds"),
        "wait": between(0, 3600, "seconds"),
        "awaited": UUID,
    }
)
HTTP_URL = text("must be an http or https URL", pattern="https?://[!-~]+")
SOURCE: Mapping[str, Checked] = {
    "url": HTTP_URL,
    "path": ABSOLUTE,
    "checksum": text(
        "must be sha256:HEX, sha512:HEX, or the URL of a file with checksums",
        pattern="(?:sha256:)?[0-9a-fA-F]{64}|(?:sha512:)?[0-9a-fA-F]{128}|https?://[!-~]+",
    ),
    "mirror": text(
        "must be an absolute path on the host or an http or https URL",
        pattern=r"|https?://[!-~]+|/(?!(?:.*/)?\.\.(?:/|$))[^\x00-\x1f\x7f]*",
    ),
    "os": SOME_LINE,
}
LOCAL_CHECKSUM = Relation(
    "checksum",
    lambda image: not image.get("path") or "://" not in str(image.get("checksum")),
    "must be sha256:HEX or sha512:HEX with path",
)
IMAGE = Table(
    {
        **COMMON,
        **SOURCE,
        "name": TEMPLATE,
        "max_virtual_size": DISK_SIZE,
        "timeout": LONG_SECONDS,
    },
    (LOCAL_CHECKSUM,),
)
