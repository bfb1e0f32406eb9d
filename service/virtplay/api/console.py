"""API: /vms/{id}/console, and the websocket /console/{id} on which its bytes come."""

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
"""What older noVNC clients ask for; a client may do without."""
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
        jobId=str(opened.job.ref),
    )
    return ApiResponse(out.model_dump(mode="json"))


async def serve_console(request: Request, services: Services, ref: str) -> None:
    """GET /console/{id}?ticket=…, upgraded to a websocket once everything is found right."""
    protocol = websocket.prepare(request, SUBPROTOCOLS)
    refuse_foreign_origin(services.settings, request)
    tickets = request.get_args(keep_blank_values=True).getlist("ticket") or []
    if len(tickets) != 1 or not tickets[0]:
        raise Forbidden(
            f"cannot open the console of VM {ref}: ask GET /api/v1/vms/{ref}/console for a ticket"
        )
    vm, ticket = await services.consoles.admit(ref, tickets[0])
    client = await websocket.accept(request, protocol)
    stream = asyncio.create_task(services.consoles.carry(vm, ticket, client))
    try:
        await asyncio.shield(stream)
    except asyncio.CancelledError:
        # Sanic cancels the handler when the client goes; the stream sees that too, and ends.
        await asyncio.wait({stream})


def websocket_base(settings: Settings, host: str) -> str:
    """ws(s)://host[:port] as the client reaches the service; `host` is what it calls it.

    ValidationFailed when that is no host. What a proxy says of itself is not believed.
    """
    if settings.public_url:
        parts = urlsplit(settings.public_url)
        return f"{WEBSOCKET_SCHEMES[parts.scheme]}://{parts.netloc}"
    if not HOST.fullmatch(host):
        raise ValidationFailed("cannot tell where the console is: the Host header is no host")
    return f"{WEBSOCKET_SCHEMES[settings.scheme]}://{host}"


def refuse_foreign_origin(settings: Settings, request: Request) -> None:
    """Forbidden unless the page that connects is the service's own, or a listed one.

    Browsers always say whose page it is; a program that is no browser says it too, so that none
    can be made to connect without.
    """
    given = request.headers.getall("origin", [])
    if len(given) == 1 and is_known_origin(settings, given[0], request.headers.get("host", "")):
        return
    said = repr(given[0][:100]) if given else "none"
    raise Forbidden(
        f"cannot open a console for a page of another origin: it is {said};"
        " VIRTPLAY_CONSOLE_ORIGINS lists further ones"
    )


def is_known_origin(settings: Settings, origin: str, host: str) -> bool:
    """Whether an Origin header is the service's own address, its public one, or a listed one."""
    if origin in settings.origins:
        return True
    scheme, separator, name = origin.partition("://")
    # A proxy before the service may speak TLS for it.
    return bool(
        separator
        and scheme in WEBSOCKET_SCHEMES
        and HOST.fullmatch(host)
        and name.lower() == host.lower()
    )
