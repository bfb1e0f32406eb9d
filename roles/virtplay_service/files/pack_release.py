"""Role virtplay_service: packs the service's files into an archive, where Ansible runs.

Usage: pack_release.py SOURCE ARCHIVE

SOURCE is a checkout, or a tar archive of one. ARCHIVE gets what an installation needs of it,
without a directory around it. Prints {"release": "VERSION-DIGEST", "page": whether the console
page's npm packages are in it}; the same files make the same digest. Ends with status 1 and one line
on standard error when SOURCE is not the service.
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
}
LEFT = {"__pycache__", "molecule"}
PAGE = "service/web/node_modules/@novnc/novnc/core/rfb.js"
VERSION = re.compile(r'^version = "([0-9A-Za-z.+]+)"$', re.MULTILINE)
DIGEST_LENGTH = 12


class NotTheService(Exception):
    """What was given cannot be installed; the message says why."""


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
    """Every file of a checkout as name → (content, whether it may be executed)."""
    found = {}
    for top in sorted(TAKEN):
        path = root / top
        if path.is_file():
            found[top] = (path.read_bytes(), False)
        for directory, directories, names in os.walk(path, followlinks=True):
            # Not even looked into: packages' caches may be large.
            directories[:] = [each for each in directories if is_taken(f"{top}/{each}")]
            for name in names:
                file = Path(directory, name)
                inside = file.relative_to(root).as_posix()
                if is_taken(inside) and file.is_file():
                    found[inside] = (file.read_bytes(), os.access(file, os.X_OK))
    return found


def read_archive(path):
    """The same of an archive, which may have one directory around it all."""
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
    """The files of a checkout or an archive; NotTheService when it is neither."""
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
    """VERSION-DIGEST of what is to be installed."""
    version = VERSION.search(files["pyproject.toml"][0].decode())
    if version is None:
        raise NotTheService("cannot install the service: pyproject.toml names no version")
    digest = hashlib.sha256()
    for name, (content, executable) in sorted(files.items()):
        digest.update(f"{name} {len(content)} {executable}\n".encode() + content)
    return f"{version.group(1)}-{digest.hexdigest()[:DIGEST_LENGTH]}"


def write_archive(files, target):
    """Write them, owned by root, as readable as an installation has to be."""
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
    """Pack SOURCE into TARGET and print what it is."""
    try:
        files = read_source(Path(source))
        release = name_release(files)
    except NotTheService as error:
        sys.exit(str(error))
    write_archive(files, Path(target))
    print(json.dumps({"release": release, "page": PAGE in files}))


if __name__ == "__main__":
    main(*sys.argv[1:])
