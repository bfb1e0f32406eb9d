"""API: /vms/{id}/console, and the websocket /console/{id} that carries its bytes."""

import asyncio
import re
from urllib.parse import urlsplit

from sanic import Request

from virtplay.api.http import websocket
from virtplay.api.http.envelope import ApiResponse
from virtplay.api.http.requests import ApiRequest
from virtplay.api.schemas.console import ConsoleOut, ConsoleQuery
from virtplay.errors import Forbidden, ValidationFailed
from virtplay.services import Services
from virtplay.settings import Settings
from virtplay.times import time_text

SUBPROTOCOLS = ("binary",)
"""The subprotocol that older noVNC clients request; it is optional."""
HOST = re.compile(r"[A-Za-z0-9._-]{1,253}(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:[0-9]{1,5})?")
WEBSOCKET_SCHEMES = {"http": "ws", "https": "wss"}


async def get_console(request: ApiRequest) -> ApiResponse:
    """GET /vms/{id}/console."""
    query: ConsoleQuery = request.query
    base = websocket_base(request.services.settings, request.address)
    opened = await request.services.consoles.open(request.caller, request.path["id"], query.type)
    out = ConsoleOut(
        type=opened.type,
        host=opened.host,
        port=opened.port,
        password=opened.password,
        url=f"{base}/console/{opened.vm.ref}?ticket={opened.ticket}",
        expiresAt=time_text(opened.expires_at) or "",
        jobId=opened.job.ref if opened.job else None,
    )
    return ApiResponse(out.model_dump(mode="json"))


async def serve_console(request: Request, services: Services, ref: str) -> None:
    """GET /console/{id}?ticket=…, upgraded to a websocket after all checks."""
    protocol = websocket.prepare(request, SUBPROTOCOLS)
    refuse_foreign_origin(services.settings, request)
    tickets = request.get_args(keep_blank_values=True).getlist("ticket") or []
    if len(tickets) != 1 or not tickets[0]:
        raise Forbidden(
            f"cannot open the console of VM {ref}: get a ticket from GET /api/v1/vms/{ref}/console"
        )
    vm, ticket = await services.consoles.admit(ref, tickets[0])
    client = await websocket.accept(request, protocol)
    stream = asyncio.create_task(services.consoles.carry(vm, ticket, client))
    try:
        await asyncio.shield(stream)
    except asyncio.CancelledError:
        # Sanic cancels the handler when the client disconnects; the stream notices that and ends.
        await asyncio.wait({stream})


def websocket_base(settings: Settings, host: str) -> str:
    """Return ws(s)://host[:port] as the client reaches the service; `host` is its Host header.

    ValidationFailed when that is no host. What a proxy says of itself is not believed.
    """
    if settings.public_url:
        parts = urlsplit(settings.public_url)
        return f"{WEBSOCKET_SCHEMES[parts.scheme]}://{parts.netloc}"
    if not HOST.fullmatch(host):
        raise ValidationFailed(
            "cannot determine the address of the console: the Host header is invalid"
        )
    return f"{WEBSOCKET_SCHEMES[settings.scheme]}://{host}"


def refuse_foreign_origin(settings: Settings, request: Request) -> None:
    """Raise Forbidden unless the connecting page has the service's origin, or a listed one.

    Browsers always say whose page it is; a program that is no browser says it too, so that none
    can be made to connect without.
    """
    given = request.headers.getall("origin", [])
    if len(given) == 1 and is_known_origin(settings, given[0], request.headers.get("host", "")):
        return
    shown = repr(given[0][:100]) if given else "none"
    raise Forbidden(
        f"cannot open a console: origin {shown} is not allowed; add it to VIRTPLAY_CONSOLE_ORIGINS"
    )


def is_known_origin(settings: Settings, origin: str, host: str) -> bool:
    """Return whether an Origin header is the service's own, its public or a listed origin."""
    if origin in settings.origins:
        return True
    scheme, separator, name = origin.partition("://")
    # A reverse proxy may terminate TLS.
    return bool(
        separator
        and scheme in WEBSOCKET_SCHEMES
        and HOST.fullmatch(host)
        and name.lower() == host.lower()
    )
