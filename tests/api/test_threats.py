"""API tests: hostile input over HTTP, class by class."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain.seed import clean_hostname
from virtplay.store.models import AuditEntry, Job, Vm

from tests.api.conftest import BODY, Service, only_sqlite
from tests.api.test_vms import RUNNING, add_vm, put_vm
from tests.unit.service.test_parsing import BODY_FAULTS

LITERAL = [
    "{{ lookup('pipe','touch CANARY') }}",
    "{{ lookup('ansible.builtin.pipe', 'touch CANARY') }}",
    "{% for x in range(999) %}{{ x }}{% endfor %}",
    "{{ ''.__class__.__mro__ }}",
    "{# #}{{ 7*7 }}",
    "{{",
    "}}",
    "!unsafe x",
    "$(touch CANARY)",
    "`touch CANARY`",
    "x; touch CANARY",
    "x && touch CANARY",
    "| touch CANARY",
    "-e x=y",
    "--limit=all",
    "a b creates=/etc/passwd",
    "name=x state=absent",
    "</name><devices><disk/></devices>",
    "<!DOCTYPE x [<!ENTITY y SYSTEM 'file:///etc/passwd'>]>",
    "&y; &lt; &#0;",
    "]]><x/>",
    "../../etc/passwd",
    "/etc/passwd",
    "%2e%2e%2f",
    "%s%s%n",
    "'; DROP TABLE vm; --",
    '" OR ""="',
    "\\x00\\n",
    "a: b # c",
    "- &a [*a]",
    "null",
    "true",
    "1e999",
    "الاسم",
]
"""Texts that are fine as labels and must reach their end to the letter."""

LINES = ["a\nruncmd: [reboot]", "a\tb"]
"""Texts that a description may be, and no name or label."""
REFUSED = ["a\r\nb", "a\x00b", "a\x1b[2J", "\u202eevil", "a\u2066b",
           "a\u2028b", "a\x85b", "\ufeffa", "\ue000", "a\u200b"]  # fmt: skip
"""Texts that no field may be."""

STRUCTURES: list[Any] = [
    {"__ansible_unsafe": "x"},
    {"__ansible_vault": "$ANSIBLE_VAULT;1.1;AES256"},
    {"__ansible_type": "x"},
    [],
    ["x"],
    7,
    1.5,
    True,
    None,
]


CONNECTION = [
    "ansible_host", "ansible_connection", "ansible_become_password", "__proto__", "uuid", "id",
    "libvirt_domain_uri", "status", "generation", "job", "jobId",
]  # fmt: skip


async def alive(service: Service) -> None:
    """The service answers the next request."""
    assert (await service.client.get("/api/v1/vms?limit=1")).status_code == 200


async def test_literal_texts_stay_what_they_are_and_run_nowhere(
    service: Service, tmp_path: Path
) -> None:
    canary = tmp_path / "canary"
    for text in LITERAL:
        hostile = text.replace("CANARY", str(canary))[:64].strip()
        data = await service.create(
            name=hostile, description=hostile, labels={"k": hostile}, cpu=1, memory=32, disk=1
        )
        shown = await service.get(f"/vms/{data['id']}")
        assert (shown["name"], shown["description"]) == (hostile, hostile)
        assert shown["labels"] == {"k": hostile}
        job = await Job.get(ref=data["jobId"])
        assert job.variables["libvirt_domain_title"] == hostile
        label = clean_hostname(hostile, fallback=job.variables["libvirt_domain_name"])
        assert re.fullmatch("[a-z0-9]([a-z0-9-]*[a-z0-9])?", label)
        assert "libvirt_domain_hostname" not in job.variables
        found = await service.get("/vms", search=hostile, limit=100)
        assert data["id"] in {vm["id"] for vm in found["vms"]}
        await Job.all().delete()
        await Vm.all().delete()
    assert not canary.exists()


@pytest.mark.parametrize("field", ["name", "description", "labels"])
async def test_texts_that_are_refused_change_nothing(service: Service, field: str) -> None:
    vm = await put_vm(RUNNING)
    for text in REFUSED if field == "description" else [*REFUSED, *LINES]:
        value: Any = {"k": text} if field == "labels" else text
        answer = await service.post("/vms", {**BODY, field: value})
        assert answer.status_code == 400, (text, answer.text)
        fields = {f["field"].split(".")[0] for f in answer.json()["error"]["details"]["fields"]}
        assert fields in ({field}, {"body"})
        answer = await service.client.put(f"/api/v1/vms/{vm.ref}", json={field: value})
        assert answer.status_code == 400, (text, answer.text)
    assert await Vm.all().count() == 1
    assert await Job.all().count() == await AuditEntry.all().count() == 0
    await alive(service)


@only_sqlite
@pytest.mark.parametrize(
    "field", ["name", "template", "host", "description", "userData", "clone", "cpu", "memory"]
)
async def test_structures_are_no_scalars(service: Service, field: str) -> None:
    for value in STRUCTURES:
        fits = {"cpu": 7, "memory": None, "host": None, "userData": None}
        if field in fits and value is not True and value == fits[field]:
            continue
        answer = await service.post("/vms", {**BODY, field: value})
        assert answer.status_code == 400, (value, answer.text)
        fields = [f["field"] for f in answer.json()["error"]["details"]["fields"]]
        assert fields == [field]
    assert await Vm.all().count() == 0


@only_sqlite
async def test_connection_variables_are_unknown_fields(service: Service) -> None:
    extra = dict.fromkeys(CONNECTION, "x")
    answer = await service.post("/vms", {**BODY, **extra})
    assert answer.status_code == 400
    fields = {f["field"] for f in answer.json()["error"]["details"]["fields"]}
    assert fields == set(extra)
    answer = await service.post("/vms", {**BODY, "network": extra})
    assert {f["field"] for f in answer.json()["error"]["details"]["fields"]} == {
        f"network.{name}" for name in extra
    }


@only_sqlite
async def test_every_json_fault_over_http(service: Service) -> None:
    await add_vm(RUNNING)
    headers = {"Content-Type": "application/json"}
    routes = (("POST", "/vms"), ("PUT", "/vms/vm-001"), ("POST", "/vms/vm-001/stop"))
    for raw, _ in BODY_FAULTS:
        for method, path in routes:
            answer = await service.client.request(
                method, f"/api/v1{path}", content=raw, headers=headers
            )
            assert answer.status_code == 400, (raw[:40], path, answer.text)
            assert answer.json()["error"]["code"] == "VALIDATION_ERROR"
    assert await Job.all().count() == 0
    await alive(service)


@only_sqlite
async def test_a_body_where_none_is_wanted(service: Service) -> None:
    await add_vm(RUNNING)
    for path in ("pause", "resume", "start"):
        answer = await service.post(f"/vms/vm-001/{path}", {"force": True})
        assert answer.status_code == 400
        answer = await service.client.post(f"/api/v1/vms/vm-001/{path}", content=b"force=true")
        assert answer.status_code == 400
    answer = await service.client.request("DELETE", "/api/v1/vms/vm-001?force=true", content=b"[]")
    assert answer.status_code == 400
    assert await Job.all().count() == 0


@only_sqlite
async def test_odd_queries_delete_nothing(service: Service) -> None:
    await add_vm(RUNNING)
    for query in ("force=true&force=false", "force=maybe", "Force=true", "keepDisks=",
                  "keepdisks=1", "force=true&x=1", "force[]=true", "force=true%00"):  # fmt: skip
        answer = await service.client.delete(f"/api/v1/vms/vm-001?{query}")
        assert answer.status_code == 400, answer.text
    assert await Job.all().count() == 0


@only_sqlite
async def test_absurd_queries(service: Service) -> None:
    for query in ("&".join(f"x{n}=1" for n in range(2000)), "page=" + "9" * 6000, "a" * 7000,
                  "&&&&", "=", "%", "%zz", "search=" + "%41" * 129, "page=1;limit=2"):  # fmt: skip
        answer = await service.client.get(f"/api/v1/vms?{query}")
        assert answer.status_code in (200, 400, 414), (query[:40], answer.text)
        assert "success" in answer.json()
    await alive(service)


IDS = [
    "..%2fhosts", "%2e%2e", "%252e%252e%252f", "%00", "vm-001%00", "vm-001%0a", "a" * 300, "*",
    "vm-001'%20OR%201=1--", "vm-%D9%A0%D9%A0%D9%A1", "%F0%9F%9A%80", "%ED%A0%80", "%FF", "-1", "1",
    "vm-0001", "vm-001%20", "%25", "_______",
]  # fmt: skip


async def test_odd_ids_find_nothing(service: Service) -> None:
    await add_vm(RUNNING)
    for path in IDS:
        for method, tail in (("GET", ""), ("POST", "/stop"), ("DELETE", "?force=true")):
            answer = await service.client.request(method, f"/api/v1/vms/{path}{tail}")
            assert answer.status_code in (404, 405), (method, path, answer.text)
            assert answer.json()["success"] is False
        for place in ("hosts", "jobs"):
            answer = await service.client.get(f"/api/v1/{place}/{path}")
            assert answer.status_code == 404, (place, path)
    assert await Job.all().count() == 0


@pytest.mark.slow
@only_sqlite
async def test_hostile_texts_through_a_real_play(playing: Service, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    texts = [text.replace("CANARY", str(canary)) for text in LITERAL]
    labels = {f"k{number}": text for number, text in enumerate(texts)}
    key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl "
    user_data = "#!/bin/sh\n" + "\n".join(texts) + "\n"
    data = await playing.create(
        name="{{ lookup('pipe','id') }}",
        description=texts[0],
        labels=labels,
        sshKeys=[key + texts[0]],
        userData=user_data,
    )
    await playing.succeed(data["jobId"])
    given = playing.hosts["kvm1"].calls("create")[0]["given"]
    assert given["title"] == "{{ lookup('pipe','id') }}"
    assert given["description"] == texts[0]
    assert given["labels"] == labels
    assert given["ssh_keys"] == [key + texts[0]]
    assert given["user_data"] == user_data
    assert not canary.exists()
    log = (await playing.client.get(f"/api/v1/jobs/{data['jobId']}/log")).text
    assert "uid=" not in log
    job = await playing.get(f"/jobs/{data['jobId']}")
    assert "uid=" not in json.dumps(job)
