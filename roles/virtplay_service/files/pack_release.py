"""Role virtplay_service: packs the service's files into an archive, on the controller.

Usage: pack_release.py SOURCE ARCHIVE

SOURCE is a checkout, or a tar archive of one. ARCHIVE gets the files that an installation needs,
without a top directory. Prints {"release": "VERSION-DIGEST", "page": whether it contains the
console page's npm packages}; equal files give an equal digest. Ends with status 1 and one line on
standard error if SOURCE is not the service.
"""

import gzip
import hashlib
import io
import json
import os
import re
import sys
import tarfile
from pathlib import Path, PurePosixPath

TAKEN = {
    "LICENSE",
    "README.md",
    "ansible.cfg",
    "collections",
    "constraints.txt",
    "playbooks",
    "pyproject.toml",
    "roles",
    "service",
    "warm",
}
LEFT = {"__pycache__", "molecule"}
PAGE = "service/web/node_modules/@novnc/novnc/core/rfb.js"
VERSION = re.compile(r'^version = "([0-9A-Za-z.+]+)"$', re.MULTILINE)
DIGEST_LENGTH = 12


class NotTheService(Exception):
    """SOURCE cannot be installed; the message gives the reason."""


def is_taken(name):
    """Whether the file at this relative path belongs to an installation."""
    parts = PurePosixPath(name).parts
    return (
        bool(parts)
        and parts[0] in TAKEN
        and not any(
            part in LEFT or part.startswith(".") or part.endswith((".pyc", ".egg-info"))
            for part in parts
        )
    )


def read_directory(root):
    """Return the files of a checkout as name → (content, whether it is executable)."""
    found = {}
    for top in sorted(TAKEN):
        path = root / top
        if path.is_file():
            found[top] = (path.read_bytes(), False)
        for directory, directories, names in os.walk(path, followlinks=True):
            # Other directories are not read at all: caches may be large.
            directories[:] = [each for each in directories if is_taken(f"{top}/{each}")]
            for name in names:
                file = Path(directory, name)
                inside = file.relative_to(root).as_posix()
                if is_taken(inside) and file.is_file():
                    found[inside] = (file.read_bytes(), os.access(file, os.X_OK))
    return found


def read_archive(path):
    """Return the files of an archive, which may have one top directory, as read_directory does."""
    with tarfile.open(path) as archive:
        members = [member for member in archive.getmembers() if member.isfile()]
        names = [PurePosixPath(member.name.lstrip("/")) for member in members]
        roots = [name.parent for name in names if name.name == "pyproject.toml"]
        root = min(roots, key=lambda each: len(each.parts), default=PurePosixPath())
        found = {}
        for member, name in zip(members, names):
            inside = name.relative_to(root).as_posix() if root in name.parents else ""
            content = archive.extractfile(member)
            if is_taken(inside) and ".." not in name.parts and content is not None:
                found[inside] = (content.read(), bool(member.mode & 0o100))
        return found


def read_source(source):
    """Return the files of a checkout or an archive; raises NotTheService if it is neither."""
    if source.is_dir():
        files = read_directory(source)
    else:
        try:
            files = read_archive(source)
        except (OSError, tarfile.TarError) as error:
            raise NotTheService(f"cannot read the archive {source}: {error}") from error
    for needed in ("service/virtplay/__init__.py", "pyproject.toml", "ansible.cfg"):
        if needed not in files:
            raise NotTheService(f"cannot install the service from {source}: it has no {needed}")
    return files


def name_release(files):
    """Return VERSION-DIGEST of the files."""
    version = VERSION.search(files["pyproject.toml"][0].decode())
    if version is None:
        raise NotTheService("cannot install the service: pyproject.toml has no version")
    digest = hashlib.sha256()
    for name, (content, executable) in sorted(files.items()):
        digest.update(f"{name} {len(content)} {executable}\n".encode() + content)
    return f"{version.group(1)}-{digest.hexdigest()[:DIGEST_LENGTH]}"


def write_archive(files, target):
    """Write the files, owned by root and readable by all users."""
    with (
        target.open("wb") as raw,
        gzip.GzipFile("", "wb", 5, raw, 0) as packed,
        tarfile.open(mode="w", fileobj=packed) as archive,
    ):
        for name, (content, executable) in sorted(files.items()):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            member.mode = 0o755 if executable else 0o644
            archive.addfile(member, io.BytesIO(content))


def main(source, target):
    """Pack source into target and print the release."""
    try:
        files = read_source(Path(source))
        release = name_release(files)
    except NotTheService as error:
        sys.exit(str(error))
    write_archive(files, Path(target))
    print(json.dumps({"release": release, "page": PAGE in files}))


if __name__ == "__main__":
    main(*sys.argv[1:])
