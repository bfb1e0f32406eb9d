"""The collection as Galaxy's users have it: built, installed, used without the checkout."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.collection import SOURCE
from tests.unit.collection.elsewhere import Elsewhere, install_collection

ROOT = Path(__file__).resolve().parents[3]
NAME = "virtplay.libvirt"
KINDS = {"modules": "module", "filter": "filter", "inventory": "inventory", "callback": "callback"}

# One group, so that one worker builds and installs it once for all.
pytestmark = [pytest.mark.xdist_group("built-collection"), pytest.mark.slow]


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Elsewhere:
    user = install_collection(tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("build"))
    (user.home / "hosts.yml").write_text(
        "hypervisors:\n  hosts:\n    kvm1:\n      ansible_connection: local\n"
        f"      ansible_python_interpreter: {sys.executable}\n      libvirt_fork_server: false\n"
    )
    return user


def names_of(directory: str) -> list[str]:
    """The names of a kind of plugins; a file has one, but for filters."""
    names = []
    for file in (SOURCE / "plugins" / directory).glob("*.py"):
        module = f"ansible_collections.{NAME}.plugins.{directory}.{file.stem}"
        filters = directory == "filter" and importlib.import_module(module).FilterModule().filters()
        names += [f"{NAME}.{name}" for name in filters or [file.stem]]
    return sorted(names)


def test_it_has_every_role_and_playbook_and_no_scenario(elsewhere: Elsewhere) -> None:
    for directory, pattern in (("roles", "*/meta/main.yml"), ("playbooks", "*.yml")):
        here = {file.relative_to(ROOT) for file in (ROOT / directory).glob(pattern)}
        there = (elsewhere.installed / directory).glob(pattern)
        assert here == {file.relative_to(elsewhere.installed) for file in there}
    assert not list(elsewhere.installed.rglob("molecule"))
    assert (elsewhere.installed / "LICENSE").is_file()


def test_every_playbook_finds_its_roles(elsewhere: Elsewhere) -> None:
    names = [f"{NAME}.{file.stem}" for file in sorted((ROOT / "playbooks").glob("*.yml"))]
    assert len(names) > 10
    done = elsewhere.run("ansible-playbook", "-i", "hosts.yml", "--syntax-check", *names)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(str(elsewhere.installed / "playbooks")) == len(names)


def test_playbook_checks_its_variables(elsewhere: Elsewhere) -> None:
    done = elsewhere.run(
        *("ansible-playbook", f"{NAME}.vm_update", "-i", "hosts.yml"),
        *("-e", "libvirt_domain_name=vm-001", "-e", "libvirt_domain_vcpus=many"),
    )
    assert done.returncode == 2
    assert "cannot use libvirt_domain_vcpus 'many': it must be " in done.stdout


def test_role_checks_its_variables_in_a_play_of_ones_own(elsewhere: Elsewhere) -> None:
    role = {"role": f"{NAME}.libvirt_domain", "libvirt_domain_vcpus": "many"}
    play = [{"hosts": "hypervisors", "gather_facts": False, "roles": [role]}]
    (elsewhere.home / "play.yml").write_text(yaml.safe_dump(play))
    done = elsewhere.run("ansible-playbook", "-i", "hosts.yml", "play.yml")
    assert done.returncode == 2
    assert "argument 'libvirt_domain_vcpus'" in done.stdout


def test_action_group_gives_modules_their_defaults(elsewhere: Elsewhere) -> None:
    groups = yaml.safe_load((SOURCE / "meta/runtime.yml").read_text())["action_groups"]
    # Those that are done on the controller know no libvirt.
    on_hosts = set(names_of("modules")) - {f"{NAME}.check_arguments"}
    assert {f"{NAME}.{name}" for name in groups["libvirt"]} == on_hosts
    play = {
        "hosts": "hypervisors",
        "gather_facts": False,
        "module_defaults": {f"group/{NAME}.libvirt": {"nonsense": 1}},
        "tasks": [{f"{NAME}.host_info": {}}],
    }
    (elsewhere.home / "play.yml").write_text(yaml.safe_dump([play]))
    done = elsewhere.run("ansible-playbook", "-i", "hosts.yml", "play.yml")
    assert "Unsupported parameters" in done.stdout
    assert "nonsense" in done.stdout


NOWHERE = "uri=qemu+unix:///system?socket=/nonexistent"


@pytest.mark.needs("virsh")
def test_modules_find_a_python_that_has_libvirt(elsewhere: Elsewhere) -> None:
    # The Python of these tests, which hosts.yml sets, has none.
    done = elsewhere.run(
        "ansible", "-i", "hosts.yml", "kvm1", "-m", f"{NAME}.host_info", "-a", NOWHERE
    )
    assert "cannot connect to libvirt at qemu+unix" in done.stdout


@pytest.mark.needs("virsh")
def test_a_python_that_only_prints_an_error_is_not_discovered(elsewhere: Elsewhere) -> None:
    shim = elsewhere.home / "shims" / "python3.13"
    shim.parent.mkdir()
    shim.write_text("#!/bin/sh\necho python3.13: command not found >&2\nexit 127\n")
    shim.chmod(0o755)
    done = elsewhere.run(
        *("ansible", "-i", "kvm1,", "-c", "local", "kvm1", "-m", f"{NAME}.snapshot"),
        *("-a", f"name=web-1 snapshot=s {NOWHERE}", "-e", "libvirt_fork_server=false"),
        path=shim.parent,
    )
    assert "cannot connect to libvirt at qemu+unix" in done.stdout


def test_a_python_that_is_too_old_is_named(elsewhere: Elsewhere) -> None:
    old = elsewhere.home / "python3.8"
    code = "import sys; sys.version_info = (3, 8, 18); exec(open(sys.argv[1]).read())"
    old.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{code}' \"$@\"\n")
    old.chmod(0o755)
    done = elsewhere.run(
        *("ansible", "-i", "kvm1,", "-c", "local", "kvm1", "-m", f"{NAME}.host_info"),
        *("-e", f"ansible_python_interpreter={old}"),
    )
    assert f"cannot run with {sys.executable}: Python 3.9 or newer is required; " in done.stdout


def test_every_module_of_hosts_runs_by_the_action_that_finds_a_python() -> None:
    runtime = yaml.safe_load((SOURCE / "meta/runtime.yml").read_text())
    routed = runtime["plugin_routing"]["modules"].items()
    assert {"domain"} | {
        name for name, how in routed if how["action_plugin"] == f"{NAME}.domain"
    } == (set(runtime["action_groups"]["libvirt"]))


def test_a_wrong_value_of_the_variable_for_fork_servers_is_named(elsewhere: Elsewhere) -> None:
    done = elsewhere.run(
        *("ansible", "-i", "hosts.yml", "kvm1", "-m", f"{NAME}.host_info"),
        *("-e", "libvirt_fork_server=perhaps"),
    )
    assert "cannot use libvirt_fork_server perhaps: it must be true or false" in done.stdout


def test_unsupported_parameter_comes_with_what_was_meant(elsewhere: Elsewhere) -> None:
    done = elsewhere.run(
        *("ansible", "-i", "hosts.yml", "kvm1", "-m", f"{NAME}.domain", "-a", "name=web-1 vcpu=2")
    )
    assert "vcpu (did you mean vcpus?). Supported parameters include: " in done.stdout


@pytest.mark.parametrize("directory", KINDS)
def test_ansible_doc_shows_every_plugin(elsewhere: Elsewhere, directory: str) -> None:
    names = names_of(directory)
    assert names
    shown = elsewhere.run("ansible-doc", "-t", KINDS[directory], *names)
    assert shown.returncode == 0, shown.stderr
    assert "(ignore:" not in shown.stdout
    given = elsewhere.run("ansible-doc", "-t", KINDS[directory], "--json", *names)
    for name, plugin in json.loads(given.stdout).items():
        doc = plugin["doc"]
        assert doc["short_description"], name
        assert doc["description"], name
        assert doc["author"] == ["Virtplay contributors (@virtplay)"], name
        assert doc["version_added"], name
        assert all_described(doc.get("options", {})), name
        assert plugin["examples"].strip(), name
        if directory in ("modules", "filter"):
            assert plugin["return"], name
            assert all("sample" in v or "contains" in v for v in plugin["return"].values()), name


def all_described(options: dict[str, Any]) -> bool:
    """Tell whether all options and suboptions have a description."""
    return all(
        option.get("description") and all_described(option.get("suboptions") or {})
        for option in options.values()
    )


def test_every_state_of_a_module_has_an_example(elsewhere: Elsewhere) -> None:
    shown = elsewhere.run("ansible-doc", "--json", *names_of("modules"))
    for name, module in json.loads(shown.stdout).items():
        state = module["doc"]["options"].get("state", {})
        examples = yaml.safe_load(module["examples"])
        used = {(task.get(name) or {}).get("state", state.get("default")) for task in examples}
        assert used >= set(state.get("choices") or []), name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "cannot list the VMs of every hypervisor: kvm1 (cannot "),
        ({"hypervisors": "nobody"}, "cannot observe any hypervisor"),
        ({"address_networks": ["here"], "strict_hosts": True}, "cannot "),
        (
            {"inventory": ["nowhere.yml"]},
            "nowhere.yml, the inventory of the hypervisors: option inventory",
        ),
        ({"names": "uuid"}, "names"),
    ],
)
def test_inventory_that_cannot_be_made_is_an_error(
    elsewhere: Elsewhere, settings: dict[str, Any], message: str
) -> None:
    # Nothing answers there, whatever this machine runs.
    base = {"inventory": ["hosts.yml"], "uri": "qemu+unix:///system?socket=/nonexistent"}
    config = {"plugin": f"{NAME}.libvirt", **base, **settings}
    (elsewhere.home / "guests.yaml").write_text(yaml.safe_dump(config))
    done = elsewhere.run("ansible-inventory", "-i", "guests.yaml", "--graph")
    assert done.returncode != 0
    assert message in " ".join(done.stderr.split())
