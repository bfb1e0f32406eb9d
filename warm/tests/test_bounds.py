"""Tests: servers stay within bounds, and leave nothing behind when they end."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import running
from ansible_warm import manager
from running import (
    CLIENT,
    LOCAL,
    PYTHON,
    WAIT_SECONDS,
    Warm,
    children,
    is_running,
    wait_for,
    warm,
    write_play,
)

pytestmark = pytest.mark.slow


def memory(pid: int) -> int:
    """Return the memory of a process that it shares with no file, in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise ValueError(pid)


def descriptors(pid: int) -> list[str]:
    return sorted(os.listdir(f"/proc/{pid}/fd"))


def settled(pid: int) -> list[str]:
    """Return the descriptors of a process once they no longer change."""
    found: list[str] = []

    def same() -> bool:
        nonlocal found
        before, found = found, descriptors(pid)
        time.sleep(0.2)
        return found == before

    wait_for(same, "no change of descriptors")
    return found


def start_waiting(place: Warm) -> subprocess.Popen[str]:
    waits = place.project / "waits"
    waits.unlink(missing_ok=True)
    task = {"ansible.builtin.shell": f"touch {waits}; exec sleep 600"}
    process = place.start(CLIENT, *LOCAL, write_play(place.project / "wait.yml", task))
    wait_for(waits.exists, "task")
    return process


def test_200_runs_and_150_at_once_leave_the_server_as_it_was(tmp_path: Path) -> None:
    with warm(tmp_path) as place:
        playbook = write_play(place.project / "play.yml", {"ansible.builtin.meta": "noop"})
        for _ in range(3):
            place.serve(*LOCAL, playbook)
        server = place.server()
        before = memory(server), settled(server)
        manager_before = memory(place.manager.pid), settled(place.manager.pid)
        for _ in range(200):
            assert place.serve(*LOCAL, playbook).code == 0
        assert place.server() == server
        wait_for(lambda: not children(server), "end of the forks")
        assert memory(server) < before[0] * 1.1
        wait_for(lambda: descriptors(server) == before[1], "as many descriptors")
        assert memory(place.manager.pid) < manager_before[0] * 1.1
        wait_for(lambda: descriptors(place.manager.pid) == manager_before[1], "as many")
        # More at once than were once allowed to wait; too many runs may fall back.
        missing = place.project / "missing.yml"
        runs = [place.start(CLIENT, missing) for _ in range(150)]
        codes = {run.wait(WAIT_SECONDS * 4) for run in runs}
        for run in runs:
            run.communicate()
        assert codes == {1}
        assert set(place.reasons()) <= {"the server does not respond"}
        wait_for(lambda: not children(server), "end of the forks")
        wait_for(lambda: descriptors(server) == before[1], "as many descriptors")


def test_server_that_needs_too_much_memory_is_replaced(tmp_path: Path) -> None:
    with warm(tmp_path, "--memory=1") as place:
        server = place.servers()[0]
        wait_for(lambda: not is_running(server), "end of the server")
        assert "its memory is" in place.log.read_text()


def test_idle_manager_ends(tmp_path: Path) -> None:
    with warm(tmp_path, "--idle=1") as place:
        process = start_waiting(place)
        process.terminate()
        process.communicate()
        place.manager.wait(WAIT_SECONDS)
        if place.reasons():  # it was idle before the client came, so the plain program ran
            place.remove_strays()
        place.assert_nothing_left()


def test_idle_manager_ends_whose_servers_cannot_warm_up(tmp_path: Path) -> None:
    with warm(tmp_path, "--idle=5") as place:
        server = place.server()
        place.configuration.write_text("[defaults\n")
        os.kill(server, signal.SIGKILL)
        place.manager.wait(WAIT_SECONDS)
        place.assert_nothing_left()


def test_python_that_is_gone_does_not_end_the_manager(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "venv/bin/python"
    python.parent.mkdir(parents=True)
    python.symlink_to(PYTHON)
    (tmp_path / "venv/lib").symlink_to(Path(sys.prefix, "lib"))
    shutil.copy(Path(sys.prefix, "pyvenv.cfg"), tmp_path / "venv")
    monkeypatch.setattr(running, "PYTHON", str(python))
    with warm(tmp_path) as place:
        server = place.server()
        python.unlink()
        wait_for(lambda: "cannot start a server" in place.log.read_text(), "message")
        assert is_running(server)
        assert place.manager.poll() is None
        python.symlink_to(PYTHON)
        place.renewed(server)


@pytest.mark.parametrize("end", ["SIGTERM", "SIGKILL", "end of input"])
def test_end_of_the_manager_ends_its_runs_and_removes_all(end: str, tmp_path: Path) -> None:
    with warm(tmp_path, "--follow-stdin") as place:
        process = start_waiting(place)
        if end == "end of input":
            assert place.manager.stdin
            place.manager.stdin.close()
        else:
            place.manager.send_signal(getattr(signal, end))
        process.communicate(timeout=WAIT_SECONDS)
        assert process.returncode == -signal.SIGTERM
        place.manager.wait(WAIT_SECONDS)
        place.assert_nothing_left()
        wait_for(lambda: not list(place.runtime.iterdir()), "removal of the files")


def test_what_a_killed_server_and_manager_leave_is_replaced(tmp_path: Path) -> None:
    with warm(tmp_path) as place:
        server = place.server()
        os.kill(place.manager.pid, signal.SIGKILL)
        os.kill(server, signal.SIGKILL)
        place.manager.wait(WAIT_SECONDS)
        wait_for(lambda: not is_running(server))
        assert place.socket.exists()
        place.start_manager()
        playbook = write_play(place.project / "play.yml", {"ansible.builtin.meta": "noop"})

        def serves() -> bool:
            place.run(CLIENT, *LOCAL, playbook)
            return not place.reasons()

        wait_for(serves, "server")
        # Nobody was left to remove it, as after a kill of the plain program.
        for left in place.home.glob(f".ansible/tmp/ansible-local-{server}*"):
            shutil.rmtree(left)


def test_second_manager_at_a_socket_ends_at_once(tmp_path: Path) -> None:
    with warm(tmp_path) as place:
        second = place.run([PYTHON, "-I", "-S", manager.__file__], place.socket)
        assert second.code == 1
        assert "another manager does" in second.err


def test_server_that_can_accept_no_connection_has_the_client_run_the_plain_program(
    tmp_path: Path,
) -> None:
    with warm(tmp_path) as place:
        server = place.server()
        no_more = resource.RLIMIT_NOFILE
        _, hard = resource.prlimit(server, no_more)
        resource.prlimit(server, no_more, (3, hard))
        playbook = write_play(place.project / "play.yml", {"ansible.builtin.meta": "noop"})
        done = place.run(CLIENT, *LOCAL, playbook)
        assert done.code == 0, done.err
        assert place.reasons()
        resource.prlimit(server, no_more, (hard, hard))
        assert place.serve(*LOCAL, playbook).code == 0
