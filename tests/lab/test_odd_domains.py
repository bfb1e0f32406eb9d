"""Lab tests: domains of every kind that libvirt's documentation of the format describes.

Each is listed, observed, changed, started, gets a snapshot or a reason why not, and is deleted;
none hides another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from lab import Host
from tests.lab.modules import run_each, run_module
from tests.lab.odd_domains import IMAGE_COMMANDS, ODD, Odd
from tests.lab.plays import IMAGES

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def uuids(lab: Any) -> Iterator[dict[str, str]]:
    """Name of an odd domain → its UUID; they are on the first host until the tests end."""
    host = lab.hosts[0]
    host.run("sh", "-ec", IMAGE_COMMANDS)
    made = {}
    try:
        for odd in ODD:
            host.run("virsh", "-q", "define", "/dev/stdin", stdin=odd.xml)
        for domain in run_module(host, "host_info")["host_info"]["domains"]:
            made[domain["name"]] = domain["uuid"]
        yield {odd.name: made[name_of(odd)] for odd in ODD}
    finally:
        for uuid in made.values():
            host.run("virsh", "destroy", uuid, check=False)
            host.run("virsh", "undefine", uuid, "--snapshots-metadata", check=False)
        host.run("sh", "-c", f"rm -f {IMAGES}/odd*; virsh -q pool-refresh default")


def name_of(odd: Odd) -> str:
    """Return the name of a domain as libvirt has it."""
    return odd.name.replace("&apos;", "'")


def test_all_are_observed(host: Host, uuids: dict[str, str]) -> None:
    domains = {d["uuid"]: d for d in run_module(host, "host_info")["host_info"]["domains"]}
    for odd in ODD:
        domain = domains[uuids[odd.name]]
        assert "unreadable" not in domain, odd.name
        assert (domain["name"], domain["state"]) == (name_of(odd), "stopped")
        assert {key: domain[key] for key in odd.shown} == odd.shown
        if odd.disk:
            first = domain["disks"][0]
            assert {key: first[key] for key in odd.disk} == odd.disk, odd.name


def test_all_live_and_die(host: Host, uuids: dict[str, str]) -> None:
    def act(
        module: str, odds: Sequence[Odd] = ODD, **arguments: Any
    ) -> Iterator[tuple[Odd, dict[str, Any]]]:
        """Run a module for each of the domains; return the results."""
        runs = [{"uuid": uuids[odd.name], **arguments} for odd in odds]
        return zip(odds, run_each(host, module, runs), strict=True)

    labels = {"labels": {"a": "b"}}
    for odd, result in act("domain", title="Title", description="a\nb", memory=48, metadata=labels):
        assert (result["applies_at"], result["domain"]["title"]) == ("now", "Title"), odd.name
    started = [odd for odd in ODD if not odd.stays_off]
    for odd, result in act("domain", started, state="running"):
        if odd.refused:
            assert odd.refused in result["msg"]
        else:
            assert result.get("domain", {}).get("state") == "running", result
    for odd, result in act("snapshot", snapshot="one"):
        if odd.no_snapshot:
            assert result["code"] == "SNAPSHOT_NOT_POSSIBLE", result
            assert odd.no_snapshot in result["msg"]
        else:
            assert result["snapshots"][0]["has_memory"], result
    for _, result in act("domain", state="stopped", force=True):
        assert result["domain"]["state"] == "stopped", result
    kept = [odd for odd in ODD if not odd.no_snapshot]
    for _, result in act("snapshot", kept, snapshot="one", state="restored"):
        assert result.get("domain", {}).get("state") == "running", result
    for _, result in act("domain", state="absent", force=True):
        assert (result["changed"], result["domain"]) == (True, None), result
    listed = host.run("virsh", "list", "--all", "--uuid").stdout.split()
    assert not set(uuids.values()) & set(listed)
    # None of the images is Virtplay's to delete.
    assert "odd-top.qcow2" in host.run("ls", IMAGES).stdout.split()
