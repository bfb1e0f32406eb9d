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
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.virtplay.libvirt.plugins.module_utils.failure import (
    Failure,
    check_values,
    run_module,
)
from ansible_collections.virtplay.libvirt.plugins.module_utils.image.request import (
    Request,
    planned,
)
from ansible_collections.virtplay.libvirt.plugins.module_utils.image.store import TemplateStore
from ansible_collections.virtplay.libvirt.plugins.module_utils.values import IMAGE


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
    # Imported on use: HTTP costs 20 ms, and the template of a new VM is nearly always there.
    from ansible_collections.virtplay.libvirt.plugins.module_utils.image import (  # noqa: PLC0415
        install,
        source,
    )

    fetcher = source.Fetcher(params["mirror"], params["timeout"])
    with store.locked(request.name, fetcher.deadline.left()):
        # The run that held the lock may have installed the same template.
        before = store.manifest(request.name)
        if up_to_date(before, request, params["force"]):
            return result_of(store, before, before)
        after = install.install(request, store, fetcher, params["max_virtual_size"], before)
    return result_of(store, before, after)


def up_to_date(before: dict[str, Any] | None, request: Request, force: bool) -> bool:
    """Return whether the template on the host is the requested one."""
    return before is not None and before.get("spec_hash") == request.hash and not force


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
