"""API tests: a VM is found by its id, UUID, domain and name, and never guessed."""

import logging
import re
from typing import Any
from urllib.parse import quote

import pytest
from tortoise import Tortoise
from virtplay.cli.faults import Refused
from virtplay.errors import VmNotFound
from virtplay.states import VmStatus
from virtplay.store.database import is_sqlite
from virtplay.store.lookup import find_vm, numbers_of
from virtplay.store.models import Job, Vm

from tests.api.conftest import Service
from tests.api.fake_hosts import foreign_domain
from tests.api.test_reports import begin, told
from tests.api.test_schedules import HOURLY
from tests.api.test_vm_lists import fill
from tests.api.test_vms import names, put_vm

RUNNING = VmStatus.RUNNING


async def test_a_vm_is_found_by_each_of_its_names(service: Service) -> None:
    vm = await put_vm(RUNNING, name="Zürich DB/2 ?#", domain="zurich-db-2")
    _ = await put_vm(name="other")
    assert (await service.get("/vms/vm-001"))["domain"] == "zurich-db-2"
    upper = str(vm.uuid).upper()
    for text in ("vm-001", str(vm.uuid), upper, "zurich-db-2", vm.name, "Zu\u0308rich DB/2 ?#"):
        path = f"/vms/{quote(text, safe='')}"
        assert (await service.get(path))["id"] == "vm-001", text
        for below in ("status", "snapshots", "metrics"):
            await service.get(f"{path}/{below}")
        missing = await service.client.get(f"/api/v1{path}/snapshot-schedule")
        assert missing.json()["error"]["code"] == "SCHEDULE_NOT_FOUND"


async def test_a_vm_is_not_unknown_before_the_hosts_were_observed(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    observed = 0

    async def observe() -> None:
        nonlocal observed
        observed += 1
        if observed == 1:
            _ = await put_vm(RUNNING, name="web")

    observer = service.app.ctx.services.observer
    monkeypatch.setattr(observer, "has_observed", False)
    monkeypatch.setattr(observer, "first_observation", observe)
    assert (await service.get("/vms/web"))["id"] == "vm-001"
    assert (await service.get("/vms/web"))["id"] == "vm-001"
    assert observed == 1
    missing = await service.client.get("/api/v1/vms/none")
    assert (missing.status_code, observed) == (404, 2)


async def test_every_change_accepts_a_name(service: Service) -> None:
    _ = await put_vm(RUNNING, name="Web Server")
    path = "/vms/Web%20Server"
    for method, below, body in (
        ("POST", "/pause", {}),
        ("POST", "/stop", {"force": True}),
        ("PUT", "", {"memory": 1024}),
        ("POST", "/snapshots", {"name": "a"}),
        ("DELETE", "?force=true", None),
    ):
        answer = await service.client.request(method, f"/api/v1{path}{below}", json=body)
        assert answer.status_code == 202, answer.text
        assert (await Job.all().order_by("-id").first()).vm_ref == "vm-001"  # type: ignore[union-attr]
        await Job.all().delete()
    answer = await service.client.put(f"/api/v1{path}/snapshot-schedule", json=HOURLY)
    assert answer.json()["data"]["vmId"] == "vm-001"


async def test_what_nobody_is_called_is_not_found(service: Service) -> None:
    _ = await put_vm(name="web")
    for text in ("vm-009", "we", "WEB", "%00", "%FF", "x" * 300, "0" * 36, "%25", "w_b"):
        answer = await service.client.get(f"/api/v1/vms/{text}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "VM_NOT_FOUND"), text


async def test_an_id_wins_then_a_uuid_and_then_whoever_has_the_name(service: Service) -> None:
    first = await put_vm(name="vm-002", domain="a")
    second = await put_vm(name=str(first.uuid), domain="b")
    assert (await find_vm("vm-002")).id == second.id
    assert (await find_vm(str(first.uuid))).id == first.id
    third = await put_vm(name="x", domain="vm-077")
    assert (await find_vm("vm-077")).id == third.id
    assert (await service.get("/vms/vm-077"))["id"] == third.ref


async def test_an_id_of_no_vm_costs_two_queries(
    database: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "tortoise.db_client")
    with pytest.raises(VmNotFound):
        _ = await find_vm("vm-999")
    queries = [line for line in caplog.messages if "FROM" in line]
    assert len(queries) == 2, "as an id, and as a name"


async def test_of_several_none_is_guessed(service: Service) -> None:
    """A domain that is another VM's name counts as well: a delete must not hit the wrong one."""
    _ = await put_vm(RUNNING, name="Web server", domain="web-1", host="kvm1")
    _ = await put_vm(name="web-1", domain="web-1-2", host="kvm2")
    answer = await service.client.delete("/api/v1/vms/web-1")
    assert answer.status_code == 409
    error = answer.json()["error"]
    assert error["code"] == "VM_AMBIGUOUS"
    first, second = error["details"]["vms"]
    assert error["message"] == (
        f"cannot choose a VM: 2 are named web-1: vm-001 (running on kvm1, created"
        f" {first['createdAt']}), vm-002 (stopped on kvm2, created {second['createdAt']}); use an"
        " id"
    )
    assert error["details"]["matches"] == 2
    shown = Refused(error["code"], error["message"], error["details"])
    assert shown.message == "cannot choose a VM: 2 are named web-1; use an id:"
    assert shown.candidates[1].startswith("vm-002 on kvm2, stopped, created ")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", first.pop("createdAt"))
    assert first == {
        "id": "vm-001", "name": "Web server", "domain": "web-1", "host": "kvm1",
        "status": "running",
    }  # fmt: skip
    assert (second["name"], second["domain"]) == ("web-1", "web-1-2")
    assert await Job.all().count() == 0
    assert (await find_vm("web-1-2")).ref == "vm-002"


async def test_an_error_lists_no_more_than_fifty(service: Service) -> None:
    for number in range(52):
        _ = await put_vm(name="same", domain=f"same-{number}")
    error = (await service.client.get("/api/v1/vms/same")).json()["error"]
    assert (error["details"]["matches"], len(error["details"]["vms"])) == (52, 50)
    assert "and 47 more; use an id" in error["message"]


async def test_an_action_on_many_accepts_names_and_acts_once_on_each(service: Service) -> None:
    one = await put_vm(name="one")
    for host in ("kvm1", "kvm2"):
        _ = await put_vm(name="twin", host=host)
    texts = ["one", "vm-001", str(one.uuid), "twin", "gone", "vm-002"]
    answer = await service.post("/vms/actions", {"action": "start", "vms": texts})
    data = answer.json()["data"]
    assert [job["id"] for job in data["jobs"]] == ["vm-001", "vm-002"]
    refused = {each["id"]: each["error"] for each in data["refused"]}
    assert {text: error["code"] for text, error in refused.items()} == {
        "twin": "VM_AMBIGUOUS", "gone": "VM_NOT_FOUND",
    }  # fmt: skip
    assert [vm["host"] for vm in refused["twin"]["details"]["vms"]] == ["kvm1", "kvm2"]


async def test_jobs_are_listed_by_any_name_of_their_vm(service: Service) -> None:
    vm = await put_vm(name="web 1", domain="web-1")
    assert (await service.post(f"/vms/{vm.ref}/start")).status_code == 202
    for text in ("web 1", "web-1", str(vm.uuid), "vm-001"):
        assert (await service.get("/jobs", vm=text))["pagination"]["total"] == 1
    await Vm.all().delete()
    assert (await service.get("/jobs", vm="vm-001"))["pagination"]["total"] == 1
    answer = await service.client.get("/api/v1/jobs?vm=web-1")
    assert answer.json()["error"]["code"] == "VM_NOT_FOUND"


async def test_a_declared_vm_is_found_by_name_and_title(service: Service) -> None:
    await service.see("kvm1", domains=[foreign_domain("web-1", title="Web server")])
    job = (await begin(service))["id"]
    await told(service, job, domains=[{"name": "web-1", "host": "kvm1"}])
    for text in ("web-1", "Web server"):
        vm = await service.get(f"/vms/{quote(text)}")
        assert (vm["name"], vm["domain"]) == ("Web server", "web-1")
        assert await names(service, search=text) == ["Web server"]
        [found] = (await service.get("/jobs", vm=text))["jobs"]
        assert (found["id"], found["vmId"]) == (job, vm["id"])


async def test_search_finds_domains_and_the_beginning_of_uuids(service: Service) -> None:
    _ = await put_vm(
        name="Web server", domain="front-7", uuid="deadbeef-0000-4000-8000-00000000cafe"
    )
    _ = await put_vm(name="other", domain="other", uuid="12345678-0000-4000-8000-000000000000")
    _ = await put_vm(
        name="cafe 0000", domain="cafe-0000", uuid="9" * 8 + "-0000-4000-8000-" + "0" * 12
    )
    assert await names(service, search="front-7") == ["Web server"]
    assert await names(service, search="DEADBEEF") == ["Web server"]
    assert await names(service, search="dead", sort="name", status="stopped") == ["Web server"]
    assert await names(service, search="deadbeef-0000-4000-8000-00000000cafe") == ["Web server"]
    assert await names(service, search="deadbeef00004000") == ["Web server"]
    assert await names(service, search="cafe") == ["cafe 0000"], "only the beginning"
    assert await names(service, search="dea") == []
    assert await names(service, search="dead-beef") == []
    assert await names(service, search="1234") == ["other"]


@pytest.mark.slow
async def test_no_lookup_reads_every_vm(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    await fill(20_000)
    await Vm.filter(ref="vm-77").update(domain="web-1")
    client = Tortoise.get_connection("default")
    asked: list[tuple[str, Any]] = []
    original = type(client).execute_query

    async def note(self: Any, query: str, values: Any = None) -> Any:
        asked.append((query, list(values or ())))
        return await original(self, query, values)

    monkeypatch.setattr(type(client), "execute_query", note)
    many = [f"web-{number}" for number in range(1, 200)]
    assert await numbers_of(["web-7", "web-1"]) == {"web-7": [7], "web-1": [1, 77]}
    assert len(await numbers_of(many)) == 199
    monkeypatch.undo()
    assert asked
    for sql, values in asked:
        explain = "EXPLAIN QUERY PLAN " if is_sqlite() else "EXPLAIN "
        plan = str(await client.execute_query_dict(explain + sql, values))
        assert "Seq Scan" not in plan, plan
        assert "SCAN" not in plan, plan
