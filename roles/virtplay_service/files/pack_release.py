"""Role virtplay_service: packs the service's files into an archive, on the controller.

Usage: pack_release.py SOURCE ARCHIVE

SOURCE is a checkout, a tar archive of one, a wheel, or the directory `share` of an installed wheel,
whose files equal those of the checkout that it was built from. ARCHIVE gets the files that an
installation needs, without a top directory. Prints {"release": "VERSION-DIGEST", "page": whether it
contains the console page's npm packages}; equal files give an equal digest. Ends with status 1 and
one line on standard error if SOURCE is not the service.
"""

import gzip
import hashlib
import io
import json
import os
import re
import sys
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

TAKEN = {
    "LICENSE",
    "README.md",
    "ansible.cfg",
    "collections",
    "constraints.txt",
    "grafana",
    "hatch_build.py",
    "inventory",
    "playbooks",
    "prometheus",
    "pyproject.toml",
    "requirements.txt",
    "roles",
    "scripts/packages.txt",
    "service",
    "warm/src",
}
LEFT = {"__pycache__", "molecule", "tests"}
LEFT_OF_NPM = {"docs", "src", "typings"}
LEFT_SUFFIXES = (".egg-info", ".map", ".pyc")
WHEEL = (
    ("virtplay/share/", ""),
    ("virtplay/", "service/virtplay/"),
    ("ansible_warm/", "warm/src/ansible_warm/"),
)
"""The parts of a wheel, and where they are in a checkout."""
PAGE = "service/web/node_modules/@novnc/novnc/core/rfb.js"
ABOUT = "service/virtplay/__init__.py"
VERSION = re.compile(r'^__version__ = "([0-9A-Za-z.+]+)"$', re.MULTILINE)
DIGEST_LENGTH = 12


class NotTheService(Exception):
    """SOURCE cannot be installed; the message gives the reason."""


def is_taken(name):
    """Whether the file at this relative path belongs to an installation."""
    path = PurePosixPath(name)
    left = LEFT | LEFT_OF_NPM if "node_modules" in path.parts else LEFT
    return any(str(each) in TAKEN for each in (path, *path.parents)) and not any(
        part in left or part.startswith(".") or part.endswith(LEFT_SUFFIXES) for part in path.parts
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


def read_wheel(path):
    """Return the files of a wheel, by their names in a checkout, as read_directory does."""
    found = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            inside = name_in_checkout(member.filename)
            if is_taken(inside):
                executable = bool(member.external_attr >> 16 & 0o100)
                found[inside] = (archive.read(member), executable)
    return found


def read_installed(share):
    """Return the files of an installed wheel, as read_wheel does."""
    found = {}
    site = share.parents[1]
    for package in ("virtplay", "ansible_warm"):
        for file in sorted((site / package).rglob("*")):
            inside = name_in_checkout(file.relative_to(site).as_posix())
            if is_taken(inside) and file.is_file():
                found[inside] = (file.read_bytes(), os.access(file, os.X_OK))
    return found


def name_in_checkout(name):
    """Return where a file of a wheel is in a checkout, "" if it is nowhere."""
    for part, place in WHEEL:
        if name.startswith(part):
            return place + name[len(part) :]
    return ""


def read_source(source):
    """Return the files of SOURCE; raises NotTheService if it is not what it may be."""
    if source.is_dir():
        installed = source.name == "share" and (source.parent / "files.py").exists()
        files = (read_installed if installed else read_directory)(source)
    elif zipfile.is_zipfile(source):
        files = read_wheel(source)
    else:
        try:
            files = read_archive(source)
        except (OSError, tarfile.TarError) as error:
            raise NotTheService(f"cannot read the archive {source}: {error}") from error
    for needed in (ABOUT, "pyproject.toml", "ansible.cfg"):
        if needed not in files:
            raise NotTheService(f"cannot install the service from {source}: it has no {needed}")
    return files


def name_release(files):
    """Return VERSION-DIGEST of the files."""
    version = VERSION.search(files[ABOUT][0].decode())
    if version is None:
        raise NotTheService(f"cannot install the service: {ABOUT} has no version")
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
