"""Tests: a run through a server uses a terminal as the plain program does."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pexpect
import pytest
from running import (
    CLIENT,
    LOCAL,
    PLAIN,
    WAIT_SECONDS,
    Warm,
    children,
    copy_place,
    wait_for,
    without_times,
    write_play,
)

pytestmark = pytest.mark.slow

PROMPT = "shell> "
ASK = {"ansible.builtin.pause": {"prompt": "Type something"}, "register": "typed"}
TELL = {"ansible.builtin.debug": {"msg": "typed {{ typed.user_input }}"}}


@contextlib.contextmanager
def spawned(place: Warm, words: list[str], **options: Any) -> Iterator[Any]:
    """Run a program that leads the session of a new terminal."""
    child = pexpect.spawn(
        words[0],
        list(map(str, words[1:])),
        cwd=str(place.project),
        env={**place.environment, "TERM": "xterm", "PS1": PROMPT},
        encoding="utf-8",
        timeout=WAIT_SECONDS,
        dimensions=(40, 132),
        **options,
    )
    child.delayafterclose = child.ptyproc.delayafterclose = 0.01
    try:
        yield child
    finally:
        child.close(force=True)


@contextlib.contextmanager
def shell(place: Warm) -> Iterator[Any]:
    """Run a shell with job control on a new terminal."""
    with spawned(place, ["bash", "--norc", "--noediting", "-i"]) as child:
        child.expect_exact(PROMPT)
        yield child


def reads_keys(child: Any) -> bool:
    """Return whether a pause reads the terminal.

    Ansible discards what is typed before it does not wait for keys; the program, or the shell that
    has started it, shares the open terminal.
    """
    lines = Path(f"/proc/{child.pid}/fdinfo/0").read_text().splitlines()
    flags = next(line.split()[1] for line in lines if line.startswith("flags:"))
    return bool(int(flags, 8) & os.O_NONBLOCK)


def rest(child: Any) -> tuple[str, int | None, int | None]:
    """Return what a program writes until its end, and how it ends."""
    child.expect(pexpect.EOF)
    child.wait()
    return without_times(child.before), child.exitstatus, child.signalstatus


def test_pause_asks_the_leader_of_a_session(served: Warm) -> None:
    playbook = write_play(copy_place(served, "pause") / "play.yml", ASK, TELL)
    seen = []
    for program in (PLAIN, CLIENT):
        with spawned(served, [*program, *LOCAL, str(playbook)]) as child:
            child.expect_exact("Type something:")
            before = child.before
            wait_for(partial(reads_keys, child))
            child.sendline("wörd")
            seen.append((before, *rest(child)))
    assert served.reasons() == []
    assert seen[1] == seen[0]
    assert "typed wörd" in seen[1][1]
    assert "\x1b[0;32m" in seen[1][1]
    assert re.search(r"^PLAY \[localhost\] \*{100,}\r$", seen[1][0], re.MULTILINE)


@pytest.mark.parametrize("answer", ["A", "C"])
def test_interrupt_of_a_pause_asks_what_to_do(answer: str, served: Warm) -> None:
    playbook = write_play(copy_place(served, "interrupt") / "play.yml", ASK, TELL)
    seen = []
    for program in (PLAIN, CLIENT):
        with spawned(served, [*program, *LOCAL, str(playbook)]) as child:
            child.expect_exact("Type something:")
            wait_for(partial(reads_keys, child))
            child.sendintr()
            child.expect_exact("abort")
            child.send(answer)
            seen.append(rest(child))
    assert served.reasons() == []
    assert seen[1] == seen[0]


def test_interrupt_of_a_task_ends_the_run(served: Warm) -> None:
    directory = copy_place(served, "task")
    task = {"ansible.builtin.shell": f"touch '{directory}/waits'; exec sleep 600"}
    playbook = write_play(directory / "play.yml", task)
    with spawned(served, [*CLIENT, *LOCAL, str(playbook)]) as child:
        wait_for((directory / "waits").exists)
        child.sendintr()
        out, status, _ = rest(child)
    assert "User interrupted execution" in out
    assert status == 99
    assert served.reasons() == []


def test_shell_keeps_its_terminal(served: Warm) -> None:
    directory = copy_place(served, "shell")
    playbook = write_play(
        directory / "play.yml",
        ASK,
        TELL,
        vars_prompt=[{"name": "hidden", "prompt": "Hidden"}, {"name": "shown", "private": False}],
    )
    command = shlex.join([*CLIENT, *LOCAL, str(playbook)])
    output = directory / "output"
    with shell(served) as child:
        for further, shown in (("", True), (" | cat", True), (f" >{output}", False)):
            child.sendline(command + further)
            child.expect_exact("Hidden: ")
            wait_for(lambda: not child.getecho())
            child.sendline("secret")
            if shown:
                child.expect_exact("shown: ")
            wait_for(child.getecho)
            child.sendline("visible")
            # Ansible shows the prompt of a pause only where it does not buffer its output.
            wait_for(lambda: reads_keys(child))
            child.sendline("this")
            if shown:
                child.expect_exact("typed this")
            child.expect_exact(PROMPT)
            assert "secret" not in child.before
            wait_for(child.getecho)
    assert "typed this" in output.read_text()
    assert served.reasons() == []


def test_run_stops_and_goes_on_with_its_client(served: Warm) -> None:
    playbook = write_play(copy_place(served, "stop") / "play.yml", ASK, TELL)
    with shell(served) as child:
        child.sendline(shlex.join([*CLIENT, *LOCAL, str(playbook)]))
        child.expect_exact("Type something:")
        run = served.run_in(playbook.parent)
        (client,) = children(child.pid)
        wait_for(lambda: reads_keys(child))
        os.kill(client, signal.SIGTSTP)
        child.expect_exact("Stopped")
        child.expect_exact(PROMPT)
        wait_for(lambda: _state(run) == "T", "stop of the run")
        child.sendline("fg")
        wait_for(lambda: _state(run) != "T", "continuation of the run")
        child.sendline("on")
        child.expect_exact("typed")
        child.expect_exact(PROMPT)
    assert served.reasons() == []


def test_password_is_asked_of_the_terminal_and_not_of_the_input(served: Warm) -> None:
    directory = copy_place(served, "vault")
    (directory / "password").write_text("open sesame\n")
    encrypted = served.run(
        [str(Path(PLAIN[0]).with_name("ansible-vault"))],
        *("encrypt_string", "--vault-password-file", directory / "password", "inside"),
    ).out
    playbook = directory / "play.yml"
    value = encrypted.replace("\n", "\n      ")
    playbook.write_text(
        "- hosts: localhost\n  gather_facts: false\n"
        f"  vars:\n    word: {value}\n"
        "  tasks:\n    - ansible.builtin.debug: {msg: 'it is {{ word }}'}\n"
    )
    command = shlex.join([*CLIENT, *LOCAL, "--ask-vault-pass", str(playbook)])
    with shell(served) as child:
        for before in ("", "echo no | "):
            child.sendline(before + command)
            child.expect_exact("Vault password: ")
            child.sendline("open sesame")
            child.expect_exact("it is inside")
            child.expect_exact(PROMPT)
            assert "sesame" not in child.before
    script = directory / "script"
    script.write_text("#!/bin/sh\necho open sesame\n")
    script.chmod(0o700)
    for file in ("password", "script"):
        done = served.serve(*LOCAL, "--vault-password-file", directory / file, playbook)
        assert "it is inside" in done.out
    done = served.serve(*LOCAL, playbook)
    assert done.code != 0
    assert "it is inside" not in done.out
    assert served.reasons() == []


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
