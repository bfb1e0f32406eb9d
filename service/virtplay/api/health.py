"""API: /healthz and /readyz."""

from virtplay import __version__
from virtplay.api.http.envelope import ApiResponse
from virtplay.api.http.requests import ApiRequest
from virtplay.api.schemas.service import HealthOut
from virtplay.store.database import DatabaseError
from virtplay.store.vms import list_hosts


async def healthz(request: ApiRequest) -> ApiResponse:
    """GET /healthz: report that the process responds."""
    return ApiResponse(HealthOut(status="ok", version=__version__).model_dump())


async def readyz(request: ApiRequest) -> ApiResponse:
    """GET /readyz: 503 until the database responds and every host was observed or could not be."""
    checks: dict[str, object] = {}
    try:
        hosts = await list_hosts()
        checks["database"] = "ok"
        checks["hosts"] = {host.name: host.status for host in hosts}
    except (DatabaseError, OSError) as error:
        checks["database"] = str(error)
    observed = request.services.observer.has_observed
    checks["observation"] = "ok" if observed else "the first one has not ended yet"
    ready = observed and checks["database"] == "ok"
    out = HealthOut(status="ok" if ready else "starting", version=__version__, checks=checks)
    return ApiResponse(out.model_dump(), 200 if ready else 503)
