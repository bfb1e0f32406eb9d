"""API tests: the callback plugin in real runs of ansible-playbook, and the service it talks to."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from virtplay.store.models import Job, JobEvent

from tests.api.conftest import ADMIN, Service

pytestmark = [
    pytest.mark.slow,
    pytest.mark.parametrize("database_url", ["sqlite"], indirect=True),
]

REPOSITORY = Path(__file__).parents[2]
PLAYBOOK = """
- name: Try the report
  hosts: all
  gather_facts: false
  tasks:
    - name: Say a secret
      ansible.builtin.debug:
        msg: "It is {{ console_password }}"
    - name: Keep a secret
      ansible.builtin.debug:
        msg: "It is {{ kept }}"
      changed_when: true
      no_log: true
    - name: Go through a loop
      ansible.builtin.assert:
        that: item != bad
        fail_msg: "cannot go past {{ item }}"
      loop: [a, b]
    - name: Wait
      ansible.builtin.pause:
        seconds: "{{ pause }}"
      when: pause is defined
"""
SECRETS = {"console_password": "k4rT9wqz", "kept": "hidden-by-no-log"}


@asynccontextmanager
async def running(
    tmp_path: Path, environment: dict[str, str], *options: str, **variables: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A run on this machine with the plugin, ended with the block."""
    playbook = tmp_path / "try_report.yml"
    playbook.write_text(PLAYBOOK)
    given = json.dumps({**SECRETS, "bad": "none", **variables})
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name("ansible-playbook")),
        *(str(playbook), "-i", "one,", "-c", "local", "-e", given, *options),
        cwd=REPOSITORY,
        env={
            **os.environ,
            "ANSIBLE_CALLBACKS_ENABLED": "virtplay.libvirt.report",
            "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
            **environment,
        },
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


async def run(
    tmp_path: Path, environment: dict[str, str], *options: str, **variables: str
) -> tuple[int, str]:
    """Exit code and output of a whole run."""
    async with running(tmp_path, environment, *options, **variables) as process:
        said, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, " ".join(said.decode().split())


def to(service: Service) -> dict[str, str]:
    """The environment that reports to the service."""
    return {"VIRTPLAY_URL": service.address, "VIRTPLAY_TOKEN": ADMIN}


async def only_job(service: Service) -> Any:
    (job,) = (await service.get("/jobs"))["jobs"]
    return job


async def test_run_shows_how_far_it_is_and_keeps_its_secrets(
    service: Service, tmp_path: Path
) -> None:
    async with running(tmp_path, to(service), "--check", pause="2") as process:
        await service.until("/jobs", lambda d: d["jobs"] and d["jobs"][0]["step"] == "Wait")
        half = await only_job(service)
        assert (half["status"], half["progress"]) == ("running", 75)
        said, _ = await process.communicate()
    assert process.returncode == 0, said
    job = await only_job(service)
    wanted = {
        **{"status": "succeeded", "progress": 100, "changed": True, "dryRun": True},
        **{"origin": "shell", "action": "try_report", "hosts": ["one"], "vmId": None},
    }
    assert {key: job[key] for key in wanted} == wanted
    log = (await service.client.get(f"/api/v1/jobs/{job['id']}/log")).text
    assert "TASK [Say a secret] ****" in log
    assert "ok: [one] => It is ********\n" in log
    assert "one : ok=" in log
    kept = [str(row) for row in (*await Job.all().values(), *await JobEvent.all().values())]
    for secret in (*SECRETS.values(), ADMIN):
        assert secret not in "".join(kept)


async def test_failed_run_says_which_item_failed_and_why(service: Service, tmp_path: Path) -> None:
    code, _ = await run(tmp_path, to(service), bad="b")
    assert code == 2
    job = await only_job(service)
    assert (job["status"], job["changed"]) == ("failed", True)
    error = job["error"]
    assert (error["code"], error["task"], error["host"]) == (
        *("PLAYBOOK_FAILED", "Go through a loop", "one"),
    )
    assert error["message"] == "cannot go past b"
    log = (await service.client.get(f"/api/v1/jobs/{job['id']}/log")).text
    assert "failed: [one] => (item=b) => cannot go past b" in log


@pytest.mark.parametrize(
    ("number", "exit_code"),
    # What Ansible makes of them without the plugin, too.
    [(signal.SIGINT, 99), (signal.SIGTERM, -signal.SIGTERM), (signal.SIGHUP, -signal.SIGHUP)],
)
@pytest.mark.usefixtures("cold_ansible")
async def test_run_that_is_ended_says_so_at_once(
    service: Service, tmp_path: Path, number: signal.Signals, exit_code: int
) -> None:
    async with running(tmp_path, to(service), pause="60") as process:
        await service.until("/jobs", lambda d: d["jobs"] and d["jobs"][0]["step"] == "Wait")
        os.kill(process.pid, number)
        await process.communicate()
    assert process.returncode == exit_code
    job = await only_job(service)
    assert (job["status"], job["error"]["code"]) == ("cancelled", "RUN_INTERRUPTED")
    assert f"cannot finish: {number.name} interrupted the run;" in job["error"]["message"]
    assert job["error"]["task"] == "Wait"


@pytest.mark.usefixtures("cold_ansible")
async def test_run_that_breaks_off_by_itself_has_failed(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = PLAYBOOK + "- name: Break off\n  hosts: '{{ nobody_knows_this }}'\n  tasks: []\n"
    monkeypatch.setattr(sys.modules[__name__], "PLAYBOOK", broken)
    code, said = await run(tmp_path, to(service))
    assert code not in (0, 2), said
    job = await only_job(service)
    assert (job["status"], job["error"]["code"]) == ("failed", "RUN_INTERRUPTED")
    assert "the run stopped before its end" in job["error"]["message"]


async def test_runs_of_the_service_itself_are_not_reported(
    service: Service, tmp_path: Path
) -> None:
    code, said = await run(tmp_path, {**to(service), "VIRTPLAY_RUN": str(tmp_path)})
    assert (code, "WARNING" in said) == (0, False)
    assert (await service.get("/jobs"))["jobs"] == []


async def test_service_that_does_not_answer_is_one_warning_and_no_delay(
    service: Service, tmp_path: Path
) -> None:
    released = asyncio.Event()
    connections = 0

    async def hang(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await released.wait()
        writer.close()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    for environment, reason in (
        ({**to(service), "VIRTPLAY_TOKEN": "wrong-token"}, "wrong, expired or revoked"),
        ({**to(service), "VIRTPLAY_TOKEN": ""}, "no token; set VIRTPLAY_TOKEN"),
        ({**to(service), "VIRTPLAY_URL": "http://127.0.0.1:1"}, "Connection refused"),
        ({**to(service), "VIRTPLAY_URL": f"http://127.0.0.1:{port}"}, "does not respond"),
    ):
        code, said = await run(tmp_path, environment)
        assert code == 0, said
        assert said.count("[WARNING]: virtplay.libvirt.report: cannot") == 1, said
        assert reason in said
    assert connections == 1
    released.set()
    server.close()
    assert (await service.get("/jobs"))["jobs"] == []
