"""Command line: which service to ask and with which token: options, environment, configuration."""

import os
import stat
import sys
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from virtplay.errors import VirtplayError

DEFAULT_URL = "http://localhost:3000"
KEYS = ("url", "token")
OTHERS = stat.S_IRWXG | stat.S_IRWXO


class CannotConnect(VirtplayError):
    """URL or token are missing or unusable; nothing was asked."""


@dataclass(frozen=True)
class Connection:
    """Where the service is, without a slash at the end, and what opens it."""

    url: str
    token: str = field(repr=False)


def find_connection(url: str | None, token_file: Path | None) -> Connection:
    """URL and token: what the options gave, else VIRTPLAY_URL and _TOKEN, else the configuration.

    CannotConnect when one is unusable, or there is no token anywhere.
    """
    url = url or os.environ.get("VIRTPLAY_URL")
    token = _read_token(token_file) if token_file else os.environ.get("VIRTPLAY_TOKEN")
    if not url or not token:
        configuration = read_configuration(configuration_path())
        url = url or configuration.get("url") or DEFAULT_URL
        token = token or configuration.get("token")
    url = check_url(url)
    if not token:
        raise CannotConnect(
            f"cannot ask {url} without a token: set VIRTPLAY_TOKEN, give --token-file,"
            f" or write it into {configuration_path()}"
        )
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise CannotConnect("cannot use the token: it holds spaces or other odd characters")
    return Connection(url, token)


def configuration_path() -> Path:
    """config.toml in $XDG_CONFIG_HOME/virtplay, by default ~/.config/virtplay."""
    home = os.environ.get("XDG_CONFIG_HOME", "")
    # The XDG specification has relative paths ignored.
    directory = Path(home) if Path(home).is_absolute() else Path("~/.config").expanduser()
    return directory / "virtplay" / "config.toml"


def read_configuration(path: Path) -> dict[str, str]:
    """The file's keys url and token, none when there is no file; CannotConnect.

    A file that holds a token and that others may read is refused.
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
        raise CannotConnect(f"cannot read {path}: it is not TOML: {error}") from None
    for key, value in document.items():
        if key not in KEYS:
            raise CannotConnect(f"cannot use {path}: it knows {' and '.join(KEYS)}, not {key}")
        if not isinstance(value, str):
            raise CannotConnect(f"cannot use {path}: {key} must be text in quotes")
    if "token" in document and mode & OTHERS:
        raise CannotConnect(
            f"cannot use {path}: it holds a token and others can read it; chmod 600 {path}"
        )
    return document


def check_url(url: str) -> str:
    """The URL without a slash or /api/v1 at its end; CannotConnect unless it is http or https."""
    refusal = CannotConnect(f"cannot use the URL {url}: it must be like {DEFAULT_URL}")
    try:
        parts = urlsplit(url.strip())
        named = bool(parts.hostname) and parts.port != 0
    except ValueError:
        raise refusal from None
    if parts.scheme not in ("http", "https") or not named or not url.strip().isprintable():
        raise refusal
    if parts.query or parts.fragment:
        raise refusal
    if parts.username is not None or parts.password is not None:
        raise CannotConnect("cannot use a URL that holds a user name or password: use a token")
    return url.strip().rstrip("/").removesuffix("/api/v1").rstrip("/")


def _read_token(path: Path) -> str:
    """The file's text without the line end; warns when others may read it."""
    try:
        with path.open(encoding="utf-8") as file:
            status = os.fstat(file.fileno())
            token = file.read(4096).strip()
    except OSError as error:
        raise CannotConnect(f"cannot read token file {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise CannotConnect(f"cannot read token file {path}: it is not text") from None
    if not token:
        raise CannotConnect(f"cannot use token file {path}: it is empty")
    # A warning only: secrets that containers get as files are often readable by all inside.
    if stat.S_ISREG(status.st_mode) and status.st_mode & OTHERS:
        print(f"virtplay: warning: others can read token file {path}", file=sys.stderr)
    return token
