"""Command line: finds URL and token of the service in options, environment or configuration."""

import ipaddress
import os
import stat
import sys
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from virtplay.cli.faults import WRONG_USAGE, ClientError

DEFAULT_URL = "http://localhost:3000"
KEYS = ("url", "token")
OTHERS = stat.S_IRWXG | stat.S_IRWXO


class CannotConnect(ClientError):
    """URL or token are missing or unusable; no request was sent."""

    code = "CANNOT_CONNECT"


class WrongUrl(CannotConnect):
    """The URL is none that a service can have."""

    exit_status = WRONG_USAGE


@dataclass(frozen=True)
class Connection:
    """The URL of the service, without a slash at its end, and the API token."""

    url: str
    token: str = field(repr=False)


def find_connection(url: str | None, token_file: Path | None) -> Connection:
    """Return URL and token from options, VIRTPLAY_URL and VIRTPLAY_TOKEN, or the configuration.

    CannotConnect when one is unusable, or no token is set.
    """
    option = url
    url = url or os.environ.get("VIRTPLAY_URL")
    token = _read_token(token_file) if token_file else os.environ.get("VIRTPLAY_TOKEN")
    if not url or not token:
        configuration = read_configuration(configuration_path())
        url = url or configuration.get("url") or DEFAULT_URL
        token = token or configuration.get("token")
    try:
        url = check_url(url)
    except WrongUrl as error:
        if option:
            raise
        raise CannotConnect(error.message) from None
    if not token:
        raise CannotConnect(
            f"cannot connect to {url}: no token; set VIRTPLAY_TOKEN, use --token-file,"
            f" or add the key token to {configuration_path()}"
        )
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise CannotConnect("cannot use the token: it contains spaces or other invalid characters")
    return Connection(url, token)


def configuration_path() -> Path:
    """Return config.toml in $XDG_CONFIG_HOME/virtplay, by default ~/.config/virtplay."""
    home = os.environ.get("XDG_CONFIG_HOME", "")
    # The XDG specification requires that relative paths are ignored.
    directory = Path(home) if Path(home).is_absolute() else Path("~/.config").expanduser()
    return directory / "virtplay" / "config.toml"


def read_configuration(path: Path) -> dict[str, str]:
    """Return the keys url and token of the file, none without a file; CannotConnect.

    A file with a token that other users can read is refused.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            document = tomllib.load(file)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise CannotConnect(f"cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CannotConnect(f"cannot read {path}: not valid TOML: {error}") from None
    for key, value in document.items():
        if key not in KEYS:
            raise CannotConnect(
                f"cannot use {path}: unknown key {key}; valid keys: {', '.join(KEYS)}"
            )
        if not isinstance(value, str):
            raise CannotConnect(f"cannot use {path}: {key} must be a string in quotes")
    if "token" in document and mode & OTHERS:
        raise CannotConnect(
            f"cannot use {path}: other users can read the token in it; run chmod 600 {path}"
        )
    return document


def check_url(url: str) -> str:
    """Return the URL without a slash or /api/v1 at its end; WrongUrl unless http or https."""
    refusal = WrongUrl(f"cannot use the URL {url}: expected a URL such as {DEFAULT_URL}")
    try:
        parts = urlsplit(url.strip())
        named = bool(parts.hostname) and parts.port != 0
        (parts.hostname or "").encode("idna")
    except ValueError:
        raise refusal from None
    if parts.scheme not in ("http", "https") or not named or not url.strip().isprintable():
        raise refusal
    if parts.query or parts.fragment:
        raise refusal
    if parts.username is not None or parts.password is not None:
        raise WrongUrl("cannot use a URL with a user name or password: use a token")
    return parts.geturl().rstrip("/").removesuffix("/api/v1").rstrip("/")


def is_loopback(url: str) -> bool:
    """Whether a URL points to this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _read_token(path: Path) -> str:
    """Return the file's text without the line end; warn when other users can read it."""
    try:
        with path.open(encoding="utf-8") as file:
            status = os.fstat(file.fileno())
            token = file.read(4096).strip()
    except OSError as error:
        raise CannotConnect(f"cannot read token file {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise CannotConnect(f"cannot read token file {path}: not text") from None
    if not token:
        raise CannotConnect(f"cannot use token file {path}: it is empty")
    # A warning only: secret files in containers are often readable by all users inside.
    if stat.S_ISREG(status.st_mode) and status.st_mode & OTHERS:
        print(f"virtplay: warning: other users can read token file {path}", file=sys.stderr)
    return token
