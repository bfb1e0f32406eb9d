"""Unit tests: what the service reads from Ansible's inventory."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from virtplay.errors import CannotStart, TemplateNotFound
from virtplay.files import PROJECT
from virtplay.hosts.inventory import load_inventory, parse_inventory
from virtplay.hosts.placement import Overcommit
from virtplay.settings import Settings

DEFAULTS = {
    "debian12": {"os": "debian12", "url": "https://x"},
    "micro": {"os": "micro", "micro": True},
}


def listing(hostvars: dict[str, Any], **groups: Any) -> dict[str, Any]:
    """What `ansible-inventory --list` prints."""
    return {"_meta": {"hostvars": hostvars}, "all": {"children": ["ungrouped"]}, **groups}


def test_hosts_of_children_groups_are_hypervisors_too() -> None:
    found = parse_inventory(
        listing(
            {"kvm1": {}, "kvm2": {}, "kvm3": {}, "db1": {}},
            hypervisors={"hosts": ["kvm1"], "children": ["berlin", "empty"]},
            berlin={"hosts": ["kvm2"], "children": ["rack9"]},
            rack9={"hosts": ["kvm3", "kvm1"]},
            databases={"hosts": ["db1"]},
        ),
        DEFAULTS,
    )
    assert list(found.hosts) == ["kvm1", "kvm2", "kvm3"]


@pytest.mark.parametrize(
    "groups",
    [{}, {"hypervisors": {}}, {"hypervisors": {"hosts": []}}, {"others": {"hosts": ["a"]}}],
)
def test_an_inventory_without_hypervisors_is_refused(groups: dict[str, Any]) -> None:
    with pytest.raises(CannotStart, match="cannot find any host in group hypervisors"):
        parse_inventory(listing({"a": {}}, **groups), DEFAULTS)


def test_defaults_of_a_host_that_says_nothing() -> None:
    host = parse_inventory(listing({}, hypervisors={"hosts": ["kvm1"]}), DEFAULTS).hosts["kvm1"]
    assert host.overcommit == Overcommit()
    assert host.catalogue == DEFAULTS


def test_overcommit_comes_from_host_variables() -> None:
    variables = {
        "virtplay_overcommit_cpu": "8",
        "virtplay_overcommit_memory": 1.5,
        "virtplay_overcommit_disk": 2,
        "virtplay_reserved_memory": 0,
    }
    found = parse_inventory(listing({"kvm1": variables}, hypervisors={"hosts": ["kvm1"]}), {})
    assert found.hosts["kvm1"].overcommit == Overcommit(8.0, 1.5, 2.0, 0)


def test_catalogue_extra_replaces_one_entry_and_leaves_the_others() -> None:
    hostvars = {
        "kvm1": {
            "libvirt_image_catalogue_extra": {
                "debian12": {"os": "debian12", "path": "/srv/d12.qcow2"},
                "own": {"os": "own", "path": "/srv/own.qcow2"},
            }
        },
        "kvm2": {},
    }
    found = parse_inventory(listing(hostvars, hypervisors={"hosts": ["kvm1", "kvm2"]}), DEFAULTS)
    assert found.hosts["kvm1"].catalogue == {
        "debian12": {"os": "debian12", "path": "/srv/d12.qcow2"},
        "micro": DEFAULTS["micro"],
        "own": {"os": "own", "path": "/srv/own.qcow2"},
    }
    assert found.hosts["kvm2"].catalogue == DEFAULTS
    assert set(found.templates()) == {"debian12", "micro", "own"}
    assert found.template_os("own") == "own"


def test_a_host_may_have_a_catalogue_of_its_own() -> None:
    variables = {"libvirt_image_catalogue": {"only": {"path": "/x"}}}
    found = parse_inventory(listing({"kvm1": variables}, hypervisors={"hosts": ["kvm1"]}), DEFAULTS)
    assert set(found.templates()) == {"only"}
    assert found.template_os("only") == "only"


def test_the_defaults_are_not_changed_by_a_hosts_entries() -> None:
    before = yaml.safe_dump(DEFAULTS)
    variables = {"libvirt_image_catalogue_extra": {"debian12": {"os": "other"}}}
    parse_inventory(listing({"kvm1": variables}, hypervisors={"hosts": ["kvm1"]}), DEFAULTS)
    assert yaml.safe_dump(DEFAULTS) == before


def test_template_that_no_host_knows() -> None:
    found = parse_inventory(listing({}, hypervisors={"hosts": ["kvm1"]}), DEFAULTS)
    with pytest.raises(TemplateNotFound, match="cannot find template win95"):
        found.template_os("win95")


@pytest.mark.parametrize(
    "variables",
    [
        {"virtplay_overcommit_cpu": "many"},
        {"virtplay_overcommit_memory": None},
        {"virtplay_reserved_memory": [1]},
        {"virtplay_overcommit_cpu": -1},
        {"virtplay_overcommit_cpu": "nan"},
        {"virtplay_overcommit_disk": "inf"},
        {"libvirt_image_catalogue": 7},
        {"libvirt_image_catalogue_extra": ["debian12"]},
        {"libvirt_image_catalogue_extra": {"debian12": "path"}},
        {"libvirt_image_catalogue": {"debian12": "path"}},
        {"libvirt_image_catalogue": {"debian12": None}},
    ],
)
def test_variables_that_make_no_sense_are_named_with_their_host(variables: dict[str, Any]) -> None:
    with pytest.raises(CannotStart, match="kvm1"):
        parse_inventory(listing({"kvm1": variables}, hypervisors={"hosts": ["kvm1"]}), DEFAULTS)


@pytest.mark.slow
async def test_the_embedded_inventory_and_the_roles_own_catalogue() -> None:
    found = await load_inventory(Settings(inventory="inventory/local.yml", project_dir=PROJECT))
    assert list(found.hosts) == ["localhost"]
    assert {"ubuntu20.04", "ubuntu22.04", "ubuntu24.04", "debian12", "rocky9", "micro"} <= set(
        found.templates()
    )
    assert all("os" in entry for entry in found.templates().values())


async def test_an_inventory_that_is_not_there_says_so() -> None:
    with pytest.raises(CannotStart, match=r"no such file: /.*/nowhere/hosts\.yml$"):
        await load_inventory(Settings(inventory="nowhere/hosts.yml", project_dir=PROJECT))


@pytest.mark.slow
@pytest.mark.parametrize("beside", [False, True])
async def test_a_broken_inventory_is_named_with_its_fault(beside: bool, tmp_path: Path) -> None:
    broken = tmp_path / "broken.yml"
    broken.write_text("hypervisors: [\n")
    sources = f"inventory/local.yml,{broken}" if beside else str(broken)
    with pytest.raises(CannotStart) as caught:
        await load_inventory(Settings(inventory=sources, project_dir=PROJECT))
    message = caught.value.message
    assert message.startswith(f"cannot read the inventory {sources}: Failed to parse inventory")
    assert f"Origin: {broken}:2:1" in message
    assert "did not find expected node content" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("variables", "login"),
    [
        ({}, ("ssh", "kvm1", None, None)),
        ({"ansible_connection": "local", "ansible_user": "root"}, ("local", None, None, None)),
        (
            {"ansible_host": "192.0.2.10", "ansible_port": 2222, "ansible_user": "ops"},
            ("ssh", "192.0.2.10", 2222, "ops"),
        ),
        (
            {"ansible_host": "{{ address }}", "ansible_port": "{{ port }}", "ansible_user": ""},
            ("ssh", None, None, None),
        ),
    ],
)
def test_login_has_what_the_inventory_says_plainly(
    variables: dict[str, Any], login: tuple[Any, ...]
) -> None:
    found = parse_inventory(listing({"kvm1": variables}, hypervisors={"hosts": ["kvm1"]}), {})
    assert tuple(found.login("kvm1").values()) == login
