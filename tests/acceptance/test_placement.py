"""Acceptance tests: placement with the hosts' own figures, also under a crowd of requests."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import httpx

from lab.lab import Host
from tests.acceptance.service import MICRO, TWO_INTERVALS, Api, wait_for

CROWD = 20
FITTING = 3


def test_capacity_is_what_the_host_has(api: Api, one: Host, two: Host) -> None:
    before = api.host(one.name)
    total = int(one.run("sed", "-n", "s/MemTotal: *\\([0-9]*\\) kB/\\1/p", "/proc/meminfo").stdout)
    assert abs(before["memory"] - total // 1024) <= 1
    assert before["cpus"] == int(one.run("nproc").stdout)
    assert before["capacity"]["cpu"] == 4 * before["cpus"]
    assert before["capacity"]["memory"] == before["memory"] - 512
    vm = api.create(host=one.name, memory=300, cpu=2, disk=4)
    after = api.host(one.name)
    assert after["allocated"]["memory"] - before["allocated"]["memory"] == 300
    assert after["allocated"]["cpu"] == before["allocated"]["cpu"]  # it is stopped
    assert before["available"]["memory"] - after["available"]["memory"] == 300
    assert after["vms"] - before["vms"] == 1
    # The emptier host is taken next.
    assert api.create()["host"] == two.name
    api.run("POST", f"/vms/{vm['id']}/start")
    assert api.host(one.name)["allocated"]["cpu"] - before["allocated"]["cpu"] == 2
    api.run("DELETE", f"/vms/{vm['id']}?force=true")
    assert api.host(one.name)["allocated"] == before["allocated"]


def test_too_much_is_refused_with_the_figures_of_every_host(api: Api) -> None:
    hosts = {host["name"]: host for host in api.get("/hosts")["hosts"]}
    most = max(host["available"]["memory"] for host in hosts.values())
    body = {"name": "huge", **MICRO, "memory": most + 1}
    error = api.refused(400, "INSUFFICIENT_RESOURCES", "POST", "/vms", body)
    assert error["details"]["needed"]["memory"] == most + 1
    tried = {entry["host"]: entry for entry in error["details"]["hosts"]}
    for name, host in hosts.items():
        available = host["available"]["memory"]
        assert tried[name]["short"] == {"memory": {"needed": most + 1, "available": available}}
        assert f"{name} has (" in error["message"]
    assert f"{most + 1} more needed" in error["message"]
    assert api.vms() == {}


def test_crowd_gets_exactly_as_many_as_fit(api: Api, one: Host) -> None:
    available = api.host(one.name)["available"]["memory"]
    body = {"host": one.name, **MICRO, "memory": available // FITTING}

    def ask(number: int) -> httpx.Response:
        with httpx.Client(base_url=api.http.base_url, headers=api.http.headers) as client:
            return client.post("/vms", json={"name": f"crowd {number}", **body}, timeout=300)

    with ThreadPoolExecutor(CROWD) as pool:
        answers = list(pool.map(ask, range(CROWD)))
    made = [answer.json()["data"] for answer in answers if answer.status_code == 202]
    refused = [answer.json()["error"] for answer in answers if answer.status_code != 202]
    assert len(made) == FITTING
    assert {error["code"] for error in refused} == {"INSUFFICIENT_RESOURCES"}
    for error in refused:
        entry = error["details"]["hosts"][0]
        assert entry["host"] == one.name
        assert entry["short"]["memory"]["needed"] == body["memory"]
        assert entry["short"]["memory"]["available"] < body["memory"]
    for accepted in made:
        api.succeeded(accepted["jobId"])
    assert len(api.vms()) == FITTING
    # What one gives back, another gets.
    api.run("DELETE", f"/vms/{made[0]['id']}")
    assert api.create(name="latecomer", **body)["host"] == one.name
    wait_for("an observation of it all", lambda: len(api.vms()) == FITTING, TWO_INTERVALS)
