#!/usr/bin/python
# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Install one disk image on a host as a template (module `image`)."""

from __future__ import annotations

DOCUMENTATION = r"""
module: image
short_description: Install a disk image on a hypervisor as a template
version_added: 0.1.0
description:
  - Downloads or copies an image, verifies its checksum, converts a raw image to qcow2, and stores
    it under a name derived from its content, with a manifest beside it.
  - An image in the templates directory is never changed, because the disks of VMs are overlays on
    it. A new version of a template is a new file and a new manifest.
  - If the manifest shows that the template was created with the same options, nothing is
    downloaded and the image is not read. Set O(force) to get a newer file from the same URL.
  - Refuses images with a backing file or an external data file, encrypted images, and all formats
    other than qcow2 and raw.
options:
  name:
    description: Name of the template.
    type: str
    required: true
  url:
    description:
      - URL of the image. Only http and https are allowed, also after redirects. A redirect must not
        lead to a loopback or link-local address.
    type: str
  path:
    description:
      - Absolute path of an image file on the host. It must not be a symbolic link.
    type: path
  checksum:
    description:
      - C(sha256:HEX), C(sha512:HEX), or the URL of a checksum file in the format of C(sha256sum).
      - Required if O(url) is set.
    type: str
  mirror:
    description:
      - Directory on the host, or URL prefix, that replaces every O(url) and checksum URL. The
        module searches there for C(HOST/PATH), then C(PATH), then the file name alone.
    type: str
  os:
    description: Operating system in the image, by default O(name).
    type: str
  format:
    description: Format of the image. V(auto) treats a file as raw only if it has a boot sector.
    type: str
    choices: [auto, qcow2, raw]
    default: auto
  templates_path:
    description: Directory of the templates.
    type: path
    default: /var/lib/libvirt/templates
  max_virtual_size:
    description: Largest allowed virtual disk size of an image, in GiB.
    type: int
    default: 64
  timeout:
    description: Time limit in seconds for the whole task, including the wait for another run.
    type: int
    default: 1800
  force:
    description: Fetch the image even if the template was created with the same options.
    type: bool
    default: false
requirements:
  - python >= 3.9
  - qemu-img
attributes:
  check_mode:
    description: Returns the predicted changes, without network access and without writing.
    support: full
  diff_mode:
    description: Shows the manifest before and after. In check mode, values that are known only
      after the download are left out.
    support: full
author:
  - Virtplay contributors (@virtplay)
"""

EXAMPLES = r"""
- name: Install a cloud image as a template
  virtplay.libvirt.image:
    name: debian12
    os: debian12
    url: https://cloud.debian.org/images/cloud/bookworm/latest/debian-12-genericcloud-amd64.qcow2
    checksum: https://cloud.debian.org/images/cloud/bookworm/latest/SHA512SUMS

- name: Install the same image from a directory on a host without internet access
  virtplay.libvirt.image:
    name: debian12
    os: debian12
    url: https://cloud.debian.org/images/cloud/bookworm/latest/debian-12-genericcloud-amd64.qcow2
    checksum: https://cloud.debian.org/images/cloud/bookworm/latest/SHA512SUMS
    mirror: /srv/images

- name: Use an image that is already on the host
  virtplay.libvirt.image:
    name: appliance
    path: /srv/images/appliance.raw
    format: raw
"""

RETURN = r"""
image:
  description: The template's manifest and the path of its image.
  returned: success
  type: dict
  contains:
    name:
      description: Name of the template.
      type: str
      sample: debian12
    file:
      description: Name of the image in the templates directory.
      type: str
      sample: debian12-20ee6507d0eb.qcow2
    path:
      description: Absolute path of the image.
      type: str
      sample: /var/lib/libvirt/templates/debian12-20ee6507d0eb.qcow2
    sha256:
      description: SHA-256 of the image as it is stored.
      type: str
      sample: 20ee6507d0eb35350c42f7590362251428b1ababa1105a1e7882f0c0545a1900
    os:
      description: Operating system in the image.
      type: str
      sample: debian12
    virtual_size_bytes:
      description: Virtual size of the disk in bytes.
      type: int
      sample: 2147483648
    format:
      description: Always qcow2.
      type: str
      sample: qcow2
    source:
      description: URL or path from which the image came.
      type: str
      sample: /srv/images/appliance.raw
    spec_hash:
      description: Hash of the options from which the template was created.
      type: str
      sample: 5ad9ad3f9eb21d41ba43df16ba3fa4e2ef9d2d24d11c6c67e0f8fd6b3b7ae0a9
    created_at:
      description: Time at which the template was created (RFC 3339, UTC).
      type: str
      sample: "2026-11-22T13:40:00Z"
code:
  description: Error code.
  returned: failure
  type: str
  sample: CHECKSUM_MISMATCH
"""

import errno
import hashlib
import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.virtplay.libvirt.plugins.module_utils.failure import (
    Failure,
    check_values,
    run_module,
)
from ansible_collections.virtplay.libvirt.plugins.module_utils.image.format import (
    check_virtual_size,
    inspect_image,
)
from ansible_collections.virtplay.libvirt.plugins.module_utils.image.source import (
    Checksum,
    Fetcher,
    Incoming,
    copy_stream,
    find_checksum,
    open_regular,
    parse_checksum,
)
from ansible_collections.virtplay.libvirt.plugins.module_utils.image.store import (
    TemplateStore,
    spec_hash,
)
from ansible_collections.virtplay.libvirt.plugins.module_utils.values import IMAGE


@dataclass(frozen=True)
class Request:
    """The requested template; exactly one of url and path is set."""

    name: str
    url: str | None
    path: str | None
    checksum: str | None
    os: str
    format: str

    @property
    def source(self) -> str:
        """Return the URL or path that the manifest stores."""
        return self.url or self.path or ""

    @property
    def hash(self) -> str:
        """Return the hash by which a later run recognizes the same request."""
        return spec_hash(
            {
                "url": self.url,
                "path": self.path,
                "checksum": self.checksum,
                "os": self.os,
                "format": self.format,
            }
        )


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "url": {"type": "str"},
            "path": {"type": "path"},
            "checksum": {"type": "str"},
            "mirror": {"type": "str"},
            "os": {"type": "str"},
            "format": {"type": "str", "choices": ["auto", "qcow2", "raw"], "default": "auto"},
            "templates_path": {"type": "path", "default": "/var/lib/libvirt/templates"},
            "max_virtual_size": {"type": "int", "default": 64},
            "timeout": {"type": "int", "default": 1800},
            "force": {"type": "bool", "default": False},
        },
        mutually_exclusive=[("url", "path")],
        required_one_of=[("url", "path")],
        required_by={"url": ("checksum",)},
        supports_check_mode=True,
    )

    def explain(error: Exception) -> Failure | None:
        if not isinstance(error, OSError):
            return None
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return Failure(
            f"cannot prepare template {module.params['name']}: {error}",
            "INSUFFICIENT_RESOURCES" if full else "IMAGE_STORE_FAILED",
        )

    run_module(module, lambda: run(module.params, module.check_mode), explain)


def run(params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    """Do the module's work; return its result, or raise Failure."""
    check_values(IMAGE, params)
    request = Request(
        name=params["name"],
        url=params["url"],
        path=params["path"],
        checksum=params["checksum"],
        os=params["os"] or params["name"],
        format=params["format"],
    )
    store = TemplateStore(Path(params["templates_path"]))
    before = store.manifest(request.name)
    if up_to_date(before, request, params["force"]):
        return result_of(store, before, before)
    if check_mode:
        return result_of(store, before, planned(request))
    fetcher = Fetcher(params["mirror"], params["timeout"])
    with store.locked(request.name, fetcher.deadline.left()):
        # The run that held the lock may have installed the same template.
        before = store.manifest(request.name)
        if up_to_date(before, request, params["force"]):
            return result_of(store, before, before)
        after = install(request, store, fetcher, params["max_virtual_size"], before)
    return result_of(store, before, after)


def up_to_date(before: dict[str, Any] | None, request: Request, force: bool) -> bool:
    """Return whether the template on the host is the requested one."""
    return before is not None and before.get("spec_hash") == request.hash and not force


def planned(request: Request) -> dict[str, Any]:
    """Return the part of the manifest that is known before the image is fetched."""
    return {
        "name": request.name,
        "os": request.os,
        "format": "qcow2",
        "source": request.source,
        "spec_hash": request.hash,
    }


def install(
    request: Request,
    store: TemplateStore,
    fetcher: Fetcher,
    limit_gib: int,
    before: dict[str, Any] | None,
) -> dict[str, Any]:
    """Fetch, verify, convert and store the image; return the new manifest."""
    temporary = store.temporary(request.name)
    expected = expected_checksum(request, fetcher)
    algorithms = {"sha256"} | ({expected.algorithm} if expected else set())
    digests = fetch(request, fetcher, temporary, algorithms, limit_gib << 30)
    if expected and digests[expected.algorithm] != expected.digest:
        raise Failure(
            f"cannot use image {request.source}: its checksum is "
            f"{expected.algorithm}:{digests[expected.algorithm]}, expected {expected}",
            "CHECKSUM_MISMATCH",
        )
    image = inspect_image(temporary, request.format, request.source)
    check_virtual_size(image, limit_gib, request.source)
    digest = digests["sha256"]
    if image.name == "raw":
        temporary, digest = convert(temporary, store, request, fetcher)
        image = inspect_image(temporary, "qcow2", request.source)
    else:
        check_integrity(temporary, request, fetcher)
    manifest = {
        **planned(request),
        "file": f"{request.name}-{digest[:12]}.qcow2",
        "sha256": digest,
        "virtual_size_bytes": image.virtual_size_bytes,
        "created_at": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    if before is not None and all(
        before.get(key) == manifest[key] for key in manifest if key != "created_at"
    ):
        return before  # forced, but the image at the source is the same
    store.put(temporary, manifest)
    return manifest


def expected_checksum(request: Request, fetcher: Fetcher) -> Checksum | None:
    """Return the checksum the image must have; read it from the checksum file if that is a URL."""
    if request.checksum is None:
        return None
    checksum = parse_checksum(request.checksum)
    if checksum is None:
        file_name = unquote(urlsplit(request.source).path.rsplit("/", 1)[-1])
        checksum = find_checksum(fetcher.read_text(request.checksum), file_name, request.checksum)
    return checksum


def fetch(
    request: Request, fetcher: Fetcher, target: Path, algorithms: set[str], limit: int
) -> dict[str, str]:
    """Write the unchanged image to target; return its hex digests by algorithm."""
    if request.url:
        return fetcher.save(request.url, target, algorithms, limit)
    with open_regular(Path(request.source)) as file:
        size = os.fstat(file.fileno()).st_size
        incoming = Incoming(file, request.source, size)
        return copy_stream(incoming, target, algorithms, limit, fetcher.deadline)


def convert(
    raw: Path, store: TemplateStore, request: Request, fetcher: Fetcher
) -> tuple[Path, str]:
    """Convert a raw image to qcow2; return the new path and its SHA-256 (hex)."""
    target = store.temporary(request.name)
    qemu_img(["convert", "-f", "raw", "-O", "qcow2", str(raw), str(target)], request, fetcher)
    raw.unlink()
    with target.open("rb+") as file:
        os.fsync(file.fileno())
    # Read the file again instead of hashing while writing: its name is derived from this digest.
    digest = hashlib.sha256()
    with target.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return target, digest.hexdigest()


def check_integrity(path: Path, request: Request, fetcher: Fetcher) -> None:
    """Raise Failure if qemu-img reports that the qcow2's tables are damaged or truncated."""
    done = qemu_img(
        ["check", "-f", "qcow2", "--output=json", str(path)], request, fetcher, {0, 2, 3}
    )
    # Status 3 means leaked clusters, which only waste space.
    if done.returncode == 2 or json.loads(done.stdout or "{}").get("check-errors"):
        raise Failure(f"cannot use image {request.source}: qcow2 is damaged", "IMAGE_REFUSED")


def qemu_img(
    arguments: list[str], request: Request, fetcher: Fetcher, accepted: set[int] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run qemu-img within the deadline; raise Failure if its exit status is not accepted."""
    program = shutil.which("qemu-img")
    if program is None:
        raise Failure("cannot read images: qemu-img is not installed", "IMAGE_REFUSED")
    try:
        done = subprocess.run(
            [program, *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=max(1.0, fetcher.deadline.left()),
        )
    except subprocess.TimeoutExpired as error:
        raise Failure(
            f"cannot prepare {request.source}: qemu-img took too long", "DOWNLOAD_FAILED"
        ) from error
    if done.returncode not in (accepted or {0}):
        full = "No space left" in done.stderr
        raise Failure(
            f"cannot use image {request.source}: {done.stderr.strip()[-500:]}",
            "INSUFFICIENT_RESOURCES" if full else "IMAGE_REFUSED",
        )
    return done


def result_of(
    store: TemplateStore, before: dict[str, Any] | None, after: dict[str, Any] | None
) -> dict[str, Any]:
    """Return the module's result, given the template's manifests before and after."""
    image = dict(after or {})
    if "file" in image:
        image["path"] = str(store.image_path(image))
    result: dict[str, Any] = {"changed": before != after, "image": image}
    if before != after:
        known = set(after or {})
        old = {key: value for key, value in (before or {}).items() if key in known}
        result["diff"] = {"before": old, "after": after or {}}
    return result


if __name__ == "__main__":
    main()
