"""Tests: nothing of a run stays in the server, or reaches the next run."""

from __future__ import annotations

import json
import os
import re
import secrets
from pathlib import Path

import pytest
from running import CLIENT, LOCAL, PLAIN, children, wait_for, warm, write_play

pytestmark = pytest.mark.slow


def found_in_memory(pid: int, words: list[bytes]) -> set[bytes]:
    """Return which words are in the readable memory of a process."""
    found: set[bytes] = set()
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            match = re.match(r"([0-9a-f]+)-([0-9a-f]+) r", line)
            if not match or line.endswith(("[vvar]", "[vsyscall]", "[vvar_vclock]")):
                continue
            start, end = int(match[1], 16), int(match[2], 16)
            memory.seek(start)
            data = memory.read(end - start)
            found.update(word for word in words if word in data)
    return found


def plant(name: str) -> str:
    return f"{name}-{secrets.token_hex(8)}"


def test_secrets_of_a_run_are_nowhere_afterwards(tmp_path: Path) -> None:
    names = ("argument", "environment", "input", "file", "vault", "playbook", "password", "output")
    planted = {name: plant(name) for name in names}
    at_start = plant("start")
    with warm(tmp_path, SHOWN_TO_THE_SERVER=at_start) as place:
        (place.project / "password").write_text(planted["password"])
        encrypted = place.run(
            [str(Path(PLAIN[0]).with_name("ansible-vault"))],
            *("encrypt_string", "--vault-password-file", "password", planted["vault"]),
        ).out
        (place.project / "vars.yml").write_text(
            f"of_file: {planted['file']}\nin_vault: {encrypted}"
        )
        playbook = write_play(
            place.project / "play.yml",
            {
                "ansible.builtin.debug": {
                    "msg": f"{planted['playbook']} {{{{ of_file ~ in_vault ~ of_argument }}}} "
                    "{{ lookup('ansible.builtin.env', 'WORD') }}"
                }
            },
            {"ansible.builtin.command": f"echo {planted['output']}"},
        )
        server = place.server()
        for _ in range(2):
            done = place.serve(
                *(*LOCAL, "-e", "@vars.yml", "--vault-password-file", "password"),
                *("-e", f"of_argument={planted['argument']}", playbook),
                more={"WORD": planted["environment"]},
                stdin=-1,
                input=planted["input"],
            )
            for name in ("argument", "environment", "file", "vault", "playbook"):
                assert planted[name] in done.out, done.err
        assert place.server() == server
        words = [word.encode() for word in (*planted.values(), at_start)]
        for pid in (server, place.manager.pid):
            # The server has what it was started with, which shows that the search finds it.
            assert found_in_memory(pid, words) == {at_start.encode()}
        waits = place.project / "waits"
        task = {"ansible.builtin.shell": f"env >{waits}.new; mv {waits}.new {waits}; sleep 600"}
        process = place.start(CLIENT, *LOCAL, write_play(place.project / "next.yml", task))
        wait_for(waits.exists, "task")
        (run,) = children(server)
        shown = (Path(f"/proc/{run}/environ").read_bytes()).decode() + waits.read_text()
        assert "PATH=" in shown
        assert not [word for word in planted.values() if word in shown]
        assert found_in_memory(run, words[:-1]) == set()
        process.terminate()
        process.communicate()


def test_server_that_a_run_starts_has_only_settings(tmp_path: Path) -> None:
    secret = plant("environment")
    with warm(tmp_path) as place:
        playbook = write_play(place.project / "play.yml", {"ansible.builtin.meta": "noop"})
        variables = {"ANSIBLE_WARM_SOCKET": "", "TOKEN": secret}
        place.run(CLIENT, *LOCAL, "-e", f"token={secret}", playbook, more=variables)
        assert "is started for the next run" in place.reasons()[0]
        sockets = place.runtime / "ansible-warm"
        wait_for(lambda: [each for each in sockets.iterdir() if each.is_socket()], "server")
        managers = [
            pid
            for pid in map(int, filter(str.isdecimal, os.listdir("/proc")))
            if str(sockets) in _command(pid)
        ]
        assert len(managers) == 2
        for pid in managers:
            assert found_in_memory(pid, [secret.encode()]) == set()
        done = place.run(CLIENT, *LOCAL, playbook, more={"ANSIBLE_WARM_SOCKET": ""})
        assert (done.code, place.reasons()) == (0, [])
        assert json.dumps(done.out)
        os.kill(min(managers, key=lambda pid: "manager.py" not in _command(pid)), 15)
        wait_for(lambda: not list(sockets.iterdir()), "end of the manager")
        sockets.rmdir()


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""
