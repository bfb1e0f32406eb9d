"""Unit tests: what all lists of the command line share: widths, columns, ages and --watch."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from virtplay.api.schemas.fields import Pagination
from virtplay.cli import completion, watching
from virtplay.cli.ages import age_text, moment_text
from virtplay.cli.hosts import HOSTS, TEMPLATES
from virtplay.cli.jobs import JOBS
from virtplay.cli.snapshots import SNAPSHOTS
from virtplay.cli.tables import Table, draw
from virtplay.cli.vms import VMS
from virtplay.cli.watching import OTHER_SCREEN, USUAL_SCREEN, watch_lines

from tests.unit.cli.conftest import Run
from tests.unit.cli.service import FakeService, make_failed, make_job, make_vm
from tests.unit.cli.test_hosts import make_host
from tests.unit.cli.test_jobs import in_terminal, read_until, wait_stopped
from tests.unit.cli.test_snapshots import make_snapshot

TEMPLATE = {
    "id": "debian12", "os": "debian12", "source": "https://cloud.example/images/debian-12.qcow2",
    "minDisk": 2, "hosts": [{"host": "kvm1", "ready": True, "createdAt": None}],
}  # fmt: skip


@pytest.mark.parametrize("width", [50, 60, 80, 100, 132])
@pytest.mark.parametrize(
    ("table", "entry", "stay"),
    [
        (VMS, make_vm(name="customer-portal-staging").model_dump(mode="json"),
         ["vm-001", "customer-portal-sta"]),
        (JOBS, make_failed().model_dump(mode="json"), ["job-000012", "vm-001", "failed"]),
        (HOSTS, make_host(name="kvm1.example.com"), ["kvm1.example.com"]),
        (TEMPLATES, TEMPLATE, ["debian12"]),
        (SNAPSHOTS, {**make_snapshot(name="before-the-upgrade"), "branch": "├─ "},
         ["snap-001", "├─ before-the-upg"]),
    ],
    ids=["vm", "job", "host", "template", "snapshot"],
)  # fmt: skip
def test_ids_and_names_stay_at_every_width(
    width: int, table: Table, entry: dict[str, object], stay: list[str]
) -> None:
    columns = table.choose(None)
    rows = [[str(column.value(entry) or "-") for column in columns]]
    header, row = draw(columns, rows, width, colours=False)
    assert max(len(header), len(row)) <= width
    for text in stay:
        assert text in row


def test_a_narrow_terminal_shows_an_entry_in_two_lines() -> None:
    columns = VMS.choose(None)
    vms = [make_vm(name="customer-portal-staging"), make_vm(2, name="web", status="paused")]
    shown = [vm.model_dump(mode="json") for vm in vms]
    rows = [[str(column.value(vm) or "-") for column in columns] for vm in shown]
    assert draw(columns, rows, 40, colours=False) == [
        "ID      NAME",
        "  STATUS   HOST  MEMORY    IP",
        "vm-001  customer-portal-staging",
        "  running  kvm1  2048 MiB  198.51.100.7",
        "vm-002  web",
        "  paused   kvm1  2048 MiB  198.51.100.7",
    ]
    named = ["vm-001  customer-portal-staging", "vm-002  web"]
    assert draw(columns, rows, 20, colours=False)[2::2] == named, "never cut"
    columns, rows = VMS.choose("id,status"), [["vm-001", "running"]]
    assert draw(columns, rows, 40, colours=False) == ["ID      STATUS", "vm-001  running"]


def test_wide_tables_have_all_columns_and_long_names_are_cut_before_columns_go() -> None:
    columns = VMS.choose(None)
    vm = make_vm(name="x" * 64).model_dump(mode="json")
    row = [str(column.value(vm)) for column in columns]
    assert [len(line) for line in draw(columns, [row], 300, colours=False)][1] > 120
    header, shown = draw(columns, [row], 100, colours=False)
    assert header.split() == [column.title for column in columns]
    assert "xxx…  running" in shown


def test_colours_do_not_move_columns() -> None:
    columns = VMS.choose("id,status,name")
    rows = [["vm-001", "running", "a"], ["vm-002", "error (io_error)", "b"], ["vm-003", "-", "c"]]
    plain = draw(columns, rows, 80, colours=False)
    coloured = draw(columns, rows, 80, colours=True)
    assert "\x1b[31merror (io_error)\x1b[0m" in coloured[2]
    for code in ("1", "31", "32", "0"):
        coloured = [line.replace(f"\x1b[{code}m", "") for line in coloured]
    assert coloured == plain


def test_a_terminal_gets_a_table_of_its_width(service: FakeService) -> None:
    service.reply_vms(make_vm(name="web-server", os=""))
    with in_terminal("vm", "list", columns=60) as (process, terminal):
        lines = read_until(terminal, None).decode().split("\r\n")
        assert process.wait(120) == 0
    assert lines[0].replace("\x1b[1m", "").replace("\x1b[0m", "").split() == [
        "ID", "NAME", "STATUS", "HOST", "MEMORY", "IP",
    ]  # fmt: skip
    assert "vm-001" in lines[1]
    assert "web-server" in lines[1]


def test_columns_are_chosen_and_ordered(service: FakeService, run: Run) -> None:
    service.reply_vms(make_vm(labels={"team": "web"}), make_vm(2, ip=None))
    assert run("vm", "list", "-o", "ip,id,labels").out.splitlines() == [
        "IP            ID      LABELS",
        "198.51.100.7  vm-001  team=web",
        "-             vm-002  -",
    ]
    asked = len(service.requests)
    result = run("vm", "list", "--columns", "id,nmae")
    assert result.status == 2
    assert "unknown column 'nmae'; did you mean name? columns: id, name, status" in result.err
    assert result.err.startswith("virtplay: cannot use columns id,nmae: "), "-o is the same option"
    assert run("vm", "list", "--columns", "id", "--json").status == 2
    assert len(service.requests) == asked


def test_what_is_not_known_is_a_hyphen(service: FakeService, run: Run) -> None:
    service.reply_vms(make_vm(disk=0, os="", ip=None, host=None))
    assert run("vm", "list").out.splitlines()[1].split() == [
        "vm-001", "name-1", "running", "-", "2", "2048", "MiB", "-", "-", "-",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "now"), (-1, "now"), (45, "45 s ago"), (185, "3 min ago"), (7200, "2 h ago"),
        (3 * 86400, "3 d ago"), (-3 * 86400 - 60, "in 3 d"), (-3690, "in 61 min"),
    ],
)  # fmt: skip
def test_ages(seconds: int, text: str) -> None:
    assert age_text((datetime.now(UTC) - timedelta(seconds=seconds)).isoformat()) == text


def test_old_times_are_dates_and_moments_are_in_the_zone_of_the_person() -> None:
    assert age_text("2020-12-31T23:30:00Z") == "2021-01-01"
    assert moment_text("2026-07-01T12:00:00Z") == "2026-07-01 14:00:00 CEST"
    assert (age_text(None), moment_text(None)) == (None, None)


def test_watch_draws_the_list_anew_until_ctrl_c(service: FakeService) -> None:
    pages = [
        {"vms": [vm.model_dump(mode="json")], "pagination": Pagination.of(1, 100, 1).model_dump()}
        for vm in (make_vm(status="starting"), make_vm(status="running"))
    ]
    service.reply("GET", "/vms", pages[0], "not from Virtplay", pages[1])
    with in_terminal("vm", "list", "--watch", "--interval", "0.2") as (process, terminal):
        seen = read_until(terminal, b"cannot use the response")
        assert b"starting" in seen
        seen += read_until(terminal, b"running")
        process.send_signal(signal.SIGINT)
        seen += read_until(terminal, None)
        assert process.wait(120) == 0
    assert seen.count(b"\x1b[?1049h") == seen.count(b"\x1b[?1049l") == 1
    assert seen.rstrip().endswith(b"\x1b[?1049l")
    assert b"Traceback" not in seen


def test_watch_gives_the_screen_back_while_it_is_suspended_and_after_a_signal(
    service: FakeService,
) -> None:
    service.reply_vms(make_vm())
    with in_terminal("vm", "list", "--watch", "--interval", "0.2") as (process, terminal):
        read_until(terminal, b"vm-001")
        process.send_signal(signal.SIGTSTP)
        assert wait_stopped(process) == signal.SIGTSTP
        seen = read_until(terminal, b"\x1b[?25h\x1b[?1049l")
        assert seen.endswith(b"\x1b[?25h\x1b[?1049l")
        process.send_signal(signal.SIGCONT)
        seen = read_until(terminal, b"vm-001")
        assert seen.startswith(b"\x1b[?1049h\x1b[?25l")
        process.send_signal(signal.SIGTERM)
        seen = read_until(terminal, None)
        assert process.wait(120) == 128 + signal.SIGTERM
    assert seen.endswith(b"\x1b[?25h\x1b[?1049l")


@pytest.mark.parametrize("screen", [USUAL_SCREEN, OTHER_SCREEN], ids=["before", "after"])
def test_a_second_suspension_at_once_is_no_error(
    monkeypatch: pytest.MonkeyPatch, screen: str
) -> None:
    stops: list[Any] = []

    def stop(_process: int, number: int) -> None:
        stops.append(signal.getsignal(number))

    def press(*_args: object, **_options: object) -> None:
        handler = signal.getsignal(signal.SIGTSTP)
        if callable(handler):
            handler(signal.SIGTSTP, None)

    def lines() -> tuple[list[str], list[str]]:
        if len(stops) == 2:
            raise KeyboardInterrupt
        press()
        raise AssertionError("the handler has not raised")

    def show(text: str, **_options: object) -> None:
        if stops and text == screen:
            press()

    monkeypatch.setattr(watching, "is_terminal", lambda: True)
    monkeypatch.setattr(watching, "print", show, raising=False)
    monkeypatch.setattr(os, "kill", stop)
    before = signal.getsignal(signal.SIGTSTP)
    watch_lines(lines, 0.1)
    assert stops == [signal.SIG_DFL] * 2
    assert signal.getsignal(signal.SIGTSTP) is before


def test_watch_of_a_service_that_is_not_there_is_an_error(service: FakeService, run: Run) -> None:
    service.reply("GET", "/vms", "not from Virtplay")
    assert run("vm", "list", "--watch").status == 1
    assert run("vm", "list", "--watch", "--json").status == 2


def test_failed_jobs_show_no_percent(service: FakeService, run: Run) -> None:
    page = {
        "jobs": [job.model_dump(mode="json") for job in (make_failed(), make_job())],
        "pagination": Pagination.of(1, 20, 2).model_dump(),
    }
    service.reply("GET", "/jobs", page)
    lines = run("job", "list", "-o", "status,progress").out.splitlines()
    assert [line.split() for line in lines[1:]] == [["failed", "-"], ["running", "50%"]]


def complete(run: Run, line: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return what bash is offered after a Tab at the end of the line."""
    monkeypatch.setenv("_VIRTPLAY_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(line.split(" ")) - 1))
    result = run()
    monkeypatch.delenv("_VIRTPLAY_COMPLETE")
    assert result.err == ""
    return result.out.split()


def test_tab_completes_names(
    service: FakeService, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.reply_vms(
        make_vm(1, name="web-1"), make_vm(2, name="db"), make_vm(3, name="twice"),
        make_vm(4, name="twice"), make_vm(5, name="$(reboot) x"),
    )  # fmt: skip
    offered: Callable[[str], list[str]] = lambda line: complete(run, line, monkeypatch)  # noqa: E731
    assert offered("virtplay vm start ") == ["web-1", "db", "name-3", "name-4", "name-5"]
    assert offered("virtplay vm show we") == ["web-1"]
    assert offered("virtplay vm show name-") == [f"name-{number}" for number in range(1, 6)]
    assert offered("virtplay vm stop db web") == ["web-1"]
    assert offered("virtplay job list --vm vm-00")[:2] == ["vm-001", "vm-002"]
    service.reply("GET", "/vms/vm-002/snapshots", {"snapshots": [make_snapshot(name="clean")]})
    assert offered("virtplay snapshot restore vm-002 ") == ["clean"]
    service.reply("GET", "/hosts", {"hosts": [make_host()]})
    assert offered("virtplay host show ") == ["kvm1"]
    assert offered("virtplay vm list --host k") == ["kvm1"]
    service.reply("GET", "/templates", {"templates": [TEMPLATE]})
    assert offered("virtplay vm create x --template d") == ["debian12"]
    page = {
        "jobs": [make_job().model_dump(mode="json")],
        "pagination": Pagination.of(1, 100, 1).model_dump(),
    }
    service.reply("GET", "/jobs", page)
    assert offered("virtplay job show job-") == ["job-000012"]


def test_tab_completes_actions_and_playbooks(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    actions = complete(run, "virtplay job list --action vm_st", monkeypatch)
    assert actions == ["vm_start", "vm_stop"]
    assert complete(run, "virtplay playbook snapshot_r", monkeypatch) == ["snapshot_restore"]


def test_tab_is_silent_after_errors(
    service: FakeService, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert complete(run, "virtplay vm start ", monkeypatch) == [], "no reply is scripted"
    monkeypatch.setenv("VIRTPLAY_URL", "what is this")
    assert complete(run, "virtplay vm start ", monkeypatch) == []
    os.environ.pop("VIRTPLAY_TOKEN")
    assert complete(run, "virtplay job show ", monkeypatch) == []


def test_tab_waits_no_longer_than_its_limit_for_a_service_that_does_not_respond(
    service: FakeService, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("VIRTPLAY_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert complete(run, "virtplay vm start ", monkeypatch) == []
        with silent.accept()[0] as connection:
            assert connection.recv(65536).startswith(b"GET /api/v1/vms")
            connection.setblocking(False)
            with pytest.raises(BlockingIOError):  # the client waits on, and Tab does not
                connection.recv(1)
    assert completion.LIMIT_SECONDS == 1


def test_completion_works_in_bash(service: FakeService) -> None:
    service.reply_vms(make_vm(1, name="web-1"), make_vm(2, name="web-2"), make_vm(3, name="db"))
    script = (
        'eval "$(virtplay --show-completion)"\nCOMP_WORDS=(virtplay vm start web) COMP_CWORD=3\n'
        '_virtplay_completion virtplay\necho "${COMPREPLY[@]}"\n'
    )
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "--norc", "-c", script],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("web-1 web-2\n", "")


def test_zsh_is_offered_words_that_mean_nothing_to_it(
    service: FakeService, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.reply_vms(make_vm(1, name="web-1"), make_vm(2, name="$(reboot)"), make_vm(3, name="'"))
    monkeypatch.setenv("_VIRTPLAY_COMPLETE", "complete_zsh")
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", "virtplay vm start ")
    out = run().out
    assert out.strip() == """_arguments '*: :(("web-1"\n"name-2"\n"name-3"))\'"""
