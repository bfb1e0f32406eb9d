"""Command line: serve and token, which use the service's own database."""

import os
import re
import signal
import ssl
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from virtplay.cli.ages import age_text
from virtplay.cli.faults import WrongValue
from virtplay.cli.tables import Column, Table
from virtplay.errors import CannotStart
from virtplay.times import time_text

# Pydantic, Tortoise and Sanic take longer to load than most commands take to run, so each command
# imports what it needs.
if TYPE_CHECKING:
    from virtplay.settings import Settings
    from virtplay.store.models import Token

T = TypeVar("T")

serve_app = typer.Typer(add_completion=False, rich_markup_mode=None)
token_app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Create, list and revoke API tokens.",
)


def _state(token: "Token") -> str:
    if token.revoked_at:
        return "revoked"
    return "expired" if token.expires_at and token.expires_at <= datetime.now(UTC) else "valid"


TOKENS = Table(
    Column("NAME", lambda token: token.name, cut=True),
    Column("ROLE", lambda token: token.role),
    Column("STATE", _state),
    Column("CREATED", lambda token: age_text(time_text(token.created_at)), 3),
    Column("EXPIRES", lambda token: age_text(time_text(token.expires_at)) or "never", 1),
    Column("LAST USED", lambda token: age_text(time_text(token.last_used_at)) or "never", 2),
)


EXPIRES_DAYS_MAX = 36_500


Address = Annotated[str | None, typer.Option(metavar="ADDRESS", help="Address to listen on.")]
Port = Annotated[
    int | None, typer.Option(min=1, max=65535, metavar="PORT", help="Port to listen on.")
]


class TokenRole(StrEnum):
    """The role of a token."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"


def load_settings(**given: object) -> "Settings":
    """Return the settings: `given` where not None, otherwise from the environment."""
    from pydantic import ValidationError  # noqa: PLC0415

    from virtplay.settings import Settings  # noqa: PLC0415

    try:
        return Settings(**{key: value for key, value in given.items() if value is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        faults = "; ".join(
            # A rule about several settings names them itself.
            "".join(f"VIRTPLAY_{str(name).upper()} " for name in entry["loc"][:1])
            + _plain_words(entry["msg"])
            for entry in error.errors()
        )
        raise CannotStart(f"cannot use the settings: {faults}") from None


def _plain_words(message: str) -> str:
    """Return a message of pydantic without its words about fields."""
    message = re.sub(r"^Value error, ", "", message)
    return re.sub(r"^Input should be ([^,]*)(, unable .*)?$", r"must be \1", message)


@serve_app.command("serve")
def serve(
    host: Address = None,
    port: Port = None,
    inventory: Annotated[
        str | None,
        typer.Option(
            "--inventory", "-i", metavar="SOURCES", help="Inventory sources, separated by commas."
        ),
    ] = None,
) -> None:
    """Run the service in this process until Ctrl-C or SIGTERM.

    Settings are VIRTPLAY_* environment variables; docs/settings.md lists them.

    \b
    Example:
      virtplay serve --port 3000 --inventory inventory/local.yml
    """
    # A reload that is requested before the service has started; it handles the signal from then on.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    # Sanic 25.12 warns about a single process in production, which is intended here.
    os.environ["SANIC_IGNORE_PRODUCTION_WARNING"] = "true"

    from virtplay.app import create_app, fault_of  # noqa: PLC0415
    from virtplay.logs import set_up_logging  # noqa: PLC0415

    settings = load_settings(host=host, port=port, inventory=inventory)
    set_up_logging(settings.log_level)
    app = create_app(settings)
    tls = _read_tls(settings)
    try:
        app.run(
            host=settings.host,
            port=settings.port,
            single_process=True,
            access_log=False,
            motd=False,
            ssl=tls,
        )
    except OSError as error:
        raise CannotStart(
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}"
        ) from error
    if fault := fault_of(app):
        raise CannotStart(fault)


def _read_tls(settings: "Settings") -> ssl.SSLContext | None:
    """Return the TLS context; CannotStart when the files are unusable."""
    certificate, key = settings.tls_certificate, settings.tls_key
    if certificate is None or key is None:
        return None
    # Not the context of Sanic: 25.12 raises KeyError on a certificate without subjectAltName.
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certificate, key)
    except OSError as error:
        raise CannotStart(
            f"cannot use the certificate {certificate} with the key {key}: {error}"
        ) from error
    return context


@token_app.command("create")
def create_token(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Token name; must be unique.")],
    role: Annotated[TokenRole, typer.Option(help="Token role.")] = TokenRole.OPERATOR,
    expires_days: Annotated[
        float | None,
        typer.Option(metavar="N", help="Days until the token expires; default: never."),
    ] = None,
) -> None:
    """Create a token and print it; it cannot be shown again.

    \b
    Example:
      virtplay token create ci --role operator --expires-days 90
    """
    from virtplay.store import tokens  # noqa: PLC0415

    expires = None
    if expires_days is not None:
        if not 0 < expires_days <= EXPIRES_DAYS_MAX:
            raise WrongValue(
                f"cannot create token {name}: --expires-days must be above 0 and at most"
                f" {EXPIRES_DAYS_MAX}"
            )
        expires = datetime.now(UTC) + timedelta(days=expires_days)
    typer.echo(with_database(lambda: tokens.create_token(name, role.value, expires)))


@token_app.command("list")
def list_tokens() -> None:
    """List tokens, without the secrets, which are not stored.

    \b
    Example:
      virtplay token list
    """
    from virtplay.store import tokens  # noqa: PLC0415

    for line in TOKENS.lines(with_database(tokens.list_tokens)):
        typer.echo(line)


@token_app.command("revoke")
def revoke_token(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Token name.")],
) -> None:
    """Revoke a token: the next request with it is rejected.

    \b
    Example:
      virtplay token revoke ci
    """
    from virtplay.store import tokens  # noqa: PLC0415

    with_database(lambda: tokens.revoke_token(name))
    typer.echo(f"revoked token {name}")


def with_database(
    work: Callable[[], Awaitable[T]], *, backup: bool = True, create: bool = False
) -> T:
    """Run `work` with the service's database open, and return its result.

    A database of an earlier version is upgraded, and saved before with `backup`. CannotStart
    without a database, unless it is to `create` one.
    """
    import asyncio  # noqa: PLC0415

    from virtplay.machine.database import require_database  # noqa: PLC0415
    from virtplay.store.database import close_database, open_database  # noqa: PLC0415
    from virtplay.store.upgrade import save_before_upgrade  # noqa: PLC0415

    async def run() -> T:
        settings = load_settings()
        if not create:
            require_database(settings, sys.argv[1:])
        if backup:
            await save_before_upgrade(settings.database, settings.backups)
        await open_database(settings.database)
        try:
            return await work()
        finally:
            await close_database()

    return asyncio.run(run())
