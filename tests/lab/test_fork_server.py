"""Lab: the tasks of a host run in forks of a server that the first one leaves there."""

from __future__ import annotations

import time

from lab.lab import Host
from tests.lab.plays import Play


def servers(host: Host) -> list[str]:
    """The process ids of the fork servers of a host; forks have a session of their own."""
    found = host.run("pgrep", "--full", "virtplay-fork-server$", check=False).stdout.split()
    return [pid for pid in found if host.run("ps", "-o", "ppid=", pid).stdout.strip() not in found]


def of_server(host: Host, pid: str) -> tuple[int, int]:
    """The number of a server's threads, and the CPU time of its forks in ticks."""
    fields = host.run("cat", f"/proc/{pid}/stat").stdout.rpartition(")")[2].split()
    return int(fields[17]), int(fields[13]) + int(fields[14])


def test_tasks_run_in_forks_of_one_server(host: Host, play: Play) -> None:
    def pause() -> str:
        return str(play("vm_pause")["msg"])

    alone = pause()
    deadline = time.monotonic() + 60
    while not (before := servers(host)):
        assert time.monotonic() < deadline
    states = {pid: of_server(host, pid) for pid in before}
    # libvirt's binding, which it has imported, has started no thread.
    assert {threads for threads, _ in states.values()} == {1}
    assert pause() == alone
    assert set(before) <= set(servers(host))
    assert any(of_server(host, pid)[1] > spent for pid, (_, spent) in states.items())


def test_a_host_may_have_none(host: Host, play: Play) -> None:
    before = servers(host)
    assert play("vm_pause", "-e", "libvirt_fork_server=false")["failed"]
    assert set(servers(host)) <= set(before)
