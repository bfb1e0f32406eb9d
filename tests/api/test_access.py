"""API tests: who may do what."""

from datetime import UTC, datetime, timedelta

import httpx
import pytest
from virtplay.api.http.auth import Role
from virtplay.api.routes import ROUTES
from virtplay.store.models import AuditEntry, Job, Token, Vm
from virtplay.store.tokens import create_token, revoke_token

from tests.api.conftest import ADMIN, BODY, Service
from tests.api.test_vms import RUNNING, put_vm

GUARDED = [route for route in ROUTES if route.role > Role.NOBODY]
MUTATIONS = [route for route in GUARDED if route.method != "GET"]


def url_of(path: str) -> str:
    """A route's path with values for its parameters."""
    return path.replace("{id}", "vm-001").replace("{name}", "kvm1")


async def ask(
    service: Service, headers: dict[str, str], path: str = "/api/v1/vms"
) -> httpx.Response:
    """GET with these headers and no others of ours."""
    async with httpx.AsyncClient(base_url=service.address) as stranger:
        return await stranger.get(path, headers=headers)


async def test_every_route_of_the_api_wants_a_token(service: Service) -> None:
    service.settings.login_failures = 10**6
    assert {r.path for r in ROUTES if r.role == Role.NOBODY} == {"/healthz", "/readyz"}
    async with httpx.AsyncClient(base_url=service.address) as stranger:
        for route in GUARDED[:9]:
            answer = await stranger.request(route.method, url_of(route.path), json={})
            assert answer.status_code == 401, route
            assert answer.json()["error"]["code"] == "UNAUTHORIZED"
            assert answer.headers["www-authenticate"] == "Bearer"


NO_LOGINS = [
    "",
    "Bearer",
    f"Basic {ADMIN}",
    ADMIN,
    f"Bearer {ADMIN}x",
    f"Bearer x{ADMIN}",
    f"Bearer {ADMIN.upper()}",
    "Bearer null",
    f"Bearer {ADMIN},{ADMIN}",
    "Bearer \xff\xfe",
    "Bearer " + "x" * 8000,
    f"Token {ADMIN}",
    "Bearer %00",
]


async def test_headers_that_are_no_login(service: Service) -> None:
    async with httpx.AsyncClient(base_url=service.address) as stranger:
        for header in NO_LOGINS:
            answer = await stranger.get(
                "/api/v1/vms", headers=[(b"Authorization", header.encode("latin-1"))]
            )
            assert answer.status_code in (401, 429), answer.text
            assert ADMIN not in answer.text


@pytest.mark.parametrize("header", [f"Bearer {ADMIN}", f"bearer {ADMIN}", f"BEARER   {ADMIN}"])
async def test_headers_that_are_a_login(service: Service, header: str) -> None:
    assert (await ask(service, {"Authorization": header})).status_code == 200


@pytest.mark.parametrize("query", ["token", "access_token", "authorization", "api_key"])
async def test_a_token_in_the_query_is_no_login(service: Service, query: str) -> None:
    answer = await ask(service, {}, f"/api/v1/vms?{query}={ADMIN}")
    assert answer.status_code == 401
    assert not any(ADMIN in line for line in service.logs)


async def test_a_viewer_reads_everything_and_changes_nothing(service: Service) -> None:
    viewer = await service.as_role("viewer")
    vm = await put_vm(RUNNING)
    for route in MUTATIONS:
        answer = await service.client.request(
            route.method, url_of(route.path), json=BODY if route.path.endswith("/vms") else {},
            headers=viewer,
        )  # fmt: skip
        assert answer.status_code == 403, route
        assert answer.json()["error"]["code"] == "FORBIDDEN"
    assert await Job.all().count() == await AuditEntry.all().count() == 0
    assert (await Vm.get()).status == vm.status
    for path in ("/vms", "/vms/vm-001", "/vms/vm-001/status", "/jobs", "/hosts", "/templates"):
        answer = await service.client.get(f"/api/v1{path}", headers=viewer)
        assert answer.status_code == 200, path


async def test_a_wrong_body_of_a_viewer_is_still_forbidden(service: Service) -> None:
    viewer = await service.as_role("viewer")
    answer = await service.client.post("/api/v1/vms", content=b"NaN", headers=viewer)
    assert answer.status_code == 403


async def test_an_operator_changes_vms_and_is_named_in_the_audit(service: Service) -> None:
    operator = await service.as_role("operator", name="ci")
    answer = await service.client.post("/api/v1/vms", json=BODY, headers=operator)
    assert answer.status_code == 202
    job = await service.get(f"/jobs/{answer.json()['data']['jobId']}")
    assert job["requestedBy"] == "operator-ci"
    assert (await AuditEntry.get()).actor == "operator-ci"


async def test_revoked_and_expired_tokens_are_refused_from_the_next_request_on(
    service: Service,
) -> None:
    headers = await service.as_role("operator")
    assert (await ask(service, headers)).status_code == 200
    await revoke_token("operator-one")
    assert (await ask(service, headers)).status_code == 401
    text = await create_token("brief", "viewer", datetime.now(UTC) + timedelta(minutes=1))
    brief = {"Authorization": f"Bearer {text}"}
    assert (await ask(service, brief)).status_code == 200
    await Token.filter(name="brief").update(expires_at=datetime.now(UTC))
    assert (await ask(service, brief)).status_code == 401


async def test_many_guesses_are_429_and_lock_nobody_out(service: Service) -> None:
    wrong = {"Authorization": "Bearer wrong"}
    answers = [await ask(service, wrong) for _ in range(service.settings.login_failures)]
    assert {answer.status_code for answer in answers} == {401}
    answer = await ask(service, {**wrong, "X-Forwarded-For": "192.0.2.77", "X-Real-IP": "192.0.2.7",
                                 "Forwarded": "for=192.0.2.8"})  # fmt: skip
    assert answer.status_code == 429
    assert answer.json()["error"]["code"] == "RATE_LIMITED"
    assert 1 <= int(answer.headers["retry-after"]) <= 61
    assert answer.headers["x-request-id"]
    assert (await ask(service, {})).status_code == 429
    assert (await ask(service, {"Authorization": f"Bearer {ADMIN}"})).status_code == 200


async def test_the_bootstrap_token_is_an_admin_and_not_stored(service: Service) -> None:
    token = await Token.get()
    assert (token.name, token.role) == ("bootstrap", "admin")
    assert ADMIN not in repr(await Token.all().values())
    for path in service.settings.state_dir.rglob("*"):
        assert not path.is_file() or ADMIN.encode() not in path.read_bytes()
    assert not any(ADMIN in line for line in service.logs)


async def test_a_forged_host_header_changes_nothing(service: Service) -> None:
    answer = await service.client.post(
        "/api/v1/vms", json=BODY, headers={"Host": "evil.example", "X-Forwarded-Host": "evil"}
    )
    assert answer.headers["location"] == "/api/v1/jobs/job-000001"
