"""Tests: a run that no server can take is run by the plain program, once."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import (
    CLIENT,
    LOCAL,
    WAIT_SECONDS,
    Done,
    Place,
    Warm,
    children,
    copy_place,
    is_running,
    processes_with,
    wait_for,
    warm,
    write_play,
)

pytestmark = pytest.mark.slow


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A place with no server."""
    found = Place(tmp_path)
    yield found
    for pid in processes_with(found.mark):
        os.kill(pid, signal.SIGTERM)
    found.assert_nothing_left()


class Counted:
    """A playbook that counts its runs."""

    def __init__(self, directory: Path) -> None:
        self.runs = directory / "runs"
        task = {"ansible.builtin.shell": f"echo run >>{shlex.quote(str(self.runs))}"}
        self.playbook = write_play(directory / "play.yml", task)

    def assert_run_once_by(self, place: Place, reason: str, **options: object) -> Done:
        """Run it, which must be done by the plain program for a reason."""
        self.runs.unlink(missing_ok=True)
        done = place.run(CLIENT, *LOCAL, self.playbook, **options)
        assert done.code == 0, done.err
        assert self.runs.read_text() == "run\n"
        assert [each for each in place.reasons() if reason in each], "another reason"
        return done


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"ANSIBLE_WARM_SOCKET": "/no such directory/socket"}, "No such file"),
        ({"ANSIBLE_WARM_SOCKET": "/dev/null"}, "Connection refused"),
        ({"XDG_RUNTIME_DIR": "/proc/1"}, "cannot use /proc/1/ansible-warm"),
    ],
)
def test_without_a_server(variables: dict[str, str], reason: str, place: Place) -> None:
    Counted(place.project).assert_run_once_by(place, reason, more=variables)


def test_switched_off(served: Warm) -> None:
    counted = Counted(copy_place(served, "off"))
    done = served.run(CLIENT, *LOCAL, counted.playbook, more={"ANSIBLE_WARM": "0"})
    assert done.code == 0
    assert counted.runs.read_text() == "run\n"
    assert served.reasons() == []


def test_directory_that_others_may_enter_is_not_used(place: Place) -> None:
    (place.runtime / "ansible-warm").mkdir(mode=0o755)
    Counted(place.project).assert_run_once_by(place, "other users may enter it")
    (place.runtime / "ansible-warm").rmdir()


def test_other_settings(served: Warm) -> None:
    counted = Counted(copy_place(served, "settings"))
    counted.assert_run_once_by(served, "other settings", more={"ANSIBLE_NOCOLOR": "1"})


def test_other_namespace(served: Warm) -> None:
    if shutil.which("unshare") is None or os.geteuid() != 0:
        pytest.skip("needs unshare, as root")
    counted = Counted(copy_place(served, "namespace"))
    done = served.run(["unshare", "--net", *CLIENT], *LOCAL, counted.playbook)
    assert done.code == 0, done.err
    assert counted.runs.read_text() == "run\n"
    assert "namespaces" in served.reasons()[0]


def test_server_that_does_not_respond(tmp_path: Path) -> None:
    with warm(tmp_path) as place:
        server = place.server()
        counted = Counted(place.project)
        os.kill(server, signal.SIGSTOP)
        try:
            counted.assert_run_once_by(place, "the server does not respond")
        finally:
            os.kill(server, signal.SIGCONT)
        # It forks for the connection that has been closed, and lets that fork end.
        wait_for(lambda: not place.forks(), "end of the forks")
        assert place.serve(*LOCAL, counted.playbook).code == 0
        assert counted.runs.read_text() == "run\nrun\n"


def test_server_that_is_killed_is_replaced(tmp_path: Path) -> None:
    with warm(tmp_path) as place:
        counted = Counted(place.project)
        waits = place.project / "waits"
        task = {"ansible.builtin.shell": f"touch {waits}; exec sleep 600"}
        process = place.start(CLIENT, *LOCAL, write_play(place.project / "long.yml", task))
        wait_for(waits.exists, "task")
        server = place.server()
        (run,) = children(server)
        os.kill(server, signal.SIGKILL)
        # Its runs end with it: nobody would know how they end.
        process.communicate(timeout=WAIT_SECONDS)
        assert process.returncode == 250
        wait_for(lambda: not is_running(run), "end of the run")
        counted.assert_run_once_by(place, "cannot reach the server")
        place.remove_strays()
        place.renewed(server)
        wait_for(lambda: place.run(CLIENT, "missing.yml") and not place.reasons(), "new server")
        assert place.serve(*LOCAL, counted.playbook).code == 0


def test_kill_of_the_server_at_any_moment_runs_a_playbook_once(tmp_path: Path) -> None:
    """The server is killed while its fork is offered: the run begins nowhere or there, once."""
    with warm(tmp_path) as place:
        counted = Counted(place.project)
        server = place.server()
        os.kill(server, signal.SIGSTOP)
        process = place.start(CLIENT, *LOCAL, counted.playbook)
        wait_for(lambda: _waits_for_an_answer(process.pid), "request")
        os.kill(server, signal.SIGKILL)
        process.communicate(timeout=WAIT_SECONDS)
        assert process.returncode == 0
        assert counted.runs.read_text() == "run\n"
        assert len(place.reasons()) == 1
        place.renewed(server)


def _waits_for_an_answer(pid: int) -> bool:
    return "poll" in Path(f"/proc/{pid}/wchan").read_text()


def test_server_of_another_user_is_not_used(served: Warm) -> None:
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("needs root and setpriv")
    for each in (served.runtime, served.directory, *served.directory.parents):
        if each.owner() == "root" and not each.stat().st_mode & 0o001:
            each.chmod(0o711)
    served.socket.chmod(0o777)
    # This Python may not be for other users: one of the system asks the server.
    ask = (
        "import socket; s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); "
        f"s.connect({str(served.socket)!r}); print(s.recv(100))"
    )
    other = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    done = served.run([*other, "/usr/bin/python3", "-c"], ask)
    assert done.out == "b''\n", done.err
    served.socket.chmod(0o700)
