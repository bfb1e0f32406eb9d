"""Acceptance tests: from nothing to a prompt in a guest with two commands of `virtplay`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from lab import Lab
from lab.lab import Host
from tests.acceptance.guests import traces
from tests.acceptance.service import TOKEN, Api
from tests.acceptance.test_life_cycle import key_pair


def virtplay(lab: Lab, api: Api, place: Path, *words: str) -> str:
    """Return the output of a command that succeeds, with an ssh that knows the lab's keys.

    It remembers those of guests in this directory.
    """
    program = place / "bin" / "ssh"
    program.parent.mkdir(exist_ok=True)
    # As a user's own ~/.ssh/config would: ssh takes that from the real home directory only.
    files = f'-F "{lab.directory / "ssh_config"}" -o UserKnownHostsFile="{place / "known_hosts"}"'
    program.write_text(f'#!/bin/sh\nexec /usr/bin/ssh {files} "$@"\n')
    program.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "VIRTPLAY_URL": str(api.http.base_url).partition("/api/")[0],
        "VIRTPLAY_TOKEN": TOKEN,
    }
    done = subprocess.run(
        [sys.executable, "-m", "virtplay.cli", *words],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_prompt_in_a_new_guest_takes_two_commands(
    lab: Lab, api: Api, one: Host, tmp_path: Path
) -> None:
    before = traces(one)
    private, _ = key_pair(tmp_path)
    size = ("--template", "micro", "--memory", "128M", "--disk", "1G", "--host", one.name)
    made = virtplay(
        lab, api, tmp_path,
        "vm", "create", "two steps", *size, "--ssh-key", f"{private}.pub", "--start", "--wait",
    )  # fmt: skip
    [vm] = api.get("/vms?search=two+steps")["vms"]
    assert made.splitlines()[-1].startswith(f"Created and started two steps ({vm['id']}) on lab-")
    assert f"; its address is {vm['ip']}. Log in: virtplay vm ssh {vm['id']}" in made
    words = ("vm", "ssh", "two steps", "-i", private, "--", "hostname; echo $SSH_CONNECTION")
    name, connection = virtplay(lab, api, tmp_path, *words).splitlines()
    assert (tmp_path / "known_hosts").read_text()
    assert name == "two-steps"
    assert connection.split()[2] == vm["ip"]
    virtplay(lab, api, tmp_path, "vm", "delete", "two steps", "--force", "--yes")
    assert traces(one) == before
