"""HTTP wiring: the Sanic application with its routes, middleware and start and stop hooks."""

import asyncio
import logging
import os
import re
import secrets
import signal
import threading
import time
from collections.abc import Callable, Coroutine
from functools import cache, partial
from pathlib import Path
from typing import Any

from sanic import HTTPResponse, Request, Sanic
from sanic.response import BaseHTTPResponse

from virtplay.api.console import serve_console
from virtplay.api.http.auth import LoginLimit, Role, authenticate, authorise
from virtplay.api.http.envelope import ApiResponse, success
from virtplay.api.http.errors import BODY_LIMIT, EnvelopeErrors
from virtplay.api.http.parsing import parse_body, parse_query
from virtplay.api.http.requests import ApiRequest
from virtplay.api.http.routing import add_route
from virtplay.api.http.streaming import Stream, send_stream
from virtplay.api.pages import add_console_page, add_docs_page
from virtplay.api.routes import ROUTES, Route
from virtplay.api.schemas.fields import Strict
from virtplay.background import Background, claim_directory, start_background
from virtplay.errors import CannotStart
from virtplay.jobs.processes import keep_descriptors
from virtplay.jobs.submission import Caller
from virtplay.logs import request_id
from virtplay.metrics.service_series import count_request
from virtplay.settings import TOKEN_LENGTH_MIN, Settings
from virtplay.states import HostStatus
from virtplay.store.tokens import count_tokens, create_token
from virtplay.store.vms import list_hosts
from virtplay.texts import storable

log = logging.getLogger("virtplay.app")

LARGE_BODY = 16 * 1024
"""A larger body, in bytes, is parsed in a thread."""
REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")


def _methods_of(path: str) -> list[str]:
    """Return the methods of a path; Sanic 25.12 reports them only for paths without parameters."""
    shapes = {route: re.sub(r"\{\w+\}", "[^/]+", route.path) for route in ROUTES}
    return sorted(
        route.method for route, shape in shapes.items() if re.fullmatch(shape + "/?", path)
    )


class Application(Sanic[Any, Any]):
    """A Sanic application that completes its start before it stops.

    Sanic 25.12 stops the event loop at a signal, also in the middle of the start. That raises, no
    listener closes the database, and its thread keeps the process from ending.
    """

    def stop(self, terminate: bool = True, unregister: bool = False) -> None:
        """Stop the server; before it has started, request that it stops then."""
        if getattr(self.ctx, "started", False):
            super().stop(terminate, unregister)
        else:
            self.ctx.stop_requested.set()


def create_app(settings: Settings) -> Sanic[Any, Any]:
    """Create the Sanic application of the whole service, to be served by one process."""
    app = Application(
        "virtplay", error_handler=EnvelopeErrors(_methods_of), configure_logging=False, dumps=None
    )
    app.config.update(
        REQUEST_MAX_SIZE=BODY_LIMIT,
        REQUEST_MAX_HEADER_SIZE=16_384,
        REQUEST_TIMEOUT=30,
        RESPONSE_TIMEOUT=75,
        KEEP_ALIVE_TIMEOUT=75,
        GRACEFUL_SHUTDOWN_TIMEOUT=5.0,
        OAS=False,
        FALLBACK_ERROR_FORMAT="json",
        ACCESS_LOG=False,
        # Python 3.14 calls deprecated how Sanic sets the event loop up; users can do nothing.
        DEPRECATION_FILTER="ignore",
    )
    # uvloop may call `stop` for a signal of the start when that has just ended.
    app.ctx.stop_requested = asyncio.Event()
    limit = LoginLimit(settings.login_failures)
    for number, route in enumerate(ROUTES):
        path = re.sub(r"\{(\w+)\}", r"<\1:str>", route.path)
        reads = route.method == "GET" and not route.creates_job
        methods = ["GET", "HEAD"] if reads else [route.method]
        guarded = not (route.public_setting and getattr(settings, route.public_setting))
        add_route(
            app,
            _handler(route, limit, guarded),
            path,
            methods=methods,
            name=f"route_{number}",
            unquote=True,
        )
    add_docs_page(app)
    add_console_page(app)
    _add_console(app)
    app.register_middleware(_begin_request, "request")
    app.register_middleware(_finish_request, "response")
    app.before_server_start(partial(_start, settings=settings))
    app.after_server_start(_handle_stop_signals)
    app.after_server_start(_announce)
    app.before_server_stop(_stop)
    app.after_server_stop(_close)
    return app


def _handler(
    route: Route, limit: LoginLimit, guarded: bool
) -> Callable[..., Coroutine[Any, Any, HTTPResponse | None]]:
    async def handle(request: Request, **path: str) -> HTTPResponse | None:
        name, token_id = "", 0
        if guarded and route.role > Role.NOBODY:
            token = await authenticate(request, limit)
            authorise(token, route.role)
            name, token_id = token.name, token.id
        query = parse_query(_arguments(request), route.query)
        body = await _read_body(request, route.body) if route.body is not None else None
        caller = Caller(name, token_id, request_id.get(), request.ip)
        address = request.headers.get("host", "")
        path = {name: storable(value) for name, value in path.items()}
        answer = await route.handler(
            ApiRequest(request.app.ctx.services, caller, path, query, body, address)
        )
        match answer:
            case Stream():
                await send_stream(request, answer)
                return None
            case ApiResponse():
                request.ctx.waited = answer.waited
                return success(answer)
            case _:
                return answer

    return handle


async def _read_body(request: Request, model: type[Strict]) -> Strict:
    content_type = request.headers.get("content-type", "")
    if len(request.body) > LARGE_BODY:
        return await asyncio.to_thread(parse_body, request.body, content_type, model)
    return parse_body(request.body, content_type, model)


def _arguments(request: Request) -> dict[str, list[str]]:
    if not request.query_string:
        return {}
    return {key: list(values) for key, values in request.get_args(keep_blank_values=True).items()}


def _add_console(app: Sanic[Any, Any]) -> None:
    async def serve(request: Request, vm_id: str) -> None:
        await serve_console(request, request.app.ctx.services, vm_id)

    # Not a websocket route of Sanic 25.12, which sends 101 before it calls the handler.
    app.enable_websocket()
    serve.is_websocket = True  # type: ignore[attr-defined]
    add_route(app, serve, "/console/<vm_id:str>", methods=["GET"])


async def _begin_request(request: Request) -> None:
    given = request.headers.get("x-request-id", "")
    request_id.set(given if REQUEST_ID.fullmatch(given) else secrets.token_hex(8))
    request.ctx.began = time.monotonic()


async def _finish_request(request: Request, response: BaseHTTPResponse) -> None:
    response.headers["X-Request-ID"] = request_id.get()
    response.headers.setdefault("Cache-Control", "no-store")
    log.info("%s %s %s from %s", request.method, request.path, response.status, request.ip)
    began = getattr(request.ctx, "began", None)
    if began is not None:
        took = time.monotonic() - began - getattr(request.ctx, "waited", 0.0)
        count_request(request.method, _template_of(request), response.status, took)


def _template_of(request: Request) -> str | None:
    """Return the route of a request in the API's notation, /api/v1/vms/{id}, or None."""
    if request.route is None:
        return None
    return _template(request.route.path)


@cache
def _template(path: str) -> str:
    return "/" + re.sub(r"<(\w+):\w+>", r"{\1}", path)


async def _start(app: Sanic[Any, Any], *, settings: Settings) -> None:
    # Before the first child process; the listening socket is open by now.
    keep_descriptors()
    app.ctx.claim = await asyncio.to_thread(claim_directory, settings.state_dir)
    app.ctx.background = await start_background(settings)
    app.ctx.services = app.ctx.background.services
    # From the first request on; a start that fails later loses no token, as the file stays.
    await _create_first_token(settings)


async def _create_first_token(settings: Settings) -> None:
    """Create an admin token in a database without tokens.

    If the settings have none, it is in the token file: the output of a service is kept in the
    journal.
    """
    if await count_tokens():
        return
    if settings.bootstrap_token is not None:
        text = settings.bootstrap_token.get_secret_value()
    else:
        text = await asyncio.to_thread(prepare_token_file, settings.token_file)
    await create_token("bootstrap", "admin", text=text)
    if settings.bootstrap_token is None:
        print(f"The first admin token is in {settings.token_file}", flush=True)


def prepare_token_file(path: Path) -> str:
    """Return the token in a file, whose mode becomes 0600; a random one if there is none yet.

    Clients of an earlier database so have a valid token. Raise CannotStart if the file cannot be
    written.
    """
    try:
        text = path.read_text().strip() if path.exists() else ""
        if len(text) < TOKEN_LENGTH_MIN:
            text = secrets.token_urlsafe(32)
        # A new file takes the place of the old one, which another process may have open.
        new = path.with_name(f"{path.name}.new")
        new.unlink(missing_ok=True)
        new.touch(mode=0o600, exist_ok=False)
        new.write_text(f"{text}\n")
        new.replace(path)
    except (OSError, UnicodeDecodeError) as error:
        raise CannotStart(f"cannot write the first admin token to {path}: {error}") from error
    return text


async def _handle_stop_signals(app: Sanic[Any, Any]) -> None:
    """Handle SIGTERM and SIGINT, because Sanic loses a signal that arrives during the start.

    Sanic runs the event loop once for the start and once for serving. uvloop drops a signal that
    arrives between the two runs, and a stop at the end of the first run does not stop the second.
    Seen with Sanic 25.12 and uvloop 0.23; no issue is known.
    """
    if threading.current_thread() is not threading.main_thread():
        app.ctx.started = True
        return
    requested: asyncio.Event = app.ctx.stop_requested
    start = asyncio.current_task()
    assert start is not None

    async def stop_on_request() -> None:
        reasons = {requested, app.ctx.background.claim_lost}
        waits = [asyncio.create_task(reason.wait()) for reason in reasons]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait([start])
        app.ctx.started = True
        while True:
            app.stop(terminate=False)
            await asyncio.sleep(0.1)

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(requested.set))
    app.ctx.ending = asyncio.create_task(stop_on_request())


async def _announce(app: Sanic[Any, Any]) -> None:
    app.ctx.announcing = asyncio.create_task(_announce_ready(app))


async def _announce_ready(app: Sanic[Any, Any]) -> None:
    """Print that the service is ready once the hosts have been observed."""
    services = app.ctx.services
    settings: Settings = services.settings
    await services.observer.wait_observed()
    faults = [
        f"host {host.name} is {host.status}: {host.message}"
        for host in await list_hosts()
        if host.status != HostStatus.READY
    ]
    address = f"{settings.scheme}://{settings.host}:{settings.port}"
    print(f"Virtplay is ready at {address} (API documentation: {address}/docs)", flush=True)
    for fault in faults:
        print(f"  {fault}", flush=True)


async def _stop(app: Sanic[Any, Any]) -> None:
    for name in ("ending", "announcing"):
        if task := getattr(app.ctx, name, None):
            task.cancel()
    background: Background | None = getattr(app.ctx, "background", None)
    if background is not None:
        await background.stop()


async def _close(app: Sanic[Any, Any]) -> None:
    background: Background | None = getattr(app.ctx, "background", None)
    if background is not None:
        await background.close()
    if (claim := getattr(app.ctx, "claim", None)) is not None:
        app.ctx.claim = None
        os.close(claim)


def fault_of(app: Sanic[Any, Any]) -> str:
    """Return why an application that has ended could not go on; empty if it was asked to end."""
    background: Background | None = getattr(app.ctx, "background", None)
    return background.claim.fault if background is not None else ""
