"""A rename: which name a domain gets, and a refused one, after which all keeps the old name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain import task, update
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain.arguments import ARGUMENTS
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain.create import (
    free_name,
    is_numbered,
)
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain.plan import (
    Current,
    UpdatePlan,
    plan_name,
)
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain.task import DomainTask
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain.xml import (
    build_domain,
    parse_domain,
)
from ansible_collections.virtplay.libvirt.plugins.module_utils.host import reservations
from ansible_collections.virtplay.libvirt.plugins.module_utils.lock.fence import Fence
from ansible_collections.virtplay.libvirt.plugins.module_utils.states import DomainState
from ansible_collections.virtplay.libvirt.plugins.modules import domain as module

from tests.unit.collection import test_reservations
from tests.unit.collection.fake_libvirt import NO_DOMAIN, fake, libvirtError
from tests.unit.collection.test_domain_xml import SPEC, UUID
from tests.unit.collection.test_reservations import Network, host

MAC, ADDRESS = SPEC.interfaces[0].mac, "203.0.113.5"
REFUSED = "cannot rename web to db: cannot rename domain with checkpoints; it keeps its name"


class Domain:
    """A domain with checkpoints, which only libvirt knows of."""

    def __init__(self, xml: str) -> None:
        self.xml = xml

    def UUIDString(self) -> str:  # noqa: N802
        return UUID

    def XMLDesc(self, _flags: int) -> str:  # noqa: N802
        return self.xml

    def rename(self, _name: str, _flags: int) -> None:
        raise libvirtError("cannot rename domain with checkpoints")


class Renaming(Network):
    """A network whose one reservation is added, changed and deleted."""

    def update(self, command: int, section: int, index: int, xml: str, flags: int) -> None:
        super().update(command, section, index, xml, flags)
        name = xml.partition('name="')[2].partition('"')[0]
        deleted = command == test_reservations.DELETE
        self.xml = Network(hosts="" if deleted else host(MAC, ADDRESS, name=name)).xml


class Connection(test_reservations.Connection):
    """A host with one domain and one network."""

    def __init__(self, network: Network, dom: Domain) -> None:
        super().__init__(network)
        self.dom = dom

    def lookupByUUIDString(self, _uuid: str) -> Domain:  # noqa: N802
        return self.dom

    def lookupByName(self, name: str) -> Domain:  # noqa: N802
        raise libvirtError(f"no domain {name}", NO_DOMAIN)

    def defineXML(self, xml: str) -> None:  # noqa: N802
        self.dom.xml = xml


Bring = Callable[..., tuple[dict[str, Any], list[str]]]


@pytest.fixture
def network() -> Renaming:
    return Renaming()


@pytest.fixture
def bring(network: Renaming, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bring:
    """Bring domain web, which libvirt does not rename, to values; returns result and warnings."""
    fake(monkeypatch, update, reservations, task)

    def run(**values: Any) -> tuple[dict[str, Any], list[str]]:
        dom = Domain(build_domain(replace(SPEC, name="web")))
        conn = Connection(network, dom)

        def view(*_: Any) -> Current:
            config = parse_domain(dom.xml)
            return Current(DomainState.STOPPED, {}, True, config, config, dom.xml, dom.xml)

        monkeypatch.setattr(task, "view_domain", view)
        current = view()
        current.reservations = reservations.list_reservations(conn, [MAC])
        unset = {name: option.get("default") for name, option in ARGUMENTS.items()}
        warnings: list[str] = []
        brought = DomainTask(
            {**unset, "name": "web", "state": "present", "new_name": "db", **values},
            check_mode=False,
            diff=True,
            warn=warnings.append,
            verbosity=2,
            conn=conn,
        )
        directories = {"lock_directory": tmp_path, "fence_directory": tmp_path}
        brought.fence = Fence(UUID, label="web", **directories)
        return brought._update(dom, current), warnings

    return run


def test_a_rename_that_libvirt_refuses_is_no_change(bring: Bring, network: Renaming) -> None:
    network.xml = Network(hosts=host(MAC, ADDRESS, name="web")).xml
    result, warnings = bring()
    assert (result["changed"], result["changes"], warnings) == (False, [], [REFUSED])
    assert result["domain"]["name"] == "web"
    assert network.xml == Network(hosts=host(MAC, ADDRESS, name="web")).xml
    assert len(network.updates) == 2


def test_what_changes_beside_a_refused_rename_is_what_is_reported(bring: Bring) -> None:
    result, warnings = bring(title="Shop")
    assert [change["field"] for change in result["changes"]] == ["title"]
    assert result["domain"]["title"] == "Shop"
    assert warnings == [REFUSED]
    _changes, xml = result["diff"]
    assert "<title>Shop</title>" in xml["after"]
    assert "<name>web</name>" in xml["after"]


@pytest.mark.parametrize("before", ["", "203.0.113.6"])
def test_an_address_is_reserved_for_the_name_that_the_domain_keeps(
    bring: Bring, network: Renaming, before: str
) -> None:
    if before:
        network.xml = Network(hosts=host(MAC, before, name="web")).xml
    result, _warnings = bring(interfaces=[{"ip": ADDRESS}])
    assert [change["field"] for change in result["changes"]] == [f"interfaces.{MAC}.ip"]
    assert network.xml == Network(hosts=host(MAC, ADDRESS, name="web")).xml


def test_a_domain_with_a_snapshot_says_so() -> None:
    definition: dict[str, Any] = {"name": "web"}
    for number, words in ((1, "it has 1 snapshot;"), (2, "it has 2 snapshots;")):
        current = Current(DomainState.STOPPED, {}, True, definition, definition, snapshots=number)
        plan = UpdatePlan()
        plan_name(plan, current, "db")
        assert words in plan.warnings[0]


@pytest.mark.parametrize(
    ("name", "other", "numbered"),
    [
        ("web-2", "web", True),
        ("web-12", "web", True),
        ("web-2", "web-server", False),
        ("web-2", "webs", False),
        ("web-server-2", "web", False),
        ("web", "web", False),
        ("web-02", "web", False),
        # A name of one's own: numbers begin with 2.
        ("web-1", "web", False),
        ("web-2-2", "web-2", True),
        ("x" * 61 + "-2", "x" * 63, True),
        ("x" * 60 + "-10", "x" * 63, True),
        ("x" * 60 + "-2", "x" * 63, False),
        ("x" * 60 + "-2", "x" * 60 + "-yz", True),
    ],
)
def test_a_numbered_name_is_known(name: str, other: str, numbered: bool) -> None:
    assert is_numbered(name, other) is numbered


def test_a_free_name_is_a_numbered_one(monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch)

    class Host:
        """A host with two domains."""

        def lookupByName(self, name: str) -> str:  # noqa: N802
            if name not in ("web", "web-2"):
                raise libvirtError(f"no domain {name}", NO_DOMAIN)
            return name

        lookupByUUIDString = lookupByName  # noqa: N815

    assert free_name(Host(), "web") == "web-3"
    for name in ("web", "x" * 63, "x" * 60 + "-yz"):
        assert is_numbered(free_name(Host(), name), name)


def test_a_rename_in_the_examples_gives_another_name() -> None:
    examples = [task["virtplay.libvirt.domain"] for task in yaml.safe_load(module.EXAMPLES)]
    renames = [options for options in examples if "new_name" in options]
    assert renames
    assert all(options["name"] != options["new_name"] for options in renames)
