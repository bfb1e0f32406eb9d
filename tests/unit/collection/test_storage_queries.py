"""Storage that does not respond is waited for once, and then asked by the way."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.virtplay.libvirt.plugins.module_utils.host import (
    facts,
    images,
    pool_watch,
    silence,
)
from ansible_collections.virtplay.libvirt.plugins.module_utils.host.silence import Silence
from ansible_collections.virtplay.libvirt.plugins.module_utils.observe import storage
from ansible_collections.virtplay.libvirt.plugins.module_utils.observe.storage import (
    StorageQueries,
    Stored,
)

from tests.unit.collection.fake_libvirt import fake

FOREVER = 100_000.0


class Pool:
    """A pool of a directory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def name(self) -> str:
        return self.path.name

    def XMLDesc(self, _flags: int) -> str:  # noqa: N802
        return f"<pool type='dir'><target><path>{self.path}</path></target></pool>"

    def info(self) -> tuple[int, int, int, int]:
        return 2, 100, 60, 40

    def isActive(self) -> int:  # noqa: N802
        return 1

    def autostart(self) -> int:
        return 1


class Machine:
    """Two directories with an image each, both pools; the files of one may stop responding."""

    def __init__(self, path: Path) -> None:
        self.good, self.bad = path / "good", path / "bad"
        self.templates = path / "templates"
        for directory in (self.good, self.bad, self.templates):
            directory.mkdir()
        self.images = [self.good / "a.raw", self.bad / "b.raw"]
        for image in self.images:
            image.write_bytes(b"\0" * 4096)
        self.responds = threading.Event()
        self.responds.set()
        self.hanging = threading.Semaphore(0)

    def listAllStoragePools(self, _flags: int) -> list[Pool]:  # noqa: N802
        return [Pool(self.good), Pool(self.bad)]

    def wait(self, path: str) -> None:
        """Wait as a system call on this path would."""
        if Path(path).is_relative_to(self.bad) and not self.responds.is_set():
            self.hanging.release()
            self.responds.wait(600)

    def begin(self) -> StorageQueries:
        disks = [{"type": "file", "path": str(image), "format": "raw"} for image in self.images]
        queries = StorageQueries(lambda: self, disks, [], self.templates, Silence())
        queries.measure("", time.monotonic() + FOREVER, time.monotonic() + FOREVER)
        return queries

    def observe(self) -> tuple[set[str], list[str]]:
        """Observe once; return the pools and images with sizes, and the warnings."""
        queries = self.begin()
        found = collect(queries)
        queries.finish()
        # This process stands for one that has ended.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(silence, "_name_of", lambda _pid: "")
            queries._silence.write()
        return found


def collect(queries: StorageQueries) -> tuple[set[str], list[str]]:
    warnings: list[str] = []
    stored: Stored = queries.collect(time.monotonic() + FOREVER, warnings)
    found = {Path(image.path).name for image in stored.files}
    return found | {pool["name"] for pool in stored.pools if "error" not in pool}, warnings


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    fake(monkeypatch, facts)
    monkeypatch.setattr(silence, "NOTE", tmp_path / "silent.json")
    monkeypatch.setattr(pool_watch, "NOTE", tmp_path / "pool-watch")
    monkeypatch.setattr(storage, "STORAGE_SECONDS", 0.5)
    monkeypatch.setattr(facts, "STORAGE_SECONDS", 0.5)
    made = Machine(tmp_path)
    sizes, measure, templates = storage.image_sizes, facts._measure, storage.read_templates

    def waits(call: Any) -> Any:
        def wait_and_call(item: Any) -> Any:
            made.wait(str(getattr(item, "path", item)))
            return call(item)

        return wait_and_call

    monkeypatch.setattr(storage, "image_sizes", waits(sizes))
    monkeypatch.setattr(storage, "read_templates", waits(templates))
    monkeypatch.setattr(facts, "_measure", waits(measure))
    yield made
    made.responds.set()


ALL = {"good", "bad", "a.raw", "b.raw"}
WARNING = "cannot measure storage pool bad: its file system does not respond"


def test_storage_is_waited_for_once(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.observe() == (ALL, [])
    machine.responds.clear()
    assert machine.observe() == ({"good", "a.raw"}, [WARNING])
    assert Silence().names() == {str(machine.bad), str(machine.images[1])}
    # Who waited now would never end.
    with monkeypatch.context() as patch:
        patch.setattr(storage, "STORAGE_SECONDS", FOREVER)
        patch.setattr(facts, "STORAGE_SECONDS", FOREVER)
        while machine.hanging.acquire(blocking=False):
            pass
        queries = machine.begin()
        assert collect(queries) == ({"good", "a.raw"}, [WARNING])
        assert machine.hanging.acquire(timeout=60), "nobody has asked"
    machine.responds.set()
    queries.finish()
    queries._silence.write()
    assert Silence().names() == set()
    assert machine.observe() == (ALL, [])


def test_storage_that_responds_again_has_its_figures_soon(machine: Machine) -> None:
    machine.responds.clear()
    machine.observe()
    machine.observe()
    machine.responds.set()
    machine.observe()
    assert machine.observe() == (ALL, [])


def test_storage_is_left_out_while_an_earlier_observation_waits_for_it(machine: Machine) -> None:
    machine.responds.clear()
    queries = machine.begin()
    collect(queries)
    queries._silence.write()
    while machine.hanging.acquire(blocking=False):
        pass
    queries = machine.begin()
    assert collect(queries) == ({"good", "a.raw"}, [WARNING])
    queries.finish()
    assert not machine.hanging.acquire(blocking=False)


def test_healthy_storage_behind_more_dead_than_may_hang_is_not_noted(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "_MOST_HANGING", 2)
    dead = [machine.bad / name / "b.raw" for name in "123"]
    machine.images = [*dead, machine.good / "a.raw"]
    machine.responds.clear()
    machine.observe()
    assert str(machine.good / "a.raw") not in Silence().names()
    while machine.observe()[0] != {"good", "a.raw"}:
        pass
    assert Silence().names() == {str(path) for path in (machine.bad, *dead)}


def test_slow_storage_has_the_figures_that_are_known_at_the_deadline(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(_image: Any) -> dict[str, int]:
        time.sleep(0.01)
        return {"capacity_bytes": 1}

    monkeypatch.setattr(storage, "image_sizes", measure)
    disks = [{"type": "file", "path": f"/srv/{n}", "format": "raw"} for n in range(1000)]
    queries = StorageQueries(lambda: machine, disks, [], machine.templates, Silence())
    deadline = time.monotonic() + 1
    queries.measure("", time.monotonic() + FOREVER, deadline)
    assert queries.collect(deadline, []).files


def test_storage_is_asked_again_in_any_order(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "_MOST_HANGING", 2)
    noted = Silence()
    good = str(machine.good / "a.raw")
    noted.add([good, *(str(machine.bad / name / "b.raw") for name in "123")])
    with monkeypatch.context() as patch:
        patch.setattr(silence, "_name_of", lambda _pid: "")
        noted.write()
    machine.images.pop()
    machine.responds.clear()
    while good in Silence().names():
        machine.observe()


def test_image_that_is_gone_is_forgotten(machine: Machine) -> None:
    machine.responds.clear()
    machine.observe()
    machine.images.pop().unlink()
    machine.responds.set()
    machine.observe()
    assert Silence().names() == set()


def test_templates_cost_no_more_than_other_storage(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.templates = machine.bad / "templates"
    machine.templates.mkdir()
    machine.images.pop()
    machine.responds.clear()
    warning = f"cannot read the templates: {machine.templates} does not respond"
    assert machine.observe() == ({"good", "a.raw"}, [WARNING, warning])
    with monkeypatch.context() as patch:
        patch.setattr(storage, "STORAGE_SECONDS", FOREVER)
        patch.setattr(facts, "STORAGE_SECONDS", FOREVER)
        queries = machine.begin()
        assert collect(queries) == ({"good", "a.raw"}, [WARNING, warning])
    machine.responds.set()
    queries.finish()
