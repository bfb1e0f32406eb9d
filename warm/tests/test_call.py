"""Tests: a function that is called in a fork, and the runs that it forks itself."""

from __future__ import annotations

import os
import select
from pathlib import Path

import pytest
from ansible_warm import client
from running import LOCAL, PLAIN, WAIT_SECONDS, comparable, wait_for, warm, write_play

pytestmark = pytest.mark.slow

MODULE = """
import os, sys
from pathlib import Path
from ansible_warm.server import loaded

def main(arguments):
    place, *words = arguments
    ansible = loaded()
    os.environ.pop("ANSIBLE_FORKS", None)
    assert ansible.refuses({**os.environ, "ANSIBLE_FORKS": "9"}, os.getcwd())
    assert not ansible.refuses(os.environ, os.getcwd())
    pid = os.fork()
    if pid == 0:
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{place}/{name}", os.O_WRONLY | os.O_CREAT, 0o600), number)
        ansible.become(["ansible-playbook", *words], {**os.environ, "WORD": "of the run"})
    Path(place, "input").write_bytes(os.read(0, 10))
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) + 40)
"""


def test_called_function_forks_runs_that_are_as_the_plain_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "called.py").write_text(MODULE)
    with warm(tmp_path, "--import=called", PYTHONPATH=str(tmp_path)) as place:
        playbook = write_play(
            place.project / "play.yml",
            {"ansible.builtin.debug": {"msg": "{{ lookup('ansible.builtin.env', 'WORD') }}"}},
            {"ansible.builtin.fail": {"msg": "on purpose"}},
        )
        plain = comparable(place.run(PLAIN, *LOCAL, playbook, more={"WORD": "of the run"}))
        monkeypatch.chdir(place.project)
        reader, writer = os.pipe()
        words = [str(tmp_path), *LOCAL, str(playbook)]
        pid, pidfd, control = client.begin_call(
            str(place.socket), "called", words, ["shown", "here"], place.environment, reader
        )
        with control:
            assert Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"shown\0here\0")
            os.write(writer, b"more")
            assert select.select([pidfd], [], [], WAIT_SECONDS)[0]
            assert control.recv(64) == b"%d" % (plain.code + 40)
        for descriptor in (reader, writer, pidfd):
            os.close(descriptor)
        assert (tmp_path / "input").read_text() == "more"
        assert (tmp_path / "out").read_text() == plain.out
        assert (tmp_path / "err").read_text() == plain.err


def test_called_function_outlives_its_server_and_its_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "called.py").write_text(
        "import os\nfrom pathlib import Path\n\n"
        "def main(arguments):\n"
        "    while os.read(0, 10):\n        pass\n"
        "    Path(arguments[0]).write_text('end')\n"
    )
    with warm(tmp_path, "--import=called", PYTHONPATH=str(tmp_path)) as place:
        monkeypatch.chdir(place.project)
        reader, writer = os.pipe()
        server = place.server()
        end = tmp_path / "end"
        _, pidfd, control = client.begin_call(
            str(place.socket), "called", [str(end)], ["called"], place.environment, reader
        )
        control.close()
        os.close(reader)
        os.kill(server, 9)
        place.renewed(server)
        assert not end.exists()
        os.close(writer)
        assert select.select([pidfd], [], [], WAIT_SECONDS)[0]
        os.close(pidfd)
        wait_for(end.exists, "end of the function")
        wait_for(place.socket.exists)
