"""The modules that play the hosts in the API tests answer as the real ones are documented to."""

from __future__ import annotations

import importlib.util
import json
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.testing import patch_module_args
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain.plan import (
    Applies,
    Current,
    applies_at,
    plan_update,
)
from ansible_collections.virtplay.libvirt.plugins.module_utils.states import DomainState

from tests.api.fake_hosts import FakeHost, foreign_domain, snapshot_entry

ROOT = Path(__file__).parents[2]
MODULES = ROOT / "collections/ansible_collections/virtplay/libvirt/plugins/modules"
FAKES = ROOT / "tests/api/project/library"
IDENTITY = str(uuid.UUID(int=1))
NEW = {
    "uuid": IDENTITY, "name": "vm-001", "title": "web", "description": "the front",
    "template": "micro", "os": "micro", "vcpus": 2, "memory": 512, "disk": 3, "job": "job-000001",
    "generation": 1, "network": {"type": "network", "network": "default"}, "labels": {"a": "b"},
    "state": "stopped", "autostart": False,
}  # fmt: skip
CHOICES = {
    "applies": {str(each) for each in Applies},
    "applies_at": {"now", "next_boot"},
    "state": {str(each) for each in DomainState},
}
FREE = ("before", "after", "labels")
"""Keys whose values have a type of their own each time."""
SOMETIMES = (
    *("pending", "filesystems", "generation", "restart_job", "addresses", "stats", "stuck"),
    "metadata",
)
"""Keys of an observed domain that not each has."""
PARTIAL = ("pending", "stats")
"""Keys whose values hold only some of what the sample holds."""


def documented(module: str) -> dict[str, dict[str, Any]]:
    """RETURN of a module: key → its description."""
    text = (MODULES / f"{module}.py").read_text()
    returned = yaml.safe_load(text.split('RETURN = r"""', 1)[1].split('"""', 1)[0])
    return {key: entry for key, entry in returned.items() if entry["returned"] != "failure"}


def sample_of(entry: Mapping[str, Any]) -> Any:
    """The sample of an entry of RETURN, or of all its parts."""
    if "sample" in entry:
        return entry["sample"]
    samples = {
        key: sample_of(each)
        for key, each in entry["contains"].items()
        if not each.get("returned", "").startswith("if it has failed")
    }
    if "domain" in samples:
        samples["domain"] = DOMAIN
    if "domains" in samples:
        # With what the module domain returns of each.
        samples["domains"] = [{**DOMAIN, **domain} for domain in samples["domains"]]
    return [samples] if entry["type"] == "list" else samples


DOMAIN = sample_of(documented("domain")["domain"])
DOMAIN["pending"] = {key: DOMAIN[key] for key in ("vcpus", "vcpus_max", "memory", "memory_max")}


def differences(value: Any, sample: Any, where: str) -> Iterator[str]:
    """How an answer differs from the sample in keys, types and choices; null may be any scalar."""
    key = where.rsplit(".", 1)[-1]
    if key in FREE or (value is None and key in SOMETIMES):
        return
    if isinstance(sample, Mapping):
        if not isinstance(value, Mapping):
            yield f"{where} is {value!r}"
            return
        yield from (f"{where}.{name} is unknown" for name in value.keys() - sample.keys())
        missing = sample.keys() - value.keys() - set(SOMETIMES)
        if key in PARTIAL:
            missing = set()
        yield from (f"{where}.{name} is missing" for name in missing)
        for name in sample.keys() & value.keys():
            yield from differences(value[name], sample[name], f"{where}.{name}")
    elif isinstance(sample, list):
        if not isinstance(value, list):
            yield f"{where} is {value!r}"
            return
        for each in value:
            yield from differences(each, sample[0], where)
    elif value is not None:
        if sample is not None and type(value) is not type(sample):
            yield f"{where} is {value!r}, and not a {type(sample).__name__}"
        if key in CHOICES and value not in CHOICES[key]:
            yield f"{where} is {value!r}, which is no choice"


def check(module: str, answer: Mapping[str, Any]) -> None:
    """Compare the whole answer of a fake with RETURN of the module that it plays."""
    entries = documented(module)
    unasked = {key for key, entry in entries.items() if entry["returned"] != "success"}
    keys = answer.keys() - {"changed", "invocation"}
    assert keys <= entries.keys()
    assert entries.keys() - keys - {"changed"} <= unasked
    for key in keys:
        if answer[key] is None and "ull if" in str(entries[key]["description"]):
            continue
        sample = DOMAIN if key == "domain" else sample_of(entries[key])
        assert list(differences(answer[key], sample, key)) == []
    if "changes" in answer:
        assert answer["changed"] == bool(answer["changes"])
        waits = any(change["applies"] == "next_boot" for change in answer["changes"])
        expected = ("next_boot" if waits else "now") if answer["changes"] else None
        assert answer["applies_at"] == expected


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    return FakeHost("kvm1", tmp_path)


@pytest.fixture
def call(host: FakeHost, capsys: pytest.CaptureFixture[str]) -> Any:
    """Call a fake, and compare its answer."""

    def run(module: str, fake: str = "", **arguments: Any) -> dict[str, Any]:
        path = FAKES / f"fake_{fake or module}.py"
        specification = importlib.util.spec_from_file_location(path.stem, path)
        assert specification is not None
        assert specification.loader is not None
        loaded = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(loaded)
        with (
            patch_module_args({"hypervisor": str(host.path), **arguments}),
            pytest.raises(SystemExit),
        ):
            loaded.main()
        answer: dict[str, Any] = json.loads(capsys.readouterr().out)
        assert "failed" not in answer, answer
        check(module, answer)
        return answer

    return run


def test_life_of_a_domain(call: Any) -> None:
    def act(action: str, **given: Any) -> dict[str, Any]:
        answer: dict[str, Any] = call(
            "domain", action=action, given={"uuid": IDENTITY, "name": "vm-001", **given}
        )
        return answer

    act("create", **NEW)
    for action in ("start", "start", "pause", "resume", "restart"):
        act(action)
    assert act("update", vcpus=9)["applies_at"] == "next_boot"
    assert act("stop", force=True)["domain"]["vcpus"] == 9
    act("update", title="other", disk=5)
    assert call("host_info")["host_info"]["domains"]
    assert act("delete")["domain"] is None
    assert act("delete")["changes"] == []


def test_many_domains(call: Any) -> None:
    call("domain", action="create", given=NEW)
    domain = {"uuid": IDENTITY, "name": "vm-001", "job": "job-000002", "generation": 2}
    for state in ("running", "paused", "resumed", "restarted", "stopped", "stopped"):
        answer = call("power", fake="domain", domains=[{**domain, "state": state, "force": True}])
        assert answer["domains"][0]["failed"] is False


@pytest.mark.parametrize("state", ["running", "stopped"])
@pytest.mark.parametrize(
    "given",
    [
        {"title": "other", "description": "else"}, {"title": "web"}, {"autostart": True},
        {"vcpus": 3}, {"vcpus": 9}, {"vcpus": 1}, {"memory": 256}, {"memory": 1024},
        {"disk": 9}, {"disk": 3}, {"labels": {"c": "d"}}, {"labels": {"a": "b"}},
    ],
)  # fmt: skip
def test_changes_are_those_of_the_real_plan(
    call: Any, host: FakeHost, state: str, given: dict[str, Any]
) -> None:
    call("domain", action="create", given={**NEW, "state": state})
    (domain,) = host.domains()
    desired: dict[str, Any] = dict(given)
    if "disk" in desired:
        desired["disks"] = [{"target": "vda", "size": desired.pop("disk")}]
    if "labels" in desired:
        desired["metadata"] = {"labels": desired.pop("labels")}
    current = Current(
        state=DomainState(state),
        flags={"autostart": domain["autostart"]},
        persistent=True,
        config=domain,
        live=domain,
        capacities={disk["target"]: disk["capacity_bytes"] for disk in domain["disks"]},
    )
    changes = plan_update(current, desired).changes
    answer = call("domain", action="update", given={"uuid": IDENTITY, "name": "vm-001", **given})
    assert answer["changes"] == [change.as_dict() for change in changes]
    assert answer["applies_at"] == applies_at(changes)


def test_snapshots(call: Any) -> None:
    given = {"uuid": IDENTITY, "domain": "vm-001", "job": "job-000002"}
    call("domain", action="create", given=NEW)
    call("snapshot", action="snapshot_create", given={**given, "name": "one"})
    call("snapshot", action="snapshot_create", given={**given, "name": "one"})
    call("domain", action="start", given={"uuid": IDENTITY, "name": "vm-001"})
    call("snapshot", action="snapshot_create", given={**given, "name": "two", "title": "Two"})
    guard = {"guard": "before", "guard_title": "Before", "force": True}
    call("snapshot", action="snapshot_restore", given={**given, "name": "one", **guard})
    call("snapshot", action="snapshot_delete", given={**given, "name": "one"})
    call("snapshot", action="snapshot_delete", given={**given, "name": "one"})
    assert len(call("host_info")["host_info"]["domains"][0]["snapshots"]) == 2


@pytest.mark.parametrize("kind", ["vnc", "serial"])
def test_consoles(call: Any, kind: str) -> None:
    call("domain", action="create", given={**NEW, "state": "running"})
    call("console", uuid=IDENTITY, type=kind, password="secret", seconds=60)


def test_domains_of_others(call: Any, host: FakeHost) -> None:
    host.put(foreign_domain(snapshots=[snapshot_entry("one")]))
    call("host_info")
