"""Acceptance tests: the document's two client programs run unchanged against `make demo`.

The demo gets a network namespace of its own, so that its port 3000 is free whatever else runs here.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from tests.acceptance.service import wait_for

REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLES = {"javascript": "vm_manager.mjs", "python": "vm_manager.py"}
DIGESTS = {
    "javascript": "86c7aac3ddbf97c71ba4cbee04cf55d6e54d1c1ed06c933ecac64e03972315a7",
    "python": "0eccb844d467c242d3680674a14b58522e0e94bb85d2270175f2ec512a6824f3",
}
"""SHA-256 of the programs as the document has them."""
PROGRAMS = {"javascript": "node", "python": sys.executable}
TOKEN = "your-token"
ENDS_WITH_US = ("setpriv", "--pdeathsig", "TERM")


class Demo:
    """`make demo` in a network namespace."""

    def __init__(self, output: IO[str]) -> None:
        self._holder = subprocess.Popen(
            [
                *ENDS_WITH_US,
                "unshare",
                "--net",
                "sh",
                "-c",
                "ip link set lo up && echo up && exec sleep 3600",
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._holder.stdout
        assert self._holder.stdout.readline() == "up\n"
        self.output = output
        self.process = subprocess.Popen(
            [*self.enter(), *ENDS_WITH_US, sys.executable, "-m", "scripts.demo"],
            cwd=REPOSITORY,
            env={**self.environment(), "VIRTPLAY_BOOTSTRAP_TOKEN": TOKEN},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )

    def environment(self) -> dict[str, str]:
        return dict(os.environ)

    def enter(self) -> list[str]:
        """Return the words that run a program in the demo's network."""
        return ["nsenter", "-t", str(self._holder.pid), "--net", "--"]

    def run(self, *command: str, seconds: float = 60) -> str:
        done = subprocess.run(
            [*self.enter(), *command],
            cwd=REPOSITORY,
            env=self.environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def said(self) -> str:
        self.output.flush()
        return Path(self.output.name).read_text()

    def links(self) -> set[str]:
        return {link["ifname"] for link in json.loads(self.run("ip", "-json", "link"))}

    def get(self, path: str) -> Any:
        answer = self.run(
            "curl", "-sS", "-H", f"Authorization: Bearer {TOKEN}",
            f"http://localhost:3000/api/v1{path}",
        )  # fmt: skip
        return json.loads(answer)["data"]

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._holder.kill()
        self._holder.wait()
        if self._holder.stdout:
            self._holder.stdout.close()


def left_of(place: str) -> list[str]:
    """Return the processes and mounts that still have to do with a directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            if place in words or place in (process / "mountinfo").read_text():
                found.append(words)
        except OSError:
            continue
    return found


@pytest.fixture
def demo(lab_machine: None, tmp_path: Path) -> Iterator[Demo]:
    for program in ("node", "curl"):
        if shutil.which(program) is None:
            pytest.fail(f"the examples need {program}: make setup-lab installs it", pytrace=False)
    with (tmp_path / "demo.log").open("w") as output:
        running = Demo(output)
        try:
            yield running
        finally:
            running.end()


def shown_commands_run(demo: Demo, lab: Path, place: Path) -> None:
    """Run what the README's start and the first hour show, from creation to deletion."""
    read = {name: (REPOSITORY / name).read_text() for name in ("README.md", "docs/start.md")}
    blocks = {
        name: re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S) for name, text in read.items()
    }
    by_http = [block for block in blocks["README.md"] if "curl" in block]
    by_hand = [block for block in blocks["docs/start.md"] if block.startswith("virtplay vm")
               or block.startswith("virtplay snapshot")]  # fmt: skip
    assert (len(by_http), len(by_hand)) == (1, 4)
    keys = place / ".ssh"
    keys.mkdir(mode=0o700)
    key = keys / "id_ed25519"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    # What a user's own ~/.ssh/config would say: ssh takes that from the real home only.
    program = place / "bin" / "ssh"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec /usr/bin/ssh -F "{lab / "ssh_config"}" -i "{key}" "$@"\n')
    program.chmod(0o755)
    settings = [
        f"HOME={place}",
        f"PATH={program.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        f"VIRTPLAY_TOKEN={TOKEN}",
    ]  # fmt: skip
    *steps, deletion = [*by_http, *by_hand]
    for commands in steps:
        said = demo.run("env", *settings, "bash", "-eo", "pipefail", "-c", commands, seconds=300)
        if "vm ssh" in commands:
            assert "Linux" in said
    assert demo.get("/vms/my-vm")["memory"] == 512
    assert len(demo.get("/vms/my-vm/snapshots")["snapshots"]) >= 2
    wait_for("a start by name", lambda: demo.get("/vms/my-second")["status"] == "running", 90)
    demo.run("env", *settings, "bash", "-e", "-c", deletion, seconds=300)
    assert not [vm for vm in demo.get("/vms")["vms"] if vm["name"] == "my-vm"]


def test_both_examples_run_one_after_the_other_on_the_demo(demo: Demo, tmp_path: Path) -> None:
    def ready() -> bool:
        assert demo.process.poll() is None, demo.said()
        return "Ctrl-C stops the demo" in demo.said()

    wait_for("the demo", ready, 150)
    inventory = re.search(r"inventory (\S+)", demo.said())
    assert inventory
    lab = str(Path(inventory[1]).parent)
    assert TOKEN in demo.said()
    for language, name in EXAMPLES.items():
        demo.run(PROGRAMS[language], f"examples/{name}")

    def both_run() -> list[Any]:
        vms: list[Any] = demo.get("/vms")["vms"]
        assert len(vms) == 2
        assert {vm["name"] for vm in vms} == {"web-server"}
        jobs = demo.get("/jobs")["jobs"]
        assert {job["status"] for job in jobs} <= {"queued", "running", "succeeded"}, jobs
        return vms if {vm["status"] for vm in vms} == {"running"} else []

    vms = wait_for("both VMs running", both_run, 90)
    assert {vm["os"] for vm in vms} == {"ubuntu20.04"}
    assert {(vm["cpu"], vm["memory"], vm["disk"]) for vm in vms} == {(2, 2048, 20)}
    wait_for("their addresses", lambda: all(vm["ip"] for vm in demo.get("/vms")["vms"]), 90)
    assert left_of(lab)
    shown_commands_run(demo, Path(lab), tmp_path)

    demo.process.send_signal(signal.SIGTERM)
    assert demo.process.wait(120) == 0
    assert left_of(lab) == []
    assert not Path(lab).exists()
    assert demo.links() == {"lo"}


@pytest.mark.parametrize("language", EXAMPLES)
def test_example_is_the_documents(language: str) -> None:
    program = (REPOSITORY / "examples" / EXAMPLES[language]).read_bytes()
    assert hashlib.sha256(program).hexdigest() == DIGESTS[language]
