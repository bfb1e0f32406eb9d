# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Fetches, verifies, converts and stores the image of a template."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ..failure import Failure
from .format import check_virtual_size, inspect_image
from .request import Request, planned
from .source import (
    Checksum,
    Fetcher,
    Incoming,
    copy_stream,
    find_checksum,
    open_regular,
    parse_checksum,
)
from .store import TemplateStore


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
