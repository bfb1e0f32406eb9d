"""Tests of the module domains: many domains, each with its own fate."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain.diff import build_diff
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain.plan import Change
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain.xml import NAMESPACE
from ansible_collections.virtplay.libvirt.plugins.module_utils.failure import Failure
from ansible_collections.virtplay.libvirt.plugins.modules import domains as module

OURS = f"<metadata><vm xmlns='{NAMESPACE}' id='x'/></metadata>"


class Failed(Exception):
    """The module has failed with a result."""


class FakeTask:
    """Stands for DomainTask: the name of a domain says what becomes of it."""

    seen: list[dict[str, Any]]
    meeting: threading.Barrier | None = None

    def __init__(self, params: dict[str, Any], *, warn: Any, **_: Any) -> None:
        self.params, self.warn = params, warn

    def run(self) -> dict[str, Any]:
        self.seen.append(self.params)
        name = self.params["name"]
        if self.meeting:
            self.meeting.wait(120)
        if name.startswith("bad"):
            raise Failure(f"cannot change {name}: it will not", "VALIDATION_ERROR")
        if name.startswith("bug"):
            raise KeyError("nothing of libvirt's")
        changed = name.startswith("new")
        self.warn(f"about {name}")
        changes = [{"field": "state", "before": "absent"}] if changed else []
        created = [Change("state", "absent", "stopped")]
        diff = {"diff": build_diff(name, created)} if changed else {}
        return {
            "changed": changed,
            "changes": changes,
            "domain": {"name": name},
            "applies_at": None,
            **diff,
        }


def listed(name: str, metadata: str = "") -> Any:
    """A domain as libvirt lists it."""
    xml = (
        f"<domain type='qemu'><name>{name}</name><uuid>u-{name}</uuid>{metadata}<devices/></domain>"
    )
    return SimpleNamespace(
        name=lambda: name,
        UUIDString=lambda: f"u-{name}",
        isActive=lambda: 0,
        XMLDesc=lambda _flags: xml,
    )


@pytest.fixture
def bring(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run the module's work with fake domains on the host; answers its result."""
    FakeTask.seen = []
    FakeTask.meeting = None
    monkeypatch.setattr(module, "DomainTask", FakeTask)

    def run(
        *names: str,
        here: tuple[Any, ...] = (),
        check: bool = False,
        printed: bool = False,
        **params: Any,
    ) -> dict[str, Any]:
        conn = SimpleNamespace(listAllDomains=lambda: list(here))
        monkeypatch.setattr(module, "open_connection", lambda uri: conn)
        warned: list[str] = []

        def fail(**result: Any) -> None:
            raise Failed(result)

        fake: Any = SimpleNamespace(
            fail_json=fail,
            params={
                "uri": "test:///default",
                "domains": [{**module._unset(), "name": name} for name in names],
                "purge": False,
                "keep": [],
                "force": False,
                "job": "job-7",
                "lock_timeout": 5,
                **params,
            },
            check_mode=check,
            _diff=True,
            _verbosity=0,
            warn=warned.append,
        )
        work = module.run if printed else lambda fake: module.DomainsTask(fake).run()
        return {**work(fake), "warned": warned}

    return run


def test_one_that_fails_does_not_stop_the_others(bring: Any) -> None:
    result = bring("new-1", "bad-1", "old-1", "bug-1", "new-2")
    assert result["summary"] == {
        "created": ["new-1", "new-2"],
        "changed": [],
        "removed": [],
        "unchanged": ["old-1"],
        "failed": ["bad-1", "bug-1"],
    }
    assert [vm["name"] for vm in result["vms"]] == ["new-1", "bad-1", "old-1", "bug-1", "new-2"]
    assert result["vms"][1]["code"] == "VALIDATION_ERROR"
    assert "KeyError" in result["vms"][3]["msg"]
    assert "Traceback" in result["vms"][3]["exception"]
    assert result["changed"]
    assert [part["after_header"] for part in result["diff"]] == ["new-1, new-2: changes"]
    assert result["warned"] == ["about new-1", "about old-1", "about new-2"]


def test_failed_result_is_short(bring: Any) -> None:
    with pytest.raises(Failed) as caught:
        bring("new-1", "bad-1", printed=True)
    result = caught.value.args[0]
    assert result["msg"] == "1 of 2 VMs: bad-1: cannot change bad-1: it will not"
    assert result["vms"] == [
        {"name": "new-1", "outcome": "created"},
        {
            "name": "bad-1",
            "outcome": "failed",
            "msg": "cannot change bad-1: it will not",
            "code": "VALIDATION_ERROR",
        },
    ]


def test_failures_alone_are_no_change(bring: Any) -> None:
    assert not bring("bad-1", "old-1")["changed"]


def test_each_domain_has_the_job_and_the_patience_of_the_task(bring: Any) -> None:
    bring("old-1")
    (params,) = FakeTask.seen
    assert (params["job"], params["lock_timeout"], params["generation"]) == ("job-7", 5, None)


def test_domains_are_worked_on_at_the_same_time(bring: Any) -> None:
    # Nobody passes until all of them are there.
    FakeTask.meeting = threading.Barrier(module.AT_ONCE)
    assert not bring(*(f"old-{n}" for n in range(module.AT_ONCE)))["summary"]["failed"]


def test_purge_takes_only_what_is_ours_and_not_declared(bring: Any) -> None:
    here = (
        listed("old-1", OURS),
        listed("kept", OURS),
        listed("bad-9", OURS),
        listed("somebodys"),
    )
    result = bring("old-1", here=here, purge=True, keep=["kept"], force=True)
    assert result["undeclared"] == ["bad-9"]
    assert FakeTask.seen[-1]["state"] == "absent"
    assert FakeTask.seen[-1]["force"] is True
    assert result["summary"]["failed"] == ["bad-9"]


def test_nothing_is_purged_unasked(bring: Any) -> None:
    assert bring("old-1", here=(listed("other", OURS),))["undeclared"] == []
    assert len(FakeTask.seen) == 1


def test_templates_that_new_domains_lack_are_named(bring: Any) -> None:
    disk = {"target": "vda", "template": "nowhere-to-be-found"}
    declared = [{**module._unset(), "name": name, "disks": [disk]} for name in ("new-1", "old-1")]
    assert bring(domains=declared)["missing_templates"] == ["nowhere-to-be-found"]
    assert bring(domains=declared[1:])["missing_templates"] == []
