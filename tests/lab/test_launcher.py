"""Lab: a job forked by the launcher is the job that a program of its own would be."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from virtplay.jobs import runner
from virtplay.jobs.launcher import Launcher
from virtplay.jobs.specification import Specification
from virtplay.settings import Settings

from lab.lab import Lab
from tests.launchers import running_launcher

REPOSITORY = Path(__file__).resolve().parents[2]
Events = list[dict[str, Any]]
VM = "streams"
DOMAIN = {"libvirt_domain_name": VM}
SNAPSHOT = {"libvirt_snapshot_domain": VM, "libvirt_snapshot_name": "one"}
NEW = {
    **DOMAIN,
    # Nothing boots, so that no result depends on how far the guest has got.
    "libvirt_domain_disks": [{"target": "vda", "size": 1}],
    "libvirt_domain_vcpus": 1,
    "libvirt_domain_memory": 128,
}
PLAYS: list[tuple[str, dict[str, Any]]] = [
    ("image_prepare", {"libvirt_image_name": "micro"}),
    ("vm_create", {**NEW, "libvirt_domain_title": "{{ 7 * 7 }} ü"}),
    ("vm_create", {**NEW, "libvirt_domain_vcpus": 0}),  # refused before it reaches the host
    ("vm_update", {**DOMAIN, "libvirt_domain_memory": 160}),
    ("vm_pause", DOMAIN),  # refused by the host: it does not run
    ("snapshot_create", SNAPSHOT),
    ("snapshot_restore", SNAPSHOT),
    ("snapshot_delete", SNAPSHOT),
    ("vm_start", DOMAIN),
    ("vm_pause", DOMAIN),
    ("vm_resume", DOMAIN),
    ("vm_power", {"libvirt_domain_power": {"lab-1": [{"name": VM, "state": "paused"}]}}),
    ("vm_power", {"libvirt_domain_power": {"lab-1": [{"name": VM, "state": "resumed"}]}}),
    (
        "console_open",
        {
            "libvirt_console_domain": VM,
            "libvirt_console_type": "vnc",
            "libvirt_console_password": "SECRET01",
            "libvirt_console_seconds": 60,
        },
    ),
    ("host_observe", {}),
    ("vm_restart", {**DOMAIN, "libvirt_domain_force": True}),
    ("vm_stop", {**DOMAIN, "libvirt_domain_force": True}),
    ("vm_delete", DOMAIN),
    ("vms", {"libvirt_domain_vms": []}),
    ("host_prepare", {}),
    ("service", {}),  # no group of its hosts is in the inventory
]
"""Each playbook with variables, in an order in which they succeed but for what is said."""


@pytest.fixture(scope="module")
def ways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Launcher]]:
    """Both ways to start a job."""
    state = tmp_path_factory.mktemp("state")
    with running_launcher(REPOSITORY) as path:
        yield {
            "fork": Launcher(Settings(launcher=str(path), state_dir=state)),
            "program": Launcher(Settings(launcher="off", state_dir=state)),
        }


NO_FORK_SERVER = {"fork": {}, "program": {"libvirt_fork_server": False}}
"""On the host too, a way has forks or programs of its own."""


async def events_of(
    launcher: Launcher, playbook: str, inventory: Path, directory: Path, variables: dict[str, Any]
) -> Events:
    """All events of a play on the first host of the lab."""
    run = await runner.start(
        launcher,
        Specification(
            project_dir=str(REPOSITORY),
            playbook=f"playbooks/{playbook}.yml",
            inventory=[str(inventory)],
            limit="lab-1",
            variables=variables,
            time_limit=600,
        ),
        directory / playbook,
    )
    try:
        return [event async for batch in run.batches() for event in batch]
    finally:
        await run.end()


def without_numbers(value: Any) -> Any:
    """The value with every number replaced, as times, sizes, ports and process ids differ."""
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, (int, float)):
        return 0
    if isinstance(value, str):
        return re.sub(r"[0-9]+(\.[0-9]+)?", "0", value)
    if isinstance(value, list):
        return [without_numbers(item) for item in value]
    return {key: without_numbers(item) for key, item in value.items() if key != "at"}


def test_all_playbooks_are_compared() -> None:
    assert {playbook for playbook, _ in PLAYS} == {
        path.stem for path in (REPOSITORY / "playbooks").glob("*.yml")
    }


async def test_events_of_a_fork_are_those_of_a_program(
    lab: Lab, ways: dict[str, Launcher], tmp_path: Path
) -> None:
    seen: dict[str, list[tuple[str, Any]]] = {}
    for way, launcher in ways.items():
        directory = tmp_path / way
        directory.mkdir()
        seen[way] = [
            (
                f"{number}: {playbook}",
                await events_of(
                    launcher,
                    playbook,
                    lab.inventory,
                    directory / str(number),
                    variables | NO_FORK_SERVER[way],
                ),
            )
            for number, (playbook, variables) in enumerate(PLAYS)
        ]
    codes = [events[-1]["rc"] for _, events in seen["program"]]
    assert [n for n, code in enumerate(codes) if code] == [2, 4], codes
    for (name, forked), (_, started) in zip(seen["fork"], seen["program"], strict=True):
        assert forked[-1]["fallbacks"] == [], name
        assert without_numbers(forked) == without_numbers(started), name
        assert "SECRET" not in str(forked), name


@pytest.mark.parametrize("way", ["fork", "program"])
async def test_a_host_whose_key_has_changed_is_not_reached(
    lab: Lab, ways: dict[str, Launcher], way: str, tmp_path: Path
) -> None:
    address, other = (host.address for host in lab.hosts[:2])
    inventory = yaml.safe_load(lab.inventory.read_text())
    settings = inventory["hypervisors"]["vars"]
    known = re.search(r"UserKnownHostsFile=(\S+)", settings["ansible_ssh_common_args"])
    assert known
    keys = dict(re.findall(r"(\S+) (.+)", Path(known[1]).read_text()))  # noqa: ASYNC240
    [key] = [key for names, key in keys.items() if other in names.split(",")]
    mistaken = tmp_path / "known_hosts"
    mistaken.write_text(f"{address} {key}\n")
    # The first value of an option counts, so the lab's own connection is not used either.
    settings["ansible_ssh_common_args"] = (
        f"-o UserKnownHostsFile={mistaken} -o ControlPath=none "
        + settings["ansible_ssh_common_args"]
    )
    path = tmp_path / "inventory.yml"
    path.write_text(yaml.safe_dump(inventory))
    events = await events_of(ways[way], "host_observe", path, tmp_path, {})
    [unreachable] = [event for event in events if event["event"] == "runner_on_unreachable"]
    assert "Host key verification failed" in unreachable["res"]["msg"]
    assert events[-1]["rc"] == 4
