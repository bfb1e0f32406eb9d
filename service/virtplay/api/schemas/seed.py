"""Schemas: what cloud-init takes: SSH keys and user-data.

The rules are those of the collection (module_utils/values.py), and a test compares both; only YAML
is read here alone.
"""

import re

import yaml

USER_DATA_LIMIT = 65_536
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
"""How user-data may begin, in any case; a header comes before those that it begins with."""
MIME_HEADERS = ("mime-version:", "content-type: multipart/")
MIME_REACH = 4096
"""cloud-init looks for the header MIME-Version in so many bytes."""
KEY_TYPES = (
    r"(?:ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(?:256|384|521)"
    r"|sk-(?:ssh-ed25519|ecdsa-sha2-nistp256)@openssh\.com)"
)
YAML_DEPTH = 64


def check_key(text: str) -> str:
    """Return an SSH public key without white space at its ends; raise ValueError with the fault.

    No message repeats what may be a secret.
    """
    key = text.strip(" \t\r\n")
    kind, _space, rest = key.partition(" ")
    if "PRIVATE KEY" in key:
        raise ValueError("is a private key: use the public one, of the file that ends in .pub")
    if key.startswith("---- BEGIN SSH2"):
        raise ValueError("is in the format of RFC 4716: convert it with ssh-keygen -i -f FILE")
    if "\n" in key or "\r" in key:
        raise ValueError("has several lines: use an entry for each key")
    if "-cert-v01@" in kind:
        raise ValueError("is a certificate: use the public key that it certifies")
    if kind == "ssh-dss":
        raise ValueError("is a DSA key, which OpenSSH no longer accepts")
    if not re.fullmatch(KEY_TYPES, kind):
        if re.search(rf"\s{KEY_TYPES}\s+AAAA", key):
            raise ValueError("begins with options: use the key alone")
        raise ValueError("is no OpenSSH public key, such as ssh-ed25519 AAAA… me@example.org")
    # YAML treats U+0085 and U+2028 as line ends, so a comment must be printable.
    if not re.fullmatch(r" *[A-Za-z0-9+/]+={0,3}(?: .*)?", rest) or not key.isprintable():
        raise ValueError("is damaged: after its type come base64 and at most a printable comment")
    return key


def check_user_data(text: str) -> None:
    """Raise ValueError unless cloud-init takes the user-data."""
    begin = text.lstrip()[:64].lower()
    header = next((header for header in HEADERS if begin.startswith(header)), None)
    if text.startswith("\ufeff"):
        raise ValueError("begins with a byte order mark, with which cloud-init ignores it")
    if text.lower().startswith(MIME_HEADERS):
        if b"mime-version:" not in text.encode()[:MIME_REACH].lower():
            raise ValueError(
                f"lacks the header MIME-Version in its first {MIME_REACH} bytes, without which"
                " cloud-init ignores it"
            )
    elif header is None:
        raise ValueError(
            f"must begin with one of {', '.join(HEADERS)}, or with the headers of a MIME message"
        )
    elif header == "#!" and text.lstrip().partition("\n")[0].endswith("\r"):
        raise ValueError("has lines that end in CR LF: no guest finds such a program")
    elif header == "#cloud-config":
        try:
            check_cloud_config(text)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            place = f" (line {mark.line + 1})" if mark else ""
            raise ValueError(f"is not YAML{place}") from None


def check_cloud_config(text: str) -> None:
    """Raise ValueError unless the text is one YAML mapping, and yaml.YAMLError if it is no YAML.

    Only events are read and no object is built, as a few bytes of aliases could become gigabytes.
    The depth is limited, as libyaml's time grows with its square.
    """
    depth = documents = 0
    top: yaml.Event | None = None
    anchors: set[str] = set()
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
        elif isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > YAML_DEPTH:
                raise ValueError(f"is nested deeper than {YAML_DEPTH} levels")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if isinstance(event, yaml.NodeEvent):
            top = top or event
            if isinstance(event, yaml.AliasEvent):
                if event.anchor not in anchors:
                    raise ValueError(f"is not YAML: alias {event.anchor} has no anchor")
            elif event.anchor:
                anchors.add(event.anchor)
    if documents != 1 or not isinstance(top, yaml.MappingStartEvent):
        raise ValueError("must be one YAML mapping after #cloud-config")
