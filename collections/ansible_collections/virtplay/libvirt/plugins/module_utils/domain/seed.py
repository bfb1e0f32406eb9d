# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Builds the NoCloud seed of a guest (files and ISO image); pure, no host I/O.

All generated files are JSON, which is valid YAML: no text of a user can become a key.
"""

from __future__ import annotations

import io
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from ..failure import Failure
from ..values import SSH_KEY, clean_key

HOSTNAME_LENGTH = 63
VOLUME_LABEL = "cidata"
_ROUTE_METRIC = 100  # of netplan and NetworkManager for the routes of DHCP
# In JSON only strings contain characters beyond ASCII. YAML requires escapes for unprintable ones,
# but reads an escaped pair of surrogates as two characters: so escape the BMP and nothing above.
# Compiled on use: that takes 3 ms, which only a creation needs.
_ESCAPE = "[\x7f-\ud7ff\ue000-\uffff]"


def clean_hostname(text: str, fallback: str = "guest") -> str:
    """Return any text as one host name label: a-z, 0-9 and inner hyphens, 1 to 63 characters."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    label = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:HOSTNAME_LENGTH].strip("-")
    return label or fallback


def build_files(
    seed: Mapping[str, Any],
    *,
    instance_id: str,
    title: str | None,
    name: str,
    interfaces: Sequence[Mapping[str, Any]] = (),
) -> dict[str, bytes]:
    """Return the files of a seed by name; raises Failure for an invalid SSH key.

    seed: hostname, ssh_keys, user_data (unchanged), network_config. interfaces: mappings with mac
    and, for static addresses, cidr, gateway and nameservers.
    """
    hostname = clean_hostname(seed.get("hostname") or title or name, fallback=clean_hostname(name))
    keys = [_checked_key(key) for key in seed.get("ssh_keys") or []]
    # SSH keys and host name go into the meta-data, where they work with any user-data.
    metadata: dict[str, Any] = {
        "instance-id": instance_id,
        "local-hostname": hostname,
        "public-keys": keys,
    }
    user_data = seed.get("user_data")
    files = {
        "meta-data": _json(metadata),
        "user-data": b"#cloud-config\n{}\n" if user_data is None else _encode(user_data),
        "vendor-data": b"#cloud-config\n{}\n",
    }
    network = seed.get("network_config") or build_network_config(interfaces)
    if network:
        files["network-config"] = _json(network)
    return files


def build_network_config(interfaces: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return a network-config (version 2); None if cloud-init's default, DHCP on one NIC, fits.

    A boot waits for the first interface only, whose default route has precedence.
    """
    if len(interfaces) < 2 and not any(nic.get("cidr") for nic in interfaces):
        return None
    ethernets = {}
    for number, nic in enumerate(interfaces):
        entry: dict[str, Any] = {"match": {"macaddress": nic["mac"]}}
        metric = _ROUTE_METRIC * (number + 1)
        if nic.get("cidr"):
            entry["addresses"] = [nic["cidr"]]
            gateway = nic.get("gateway")
            if gateway and number:
                to = "::/0" if ":" in gateway else "0.0.0.0/0"
                entry["routes"] = [{"to": to, "via": gateway, "metric": metric}]
            elif gateway:
                entry["gateway6" if ":" in gateway else "gateway4"] = gateway
            if nic.get("nameservers"):
                entry["nameservers"] = {"addresses": list(nic["nameservers"])}
        else:
            entry["dhcp4"] = True
            if number:
                # Not use-routes: cloud-init knows it only with netplan, and the first network may
                # have no router.
                entry["dhcp4-overrides"] = {"route-metric": metric}
        if number:
            entry["optional"] = True  # its network may have no DHCP server
        ethernets[f"id{number}"] = entry
    return {"version": 2, "ethernets": ethernets}


def build_iso(files: Mapping[str, bytes]) -> bytes:
    """Return an ISO 9660 image (Joliet and Rock Ridge) labelled cidata with these files."""
    try:
        # Only a creation needs it: importing it here keeps every other action fast.
        import pycdlib  # noqa: PLC0415
    except ImportError as error:
        raise Failure(
            "cannot create the seed: pycdlib is missing; install python3-pycdlib on the host, or"
            " pycdlib with pip where the distribution has no package",
            "LIBVIRT_ERROR",
        ) from error
    image = pycdlib.PyCdlib()
    image.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident=VOLUME_LABEL)
    for number, (name, content) in enumerate(sorted(files.items())):
        image.add_fp(
            io.BytesIO(content),
            len(content),
            f"/FILE{number}.;1",
            rr_name=name,
            joliet_path=f"/{name}",
        )
    buffer = io.BytesIO()
    image.write_fp(buffer)
    image.close()
    return buffer.getvalue()


def _checked_key(key: str) -> str:
    if not SSH_KEY.allows(key):
        raise Failure(f"cannot use an SSH key: it {SSH_KEY.reason(key)}", "VALIDATION_ERROR")
    return clean_key(key)


def _json(value: object) -> bytes:
    text = json.dumps(value, ensure_ascii=False, indent=1)
    return _encode(re.sub(_ESCAPE, lambda found: f"\\u{ord(found.group()):04x}", text) + "\n")


def _encode(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise Failure(
            "cannot create the seed: a text in it is not valid Unicode", "VALIDATION_ERROR"
        ) from error
