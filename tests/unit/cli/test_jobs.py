"""Unit tests: virtplay job, and how commands follow the job that they made."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from virtplay import errors
from virtplay.api.schemas.fields import Pagination
from virtplay.api.schemas.jobs import JobOut
from virtplay.cli import following
from virtplay.cli.bar import clock

from tests.unit.cli.conftest import Run
from tests.unit.cli.service import (
    FakeService,
    make_accepted,
    make_failed,
    make_job,
    make_succeeded,
    make_vm,
)
from tests.unit.cli.test_snapshots import make_snapshot

QUEUED = make_job(status="queued", progress=0, step="")
PROGRAM = [sys.executable, "-c", "from virtplay.cli import main; main()"]


def test_followed_job_ends_in_one_line_of_outcome(service: FakeService, run: Run) -> None:
    service.reply("POST", "/vms/vm-001/start", make_accepted())
    service.reply_job(QUEUED, make_job(), make_job(), make_job(progress=80), make_succeeded())
    result = run("vm", "start", "vm-001")
    assert result.status == 0
    lines = result.out.splitlines()
    assert lines[:3] == [
        "job-000012: vm_start of vm-001 (name-1)",
        "job-000012   0% queued",
        "job-000012  50% Starting",
    ]
    assert re.fullmatch(
        r"Started name-1 \(vm-001\) on kvm1 in \d\.\d s\. Log in: virtplay vm ssh --wait name-1",
        lines[3],
    )
    assert len(lines) == 4


def test_a_wait_for_the_guest_says_how_long_and_what_else_one_can_do(
    service: FakeService, run: Run
) -> None:
    service.reply("POST", "/vms/vm-001/stop", make_accepted())
    waiting = {"action": "vm_stop", "step": "Waiting for the guest", "stepTimeoutSeconds": 90}
    service.reply_job(make_job(**waiting), make_job(**waiting), make_succeeded(action="vm_stop"))
    result = run("vm", "stop", "vm-001")
    # Since 2026, when the step began: a clock that is ahead of the service's ends at the limit.
    words = "asked the guest, 90 of 90 s; --force cuts the power"
    assert result.out.splitlines()[1:-1] == [f"job-000012  50% {words}"]


@pytest.mark.parametrize(
    ("job", "words"),
    [
        (make_succeeded(appliesAt="next_boot"), "; takes effect at the next boot\n"),
        (make_succeeded(changed=False), "; no changes\n"),
    ],
)
def test_outcome_says_what_a_person_should_know(
    service: FakeService, run: Run, job: JobOut, words: str
) -> None:
    service.reply_job(job)
    assert run("job", "watch", job.id).out == f"Started vm-001 on kvm1 in 14.0 s{words}"


@pytest.mark.parametrize("status", ["failed", "cancelled", "lost"])
def test_job_that_did_not_succeed_is_exit_3(service: FakeService, run: Run, status: str) -> None:
    service.reply("POST", "/vms/vm-001/stop", make_accepted())
    service.reply_job(make_job(), make_failed(status=status))
    result = run("vm", "stop", "vm-001")
    assert result.status == 3
    assert re.fullmatch(
        rf"virtplay: vm_start of name-1 \(vm-001\) {status} after \d\.\d s: cannot reach host kvm1"
        r" \(HOST_UNREACHABLE\); for details: virtplay job log job-000012\n",
        result.err,
    )


def test_a_guest_that_does_not_react_is_named_as_typed_with_the_option(
    service: FakeService, run: Run
) -> None:
    """Its domain may have another name, which the module's message contains."""
    service.reply("POST", "/vms/vm-001/stop", make_accepted(name="third"))
    error = {
        "code": "GUEST_NOT_RESPONDING",
        "message": "cannot stop first: still running; a stop with force cuts its power",
        "task": "Stop the VM",
        "host": "kvm1",
    }
    service.reply_job(make_failed(action="vm_stop", error=error))
    assert re.fullmatch(
        r"virtplay: vm_stop of third \(vm-001\) failed after \d\.\d s: cannot stop first: still"
        r" running; a stop with --force cuts its power \(GUEST_NOT_RESPONDING\); .*\n",
        run("vm", "stop", "vm-001").err,
    )


def test_json_of_a_followed_job_is_the_job_alone(service: FakeService, run: Run) -> None:
    service.reply("POST", "/vms/vm-001/start", make_accepted())
    for last, status in ((make_succeeded(), 0), (make_failed(), 3)):
        service.reply_job(make_job(), last)
        result = run("vm", "start", "vm-001", "--json")
        assert result.status == status
        assert json.loads(result.out) == last.model_dump(mode="json")
        if status == 0:
            assert result.err == ""
        else:
            assert json.loads(result.err)["error"]["code"] == "HOST_UNREACHABLE"


def test_json_without_waiting_is_what_was_accepted(service: FakeService, run: Run) -> None:
    service.reply("POST", "/vms/vm-001/start", make_accepted())
    result = run("vm", "start", "vm-001", "--no-wait", "--json")
    assert json.loads(result.out) == make_accepted()
    assert service.asked("GET") == []


def test_service_that_is_away_for_a_moment_is_waited_for(
    service: FakeService, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "PATIENCE_SECONDS", 0.0)
    service.reply("GET", "/jobs/job-000012", make_job().model_dump(mode="json"), "not json")
    result = run("job", "watch", "job-000012")
    assert result.status == 1
    assert "cannot use the response" in result.err

    monkeypatch.setattr(following, "PATIENCE_SECONDS", 5.0)
    dumps = [job.model_dump(mode="json") for job in (make_job(), make_succeeded())]
    service.reply("GET", "/jobs/job-000012", dumps[0], dumps[0], "not json", "not json", dumps[1])
    result = run("job", "watch", "job-000012")
    assert result.status == 0
    assert "waiting for the service" in result.out


def test_service_without_its_database_is_waited_for(
    service: FakeService, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = errors.DatabaseNotAvailable("it is restarted")
    dumps = [job.model_dump(mode="json") for job in (make_job(), make_succeeded())]
    service.reply("POST", "/vms/vm-001/start", make_accepted())
    service.reply("GET", "/jobs/job-000012", away, dumps[0], away, away, dumps[1])
    result = run("vm", "start", "vm-001")
    assert (result.status, result.err) == (0, "")
    assert "waiting for the service" in result.out

    monkeypatch.setattr(following, "PATIENCE_SECONDS", 0.0)
    service.reply("GET", "/jobs/job-000012", dumps[0], dumps[0], away)
    result = run("job", "watch", "job-000012")
    assert result.status == 1
    assert result.err == (
        "virtplay: cannot use the database of the service: it is restarted; try again"
        " (DATABASE_NOT_AVAILABLE)\n"
    )


def test_change_that_the_database_may_have_made_says_so(service: FakeService, run: Run) -> None:
    unknown = errors.DatabaseNotAvailable("the connection was closed", outcome_unknown=True)
    service.reply("POST", "/vms/vm-001/start", unknown)
    result = run("vm", "start", "vm-001")
    assert result.status == 1
    assert result.err == (
        "virtplay: cannot use the database of the service: the connection was closed; the change"
        " may have been made: check it (DATABASE_NOT_AVAILABLE)\n"
    )


def test_watch_of_unknown_jobs(service: FakeService, run: Run) -> None:
    service.reply("GET", "/jobs/job-000099", errors.JobNotFound("cannot find job job-000099"))
    result = run("job", "watch", "job-000099")
    assert (result.status, result.err) == (
        1,
        "virtplay: cannot find job job-000099 (JOB_NOT_FOUND)\n",
    )
    asked = len(service.requests)
    for odd in ("12", "../vms", "job-1/log", ""):
        assert run("job", "show", odd).status == 2
    assert len(service.requests) == asked


def test_list_filters_by_the_name_of_a_vm(service: FakeService, run: Run) -> None:
    page = {
        "jobs": [
            job.model_dump(mode="json")
            for job in (
                make_job(vmId=None, vmIds=[]),
                make_failed(),
                make_job(
                    **{"origin": "shell", "host": None, "hosts": ["a", "b"], "vmId": None},
                    vmIds=["vm-001", "vm-002", "vm-003"],
                    user="alice@admin",
                ),
            )
        ],
        "pagination": Pagination.of(1, 20, 9).model_dump(),
    }
    service.reply("GET", "/jobs", page)
    result = run("job", "list", "--vm", "vm-001", "--status", "failed", "--action", "vm_start")
    assert service.asked("GET")[0][1] == {
        "vm": "vm-001",
        "status": "failed",
        "action": "vm_start",
        "consoles": False,
        "page": 1,
        "limit": 20,
    }
    first, second, third = (line.split() for line in result.out.splitlines()[1:])
    assert first[3] == "-"
    assert second[1:7] == ["api", "vm_start", "vm-001", "kvm1", "failed", "-"]
    assert third[1:6] == ["shell", "vm_start", "3", "VMs", "2"]
    assert third[-1] == "alice@admin"
    assert result.err == "3 of 9 jobs\n"


def test_list_filters_by_origin(service: FakeService, run: Run) -> None:
    page = {"jobs": [], "pagination": Pagination.of(1, 20, 0).model_dump()}
    service.reply("GET", "/jobs", page)
    run("job", "list", "--origin", "shell")
    asked = {"origin": "shell", "consoles": False, "page": 1, "limit": 20}
    assert service.asked("GET")[0][1] == asked
    assert run("job", "list", "--origin", "cli").status == 2


@pytest.mark.parametrize("words", [("--all",), ("--action", "console_open")])
def test_list_has_opened_consoles_only_on_request(
    service: FakeService, run: Run, words: tuple[str, ...]
) -> None:
    page = {"jobs": [], "pagination": Pagination.of(1, 20, 0).model_dump()}
    service.reply("GET", "/jobs", page)
    assert run("job", "list", *words).status == 0
    assert "consoles" not in service.asked("GET")[0][1]


def test_show_tells_changes_and_error(service: FakeService, run: Run) -> None:
    changes = [{"field": "vcpus", "before": 1, "after": 2, "applies": "live", "destroys": False}]
    service.reply_job(make_failed(changes=changes))
    out = run("job", "show", "job-000012").out
    assert "changes:     vcpus: 1 → 2 (live)\n" in out
    assert "error:       cannot reach host kvm1 (HOST_UNREACHABLE)\n" in out
    assert "command:     ansible-playbook playbooks/vm_start.yml" in out


def test_log_keeps_lines_and_nothing_that_acts_on_a_terminal(
    service: FakeService, run: Run
) -> None:
    service.reply(
        "GET", "/jobs/job-000012/log", "PLAY [x]\r\n\x1b[0;32mok\x1b[0m\t[red]\x1b]0;t\x07\n"
    )
    result = run("job", "log", "job-000012")
    assert (result.status, result.out) == (0, "PLAY [x]\nok\t[red]\\x1b]0;t\\x07\n")


@pytest.mark.parametrize(
    ("seconds", "text"), [(-1, "0:00"), (59.9, "0:59"), (61, "1:01"), (3725, "1:02:05")]
)
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


@contextmanager
def in_terminal(
    *arguments: str, columns: int = 120
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """`virtplay` in a process of its own on a terminal, and the terminal's end."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(columns), "LINES": "24"}
    process = subprocess.Popen(
        [*PROGRAM, *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment,
        process_group=0,  # of its own, as a shell's jobs have, or the kernel would ignore Ctrl-Z
    )
    os.close(theirs)
    try:
        yield process, ours
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        os.close(ours)


def read_until(terminal: int, wanted: bytes | None) -> bytes:
    """What the terminal shows until `wanted` has come; for None, until the program ends."""
    seen = b""
    deadline = time.monotonic() + 300
    while wanted is None or wanted not in seen:
        left = max(0.0, deadline - time.monotonic())
        ready, _, _ = select.select([terminal], [], [], left)
        assert ready, f"neither {wanted!r} nor the end has come after {seen!r}"
        try:
            chunk = os.read(terminal, 65536)
        except OSError:
            chunk = b""
        if not chunk:
            assert wanted is None, f"the program has ended without {wanted!r}, after {seen!r}"
            break
        seen += chunk
    return seen


def wait_stopped(process: subprocess.Popen[bytes]) -> int:
    """Return the signal that has stopped the process, once one has; it must not end instead."""
    deadline = time.monotonic() + 300
    events = os.WSTOPPED | os.WEXITED | os.WNOHANG | os.WNOWAIT
    while (found := os.waitid(os.P_PID, process.pid, events)) is None:
        assert time.monotonic() < deadline, "nothing has stopped it"
        time.sleep(0.02)
    assert found.si_code == os.CLD_STOPPED
    return found.si_status


def test_terminal_gets_a_bar_and_afterwards_the_outcome(service: FakeService) -> None:
    service.reply("POST", "/vms/vm-001/start", make_accepted(name="[red]x[/]"))
    evil = make_job(step="[bold]Start[/] the\x1b[2J VM")
    service.reply_job(QUEUED, evil, evil, evil, make_succeeded())
    with in_terminal("vm", "start", "vm-001") as (process, terminal):
        seen = read_until(terminal, None).decode()
        assert process.wait(120) == 0
    assert "(\x1b" not in seen, "the name is text"
    assert "([red]x[/])" in seen
    assert r"[bold]Start[/] the\x1b[2J VM" in seen
    assert "━" in seen
    assert "50%" in seen
    assert "eta 0:0" in seen
    assert "Started [red]x[/] (vm-001) on kvm1 in " in seen.splitlines()[-1]


def test_the_way_out_of_a_wait_fits_a_terminal_of_80_columns(service: FakeService) -> None:
    service.reply("POST", "/vms/vm-001/stop", make_accepted(name="my-vm"))
    waiting = make_job(action="vm_stop", step="Waiting for the guest", stepTimeoutSeconds=90)
    service.reply_job(waiting, waiting, waiting, make_succeeded(action="vm_stop"))
    with in_terminal("vm", "stop", "vm-001", columns=80) as (process, terminal):
        seen = read_until(terminal, None).decode()
        assert process.wait(120) == 0
    assert "--force cuts the power" in seen
    assert "eta" not in seen, "the usual time is that of guests that react"


def test_ctrl_c_leaves_the_job_running_and_says_so(service: FakeService) -> None:
    service.reply("POST", "/vms/vm-001/start", make_accepted())
    service.reply_job(make_job())
    with in_terminal("vm", "start", "vm-001") as (process, terminal):
        seen = read_until(terminal, b"50%")
        process.send_signal(signal.SIGINT)
        seen += read_until(terminal, None)
        assert process.wait(120) == 130
    text = seen.decode()
    assert "job-000012 keeps running; to follow it again: virtplay job watch job-000012" in text
    assert "Traceback" not in text
    assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l"), "the cursor is back"
    assert all(method == "GET" or path.endswith("start") for method, path, *_ in service.requests)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_the_cursor_is_back_after_a_signal(service: FakeService, number: signal.Signals) -> None:
    service.reply_job(make_job())
    with in_terminal("job", "watch", "job-000012") as (process, terminal):
        seen = read_until(terminal, b"50%")
        process.send_signal(number)
        seen += read_until(terminal, None)
        assert process.wait(120) == 128 + number
    assert seen.rfind(b"\x1b[?25h") > seen.rfind(b"\x1b[?25l")
    assert b"Traceback" not in seen


def test_delete_asks_on_a_terminal(service: FakeService) -> None:
    service.reply_vms(make_vm(name="web"))
    service.reply("GET", "/vms/vm-001/snapshots", {"snapshots": [make_snapshot()]})
    service.reply("DELETE", "/vms/vm-001", make_accepted())
    for answer, status, deleted in ((b"n\n", 1, 0), (b"y\n", 0, 1)):
        with in_terminal("vm", "delete", "vm-001", "--no-wait") as (process, terminal):
            seen = read_until(terminal, b"[y/N]")
            assert (
                b"Delete vm-001 (web, running on kvm1) with its disk of 20 GiB and 1 snapshot?"
                in seen
            )
            os.write(terminal, answer)
            read_until(terminal, None)
            assert process.wait(120) == status
        assert len(service.asked("DELETE")) == deleted


def test_show_of_a_job_that_has_not_begun(service: FakeService, run: Run) -> None:
    service.reply_job(make_job(status="queued", step="", startedAt=None, finishedAt=None))
    lines = run("job", "show", "job-000012").out.splitlines()
    shown = {line.partition(":")[0]: line.partition(":")[2].strip() for line in lines}
    assert {shown[name] for name in ("progress", "step", "started", "finished")} == {"-"}
    assert not {"error", "failed task", "changes"} & {*shown}


def test_a_job_of_a_service_that_cannot_wait_is_followed_by_looks(
    service: FakeService, run: Run
) -> None:
    stages = [job.model_dump(mode="json") for job in (make_job(), make_job(), make_succeeded())]
    path = f"/jobs/{stages[0]['id']}"
    service.reply("GET", path, stages[0], errors.ValidationFailed("cannot use wait"), *stages[1:])
    result = run("job", "watch", stages[0]["id"])
    assert result.status == 0, result.err
    assert [query for _, query, _ in service.asked("GET")] == [{}, {"wait": 0.01}, {}, {}]
