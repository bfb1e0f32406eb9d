# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Downloads or copies an image from a URL, a mirror or a file, and hashes it."""

from __future__ import annotations

import errno
import hashlib
import http.client
import ipaddress
import os
import re
import shutil
import socket
import stat
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote, urlsplit

from ..failure import Failure
from ..units import MIB

BLOCK = MIB
# The time limit of one read in seconds; the whole download has the caller's deadline.
SOCKET_TIMEOUT = 30
CHECKSUM_FILE_LIMIT = 4 * MIB
_CHECKSUM = re.compile(r"^(?:(sha256|sha512):)?([0-9a-fA-F]{64}|[0-9a-fA-F]{128})$")


@dataclass(frozen=True)
class Checksum:
    """The required digest of an image: algorithm sha256 or sha512, and lower-case hex."""

    algorithm: str
    digest: str

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.digest}"


@dataclass(frozen=True)
class Incoming:
    """An opened source: its stream, its name for messages, its size (bytes, None if unknown)."""

    stream: IO[bytes]
    name: str
    size: int | None


class Deadline:
    """A time limit for the whole task, in seconds from its creation."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Return the remaining seconds, at least zero."""
        return max(0.0, self._end - time.monotonic())


def parse_checksum(text: str) -> Checksum | None:
    """Return the checksum in text, or None if text is the URL of a checksum file.

    Raises Failure (VALIDATION_ERROR) if it is neither.
    """
    match = _CHECKSUM.match(text)
    if match:
        algorithm = "sha256" if len(match.group(2)) == 64 else "sha512"
        if match.group(1) in (None, algorithm):
            return Checksum(algorithm, match.group(2).lower())
    elif urlsplit(text).scheme in ("http", "https"):
        return None
    raise Failure(
        f"cannot use checksum {text!r}: it must be sha256:HEX, sha512:HEX or the http(s) URL of a "
        "checksum file",
        "VALIDATION_ERROR",
    )


def find_checksum(listing: str, file_name: str, shown: str) -> Checksum:
    """Return the checksum of file_name in a listing by sha256sum, sha512sum or BSD's tools."""
    for line in listing.splitlines():
        for pattern in (
            r"^\\?([0-9a-fA-F]{64}|[0-9a-fA-F]{128}) [ *](.+)$",
            r"^SHA(?:256|512) ?\((?P<name>.+)\) = ([0-9a-fA-F]{64}|[0-9a-fA-F]{128})$",
        ):
            match = re.match(pattern, line.strip())
            if match:
                digest, name = match.groups()
                if "name" in match.groupdict():
                    digest, name = name, digest
                if name.removeprefix("./") == file_name:
                    return Checksum("sha256" if len(digest) == 64 else "sha512", digest.lower())
    raise Failure(f"cannot find a checksum of {file_name} in {shown}", "CHECKSUM_MISMATCH")


def mirror_places(url: str, mirror: str) -> list[str]:
    """Return where a mirror may have the file of a URL: at host/path, path, or its bare name."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    raw = [part for part in parts.path.split("/") if part]
    plain = [unquote(part) for part in raw]
    if not plain or any(bad in (".", "..") or re.search("[/\0]", bad) for bad in [host, *plain]):
        raise Failure(f"cannot use image URL {url}: it has no file name", "VALIDATION_ERROR")
    path = raw if is_url(mirror) else plain
    places = ["/".join([host, *path]), "/".join(path), path[-1]]
    return [f"{mirror.rstrip('/')}/{place}" for place in dict.fromkeys(places)]


def is_url(text: str) -> bool:
    """Whether a text is a URL rather than a path."""
    return "://" in text


class Fetcher:
    """Reads files by URL or from a mirror, within one time limit (seconds from its creation)."""

    def __init__(self, mirror: str | None, timeout: float) -> None:
        self.deadline = Deadline(timeout)
        self._mirror = mirror

    def read_text(self, url: str) -> str:
        """Return the content of a small text file; raises Failure if it cannot be read."""
        with self._open(url) as incoming:
            data = incoming.stream.read(CHECKSUM_FILE_LIMIT + 1)
        if len(data) > CHECKSUM_FILE_LIMIT:
            raise Failure(f"cannot read checksums {url}: file too large", "DOWNLOAD_FAILED")
        return str(data.decode("utf-8", "replace"))

    def save(self, url: str, target: Path, algorithms: set[str], limit: int) -> dict[str, str]:
        """Write the URL's file to target; returns hex digests by algorithm.

        limit is the largest size allowed (bytes). Raises Failure if the file is not complete.
        """
        with self._open(url) as incoming:
            return copy_stream(incoming, target, algorithms, limit, self.deadline)

    @contextmanager
    def _open(self, url: str) -> Iterator[Incoming]:
        """Open the file at the first place that has it; raises Failure if none has it."""
        if urlsplit(url).scheme not in ("http", "https"):
            raise Failure(
                f"cannot download {url}: only http and https are allowed", "VALIDATION_ERROR"
            )
        places = [url] if self._mirror is None else mirror_places(url, self._mirror)
        for place in places:
            last = place == places[-1]
            if is_url(place):
                try:
                    response = _request(place, self._mirror, self.deadline)
                except urllib.error.HTTPError as error:
                    error.close()
                    if error.code in (404, 410) and not last:
                        continue
                    raise _failed(url, place, f"HTTP status {error.code} {error.reason}") from error
                except (OSError, http.client.HTTPException, ValueError) as error:
                    raise _failed(url, place, str(getattr(error, "reason", error))) from error
                with response:
                    length = response.headers.get("Content-Length", "")
                    yield Incoming(response, place, int(length) if length.isdigit() else None)
                return
            path = Path(place)
            if path.is_file() or last:
                with open_regular(path, follow=True) as file:
                    yield Incoming(file, place, os.fstat(file.fileno()).st_size)
                return


def copy_stream(
    incoming: Incoming, target: Path, algorithms: set[str], limit: int, deadline: Deadline
) -> dict[str, str]:
    """Write a source to target, with holes for zeros; returns hex digests by algorithm.

    limit is the largest size allowed (bytes). Raises Failure, also for fewer bytes than announced.
    """
    shown, size = incoming.name, incoming.size
    _check_size(size or 0, limit, shown)
    free = shutil.disk_usage(target.parent).free
    if size and size > free:
        raise Failure(
            f"cannot store {shown}: it has {size} bytes and {target.parent} has {free} free",
            "INSUFFICIENT_RESOURCES",
        )
    hashes = {name: hashlib.new(name) for name in algorithms}
    done = 0
    try:
        with target.open("wb") as file:
            while block := incoming.stream.read(BLOCK):
                done += len(block)
                _check_size(done, limit, shown)
                for digest in hashes.values():
                    digest.update(block)
                if block.count(0) == len(block):
                    file.seek(len(block), os.SEEK_CUR)
                else:
                    file.write(block)
                if deadline.left() == 0:
                    raise Failure(f"cannot get {shown}: time limit reached", "DOWNLOAD_FAILED")
            file.truncate(done)
            file.flush()
            os.fsync(file.fileno())
    except http.client.IncompleteRead as error:
        raise _truncated(shown, done + len(error.partial), size) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Failure(
                f"cannot store {shown} in {target.parent}: disk full", "INSUFFICIENT_RESOURCES"
            ) from error
        raise Failure(f"cannot get {shown}: {error}", "DOWNLOAD_FAILED") from error
    except http.client.HTTPException as error:
        raise Failure(f"cannot get {shown}: {error!r}", "DOWNLOAD_FAILED") from error
    if size is not None and done != size:
        raise _truncated(shown, done, size)
    return {name: digest.hexdigest() for name, digest in hashes.items()}


def open_regular(path: Path, follow: bool = False) -> IO[bytes]:
    """Open a regular file for reading, a symbolic link only with follow; raises Failure."""
    # O_NONBLOCK: opening a FIFO must not wait for its writer.
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    try:
        handle = os.open(path, flags)
    except FileNotFoundError as error:
        raise Failure(f"cannot find image file {path}", "TEMPLATE_NOT_FOUND") from error
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno == errno.ELOOP:
            reason = "it is a symbolic link; use the path of the file itself"
        else:
            reason = str(error)
        raise Failure(f"cannot use image {path}: {reason}", "IMAGE_REFUSED") from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise Failure(f"cannot use image {path}: it is not a regular file", "IMAGE_REFUSED")
    return os.fdopen(handle, "rb")


def _check_size(size: int, limit: int, shown: str) -> None:
    if size > limit:
        raise Failure(f"cannot use image {shown}: it is larger than {limit} bytes", "IMAGE_REFUSED")


def _truncated(shown: str, done: int, size: int | None) -> Failure:
    return Failure(
        f"cannot get {shown}: connection ended after {done} of {size} bytes", "DOWNLOAD_FAILED"
    )


def _failed(url: str, place: str, reason: str) -> Failure:
    through = "" if place == url else f" (mirror for {url})"
    return Failure(f"cannot download {place}: {reason}{through}", "DOWNLOAD_FAILED")


# --- HTTP ----------------------------------------------------------------------------------
# Not ansible.module_utils.urls.open_url: it shows the server's address only after the request was
# sent, opens file: and ftp: URLs too, and its import costs 55 ms of CPU in each run of the module.


class _RefusedError(OSError):
    """An address or a redirect that a download must not follow."""


def _forbidden(address: str) -> bool:
    """Whether an address is of this machine or its local link, and so never an image server."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(parsed, "ipv4_mapped", None) or parsed
    return bool(
        mapped.is_loopback or mapped.is_link_local or mapped.is_unspecified or mapped.is_multicast
    )


def _resolves_to_forbidden(host: str, port: int) -> bool:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        return False  # the connection then fails with a better message
    return any(_forbidden(str(entry[4][0])) for entry in found)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects over http(s) only, and only to addresses allowed for a first request."""

    max_redirections = 5

    def __init__(self, allow_local: bool) -> None:
        self._allow_local = allow_local

    def redirect_request(  # noqa: PLR0917 - the signature is urllib's
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Any:
        parts = urlsplit(newurl)
        if parts.scheme not in ("http", "https"):
            raise _RefusedError(f"redirect to {newurl} refused: only http and https are allowed")
        if urlsplit(req.full_url).scheme == "https" and parts.scheme == "http":
            raise _RefusedError(f"redirect from https to {newurl} refused")
        _check_host(newurl, self._allow_local, "redirect to ")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _check_host(url: str, allow_local: bool, prefix: str = "") -> None:
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    if not allow_local and _resolves_to_forbidden(parts.hostname or "", port):
        raise _RefusedError(f"{prefix}{url} refused: its address is this host or its local link")


def _connection(kind: type[http.client.HTTPConnection]) -> type[http.client.HTTPConnection]:
    """Return a connection class that checks the peer's address: DNS can change after a check."""

    class Checked(kind):  # type: ignore[misc, valid-type]
        def connect(self) -> None:
            super().connect()
            if _forbidden(self.sock.getpeername()[0]):
                self.close()
                raise _RefusedError(
                    f"{self.host} refused: its address is this host or its local link"
                )

    return Checked


class _CheckedHttp(urllib.request.HTTPHandler):
    def http_open(self, req: Any) -> Any:
        proxied = req.has_proxy()
        return self.do_open(
            http.client.HTTPConnection if proxied else _connection(http.client.HTTPConnection), req
        )


class _CheckedHttps(urllib.request.HTTPSHandler):
    def https_open(self, req: Any) -> Any:
        proxied = req.has_proxy() or getattr(req, "_tunnel_host", None)
        return self.do_open(
            http.client.HTTPSConnection if proxied else _connection(http.client.HTTPSConnection),
            req,
        )


def _request(place: str, mirror: str | None, deadline: Deadline) -> Any:
    """Open an http(s) URL; local addresses are allowed only if the operator's mirror is local."""
    parts = urlsplit(place)
    allow_local = False
    if mirror is not None:
        base = urlsplit(mirror)
        port = base.port or (443 if base.scheme == "https" else 80)
        allow_local = _resolves_to_forbidden(base.hostname or "", port)
    if not parts.hostname or parts.username is not None:
        raise _RefusedError("a URL with a host and without a user name is required")
    _check_host(place, allow_local)
    # Not build_opener, which would add handlers of file: and ftp: URLs.
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler() if allow_local else _CheckedHttp(),
        urllib.request.HTTPSHandler() if allow_local else _CheckedHttps(),
        _Redirects(allow_local),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
    ):
        opener.add_handler(handler)
    request = urllib.request.Request(place, headers={"User-Agent": "virtplay-image"})
    return opener.open(request, timeout=max(1.0, min(SOCKET_TIMEOUT, deadline.left())))
