"""Unit tests: virtplay vm."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from virtplay import errors
from virtplay.api.schemas.fields import Pagination
from virtplay.cli import following

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


def test_list_is_an_aligned_table(service: FakeService, run: Run) -> None:
    service.reply_vms(
        make_vm(1, name="web", host=None, ip=None), make_vm(2, name="网络", status="stopped")
    )
    result = run("vm", "list")
    assert result.status == 0
    assert result.out.splitlines() == [
        "ID      NAME  STATUS   HOST  CPU  MEMORY    DISK    OS        IP",
        "vm-001  web   running  -     2    2048 MiB  20 GiB  debian12  -",
        "vm-002  网络  stopped  kvm1  2    2048 MiB  20 GiB  debian12  198.51.100.7",
    ]
    assert result.err == ""


def test_reason_of_a_status_is_shown_where_nobody_has_asked_for_it(
    service: FakeService, run: Run
) -> None:
    service.reply_vms(
        make_vm(1, name="web"),
        make_vm(2, name="db", status="error", statusReason="io_error"),
        make_vm(3, name="old", status="stopped", statusReason="saved"),
        make_vm(4, name="new", status="creating", statusReason=None),
    )
    statuses = [line[14:31].rstrip() for line in run("vm", "list").out.splitlines()]
    assert statuses == ["STATUS", "running", "error (io_error)", "stopped (saved)", "creating"]


def test_list_filters_become_the_query(service: FakeService, run: Run) -> None:
    service.reply_vms(make_vm())
    options = "--status running --search de& --host kvm1 --label a=b --sort -memory --page 2"
    assert run("vm", "list", *options.split(), "--limit", "7").status == 0
    assert service.asked("GET") == [
        (
            "/vms",
            {
                "status": "running",
                "search": "de&",
                "host": "kvm1",
                "label": "a=b",
                "sort": "-memory",
                "page": 2,
                "limit": 7,
            },
            {},
        )
    ]


def test_list_takes_all_pages_and_no_vm_twice(service: FakeService, run: Run) -> None:
    pages: list[dict[str, Any]] = []
    # vm-100 moved to the second page because something before it went away meanwhile.
    for number, vms in enumerate((range(1, 101), range(100, 151)), start=1):
        pages.append(
            {
                "vms": [make_vm(n).model_dump(mode="json") for n in vms],
                "pagination": Pagination.of(number, 100, 150).model_dump(),
            }
        )
    service.reply("GET", "/vms", *pages)
    result = run("vm", "list")
    assert [line.split()[0] for line in result.out.splitlines()[1:]] == [
        f"vm-{n:03d}" for n in range(1, 151)
    ]
    assert [query["page"] for _, query, _ in service.asked("GET")] == [1, 2]


def test_list_of_very_many_says_what_is_left_out(service: FakeService, run: Run) -> None:
    full = {
        "vms": [make_vm(n).model_dump(mode="json") for n in range(1, 101)],
        "pagination": Pagination.of(1, 100, 2345).model_dump(),
    }
    service.reply("GET", "/vms", full)
    result = run("vm", "list")
    assert len(service.requests) == 10
    assert "of 2345 VMs" in result.err


def test_empty_list_says_so_beside_the_output(service: FakeService, run: Run) -> None:
    service.reply_vms()
    result = run("vm", "list")
    assert (result.status, result.out, result.err) == (0, "", "0 of 0 VMs\n")


def test_json_of_a_page_is_the_data_unchanged(service: FakeService, run: Run) -> None:
    data = {
        "vms": [make_vm(name="é \u202e\x9b", labels={"a": "𝄞"}).model_dump(mode="json")],
        "pagination": {"page": 1, "limit": 1, "total": 3, "pages": 3},
    }
    service.reply("GET", "/vms", data)
    result = run("vm", "list", "--limit", "1", "--json")
    assert json.loads(result.out) == data
    assert "é" in result.out
    assert "𝄞" in result.out
    assert "\u202e" not in result.out, "reverses the line that it is printed in"
    assert "\x9b" not in result.out, "begins a terminal's escape sequence"


def test_texts_are_neither_markup_nor_escapes(service: FakeService, run: Run) -> None:
    evil = "[red]x[/] :bomb: \x1b[2J\r\n\x9b\u202e"
    service.reply_vms(make_vm(name=evil, description=evil, labels={"k": evil}))
    for command in (("vm", "list"), ("vm", "show", "vm-001")):
        result = run(*command)
        assert r"[red]x[/] :bomb: \x1b[2J\r\n\x9b\u202e" in result.out
        assert not set("\x1b\r\x9b\u202e") & set(result.out)


def test_show_has_what_matters(service: FakeService, run: Run) -> None:
    vm = make_vm(
        labels={"team": "web", "env": "prod"},
        pending={"cpu": 2},
        error={"code": "LIBVIRT_ERROR", "message": "cannot define"},
        managed=False,
    )
    service.reply_vms(vm)
    job = make_succeeded().model_dump(mode="json")
    page = {"jobs": [job], "pagination": Pagination.of(1, 1, 9).model_dump()}
    service.reply("GET", "/jobs", page)
    service.reply("GET", "/vms/vm-001/snapshots", {"snapshots": [make_snapshot(1)]})
    out = run("vm", "show", "vm-001").out
    assert "snapshots:   1\n" in out
    assert "last job:    job-000012 vm_start succeeded, 2026-01-01\n" in out
    assert f"console:     {service.url}/vms/vm-001/console\n" in out
    assert "created:     2026-01-01 13:00:00 CET\n" in out
    assert service.asked("GET")[-1] == ("/jobs", {"vm": "vm-001", "limit": 1}, {})
    assert "status:      running (booted)\n" in out
    assert "error:       cannot define (LIBVIRT_ERROR)\n" in out
    assert "labels:      team=web\n             env=prod\n" in out
    assert "pending:     cpu at the next boot, now 2\n" in out
    assert "managed:     no\n" in out
    assert "description" not in out
    assert run("vm", "list", "-o", "name,managed").out.split() == ["NAME", "MANAGED", vm.name, "no"]


def test_description_is_shown_line_by_line(service: FakeService, run: Run) -> None:
    service.reply_vms(make_vm(description="one\n\ttwo\x1b\n\nthree\n"))
    lines = run("vm", "show", "vm-001").out.splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("description:"))
    texts = [line[13:] for line in lines[start : start + 3]]
    assert texts == ["one", "        two\\x1b", "three"]


def test_status_tells_the_job_at_work(service: FakeService, run: Run) -> None:
    job = make_job().model_dump(mode="json")
    status = {"id": "vm-001", "status": "starting", "observedAt": None, "job": job}
    service.reply("GET", "/vms/vm-001/status", status)
    assert (
        run("vm", "status", "vm-001").out
        == "vm-001 starting, job-000012 vm_start running 50%, not observed yet\n"
    )


def test_create_sends_the_whole_body(service: FakeService, run: Run, tmp_path: Path) -> None:
    key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA me@here"
    (tmp_path / "key.pub").write_text(f"# mine\n{key}\n\n")
    (tmp_path / "user-data").write_bytes(b"#cloud-config\r\nruncmd: []\n")
    service.reply_vms()
    service.reply("POST", "/vms", make_accepted())
    service.reply_job(make_succeeded(action="vm_create"))
    options = (
        "--template debian12 --cpu 3 --memory 512 --disk 7 --auto-start --host kvm2 --bridge br0"
        " --model e1000e --mac 52:54:00:12:34:56 --ip 192.0.2.5/24 --label team=web"
        " --label note=a=b --clone full"
    )
    files = ("--ssh-key", str(tmp_path / "key.pub"), "--user-data", str(tmp_path / "user-data"))
    result = run("vm", "create", "web", *options.split(), "--description", "two words", *files)
    assert result.status == 0, result.err
    [(_, _, body)] = service.asked("POST")
    assert body == {
        "name": "web",
        "template": "debian12",
        "cpu": 3,
        "memory": 512,
        "disk": 7,
        "autoStart": True,
        "host": "kvm2",
        "network": {
            "type": "bridge",
            "bridge": "br0",
            "model": "e1000e",
            "mac": "52:54:00:12:34:56",
            "ip": "192.0.2.5/24",
        },
        "labels": {"team": "web", "note": "a=b"},
        "description": "two words",
        "sshKeys": [key],
        "userData": "#cloud-config\r\nruncmd: []\n",
        "clone": "full",
    }


def test_create_leaves_the_rest_to_the_service(service: FakeService, run: Run) -> None:
    service.reply_vms()
    service.reply("POST", "/vms", make_accepted())
    assert run("vm", "create", "web", "--template", "micro", "--no-wait").status == 0
    [(_, _, body)] = service.asked("POST")
    assert set(body) == {"name", "template", "cpu", "memory", "disk", "autoStart"}


def test_create_gives_the_guest_the_keys_of_its_user(
    service: FakeService, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA me@here"
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "id_ed25519.pub").write_text(f"{key}\n")
    (tmp_path / ".ssh" / "other.pub").write_text(f"{key} other\n")
    service.reply_vms()
    service.reply("POST", "/vms", make_accepted())
    create = ("vm", "create", "web", "--template", "micro", "--no-wait")
    run(*create)
    run(*create, "--no-ssh-key")
    run(*create, "--ssh-key", str(tmp_path / ".ssh" / "other.pub"))
    assert [body.get("sshKeys") for _, _, body in service.asked("POST")] == [
        [key], None, [f"{key} other"],
    ]  # fmt: skip


def test_create_without_a_key_warns_unless_it_is_meant(
    service: FakeService, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    service.reply_vms()
    service.reply("POST", "/vms", make_accepted())
    create = ("vm", "create", "web", "--template", "micro", "--no-wait")
    warning = "The guest gets no SSH key"
    assert warning in run(*create).err
    assert warning not in run(*create, "--no-ssh-key").err


@pytest.mark.parametrize(
    ("memory", "disk", "body"),
    [
        ("512M", "20G", (512, 20)), ("2G", "1T", (2048, 1024)), ("2GiB", "20gib", (2048, 20)),
        ("1.5g", "7", (1536, 7)), ("768", "7 G", (768, 7)),
    ],
)  # fmt: skip
def test_sizes_have_units(
    service: FakeService, run: Run, memory: str, disk: str, body: tuple[int, int]
) -> None:
    service.reply_vms()
    service.reply("POST", "/vms", make_accepted())
    size = ("--memory", memory, "--disk", disk)
    assert run("vm", "create", "x", "--template", "micro", "--no-wait", *size).status == 0
    [(_, _, sent)] = service.asked("POST")
    assert (sent["memory"], sent["disk"]) == body


@pytest.mark.parametrize(
    ("option", "text", "words"),
    [
        ("--memory", "2X", "'2X' is not a size such as 512M or 2G, or a number of MiB"),
        ("--memory", "2GB", "'2GB' is not a size such as"),
        ("--memory", "-1", "'-1' is not a size such as"),
        ("--memory", "100K", "'100K' is not a whole number of MiB"),
        ("--disk", "512M", "'512M' is not a whole number of GiB"),
    ],
)
def test_wrong_sizes_are_named(
    service: FakeService, run: Run, option: str, text: str, words: str
) -> None:
    result = run("vm", "create", "x", "--template", "micro", f"{option}={text}")
    assert (result.status, service.requests) == (2, [])
    assert f"Invalid value for '{option}': {words}" in result.err


def reply_creation(service: FakeService, *ips: str | None) -> None:
    """Accept a creation, whose job succeeds; the VM then has these addresses in turn."""
    service.reply_vms()
    service.reply("POST", "/vms", make_accepted("web", jobId="job-000001"))
    service.reply_job(
        make_job(id="job-000001", action="vm_create"),
        make_succeeded(id="job-000001", action="vm_create"),
    )
    vms = [make_vm(name="web", ip=ip).model_dump(mode="json") for ip in ips]
    service.reply("GET", "/vms/vm-001", *vms)


CREATE = ("vm", "create", "web", "--template", "micro")


def test_create_start_and_wait_end_with_the_address(service: FakeService, run: Run) -> None:
    reply_creation(service, None, None, "198.51.100.7")
    result = run(*CREATE, "--start", "--wait")
    assert result.status == 0, result.err
    lines = result.out.splitlines()
    assert lines[0] == "job-000001: vm_create of vm-001 (web)"
    assert "vm-001 100% waiting for its address" in lines
    assert re.fullmatch(
        r"Created and started web \(vm-001\) on kvm1 in \d+\.\d s; its address is 198\.51\.100\.7\."
        r" Log in: virtplay vm ssh web",
        lines[-1],
    )
    [(_method, _path, body)] = service.asked("POST")
    assert (body["start"], body["autoStart"]) == (True, False)


def test_create_says_what_comes_next(service: FakeService, run: Run) -> None:
    reply_creation(service, None)
    assert run(*CREATE).out.endswith(" s. Start it: virtplay vm start web\n")
    assert run(*CREATE, "--start").out.endswith(" s. Log in: virtplay vm ssh --wait web\n")
    assert json.loads(run(*CREATE, "--start", "--no-wait", "--json").out)["jobId"] == "job-000001"
    started = [body.get("start", False) for *_, body in service.asked("POST")]
    assert started == [False, True, True]


def test_create_start_as_json_has_the_job_and_the_vm(service: FakeService, run: Run) -> None:
    reply_creation(service, None, "198.51.100.7")
    result = run(*CREATE, "--start", "--wait", "--json")
    data = json.loads(result.out)
    assert data["job"]["id"] == "job-000001"
    assert data["vm"]["ip"] == "198.51.100.7"


def test_a_failed_creation_is_the_outcome_and_no_address_is_waited_for(
    service: FakeService, run: Run
) -> None:
    reply_creation(service, None)
    service.reply_job(make_failed(id="job-000001", action="vm_create"))
    result = run(*CREATE, "--start", "--wait")
    assert result.status == 3
    assert "vm_create of web (vm-001) failed" in result.err


def test_a_guest_that_stops_or_never_has_an_address_is_no_success(
    service: FakeService, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.reply("POST", "/vms/vm-001/start", make_accepted("web"))
    service.reply_job(make_succeeded())
    off = make_vm(ip=None, status="stopped").model_dump(mode="json")
    service.reply("GET", "/vms/vm-001", off)
    result = run("vm", "start", "vm-001", "--wait")
    assert result.status == 1
    assert result.err == "virtplay: cannot wait for an address of VM web (vm-001): it is stopped\n"
    monkeypatch.setattr(following, "ADDRESS_SECONDS", -1)
    service.reply_vms(make_vm(ip=None))
    result = run("vm", "start", "vm-001", "--wait", "--json")
    error = json.loads(result.err)["error"]
    assert (error["code"], error["details"]) == ("NO_ADDRESS", {"vmId": "vm-001"})


def test_update_sends_only_what_was_given(service: FakeService, run: Run) -> None:
    service.reply("PUT", "/vms/vm-001", make_accepted())
    for options, body in (
        (["--cpu", "4"], {"cpu": 4}),
        (["--no-auto-start", "--description", ""], {"autoStart": False, "description": ""}),
        (["--no-labels"], {"labels": {}}),
        (["--label", "a="], {"labels": {"a": ""}}),
        (["--network", "lan"], {"network": {"type": "network", "network": "lan"}}),
    ):
        assert run("vm", "update", "vm-001", *options, "--no-wait").status == 0
        assert service.requests.pop()[3] == body


@pytest.mark.parametrize(
    ("word", "options", "body"),
    [
        ("start", [], {}),
        ("pause", [], {}),
        ("resume", [], {}),
        ("stop", [], {"force": False}),
        ("stop", ["--force"], {"force": True}),
        ("restart", ["--force"], {"force": True}),
    ],
)
def test_power_actions_post_to_their_path(
    service: FakeService, run: Run, word: str, options: list[str], body: dict[str, Any]
) -> None:
    service.reply("POST", f"/vms/vm-001/{word}", make_accepted())
    result = run("vm", word, "vm-001", *options, "--no-wait")
    assert result.out == f"job-000012: vm_{word} of vm-001 (name-1)\n"
    assert service.asked("POST") == [(f"/vms/vm-001/{word}", {}, body)]


REFUSAL = {
    "code": "VM_ALREADY_STOPPED",
    "message": "cannot pause VM vm-003: it is stopped",
    "details": {},
}


def reply_many(service: FakeService, *refs: str) -> None:
    """Accept an action for VMs of these ids, and refuse one for vm-003."""
    jobs = [
        {**make_accepted(), "id": ref, "name": f"name-{ref[-1]}", "jobId": f"job-00000{ref[-1]}"}
        for ref in refs
    ]
    refused = [{"id": "vm-003", "error": REFUSAL}]
    service.reply("POST", "/vms/actions", {"jobs": jobs, "refused": refused})


def test_an_action_on_many_is_one_request(service: FakeService, run: Run) -> None:
    reply_many(service, "vm-001", "vm-002")
    result = run("vm", "pause", "vm-001", "vm-002", "vm-003", "--at-once", "2", "--no-wait")
    assert result.out == (
        "job-000001: vm_pause of vm-001 (name-1)\njob-000002: vm_pause of vm-002 (name-2)\n"
    )
    assert result.err == "virtplay: cannot pause VM vm-003: it is stopped (VM_ALREADY_STOPPED)\n"
    assert result.status == 1
    run("vm", "stop", "--label", "team=web", "--force", "--no-wait")
    assert [body for _, _, body in service.asked("POST")] == [
        {"action": "pause", "vms": ["vm-001", "vm-002", "vm-003"], "atOnce": 2},
        {"action": "stop", "label": "team=web", "force": True},
    ]


def test_all_jobs_are_followed_and_each_failure_is_a_line(service: FakeService, run: Run) -> None:
    reply_many(service, "vm-001", "vm-002")
    service.reply_job(make_job(id="job-000001"), make_succeeded(id="job-000001"))
    service.reply_job(make_failed(id="job-000002", vmId="vm-002"))
    result = run("vm", "pause", "--label", "team")
    assert result.status == 3
    refused, failed = result.err.splitlines()
    assert "vm-003" in refused
    assert failed.startswith("virtplay: vm_start of name-2 (vm-002) failed: ")
    assert failed.endswith("for details: virtplay job log job-000002")
    assert "vm_pause of 1 of 3 VMs succeeded after " in result.out


def test_a_refused_one_of_many_is_exit_1_as_if_it_were_alone(
    service: FakeService, run: Run
) -> None:
    reply_many(service, "vm-001")
    service.reply_job(make_succeeded(id="job-000001"))
    result = run("vm", "pause", "--label", "team")
    assert result.status == 1
    assert result.err == "virtplay: cannot pause VM vm-003: it is stopped (VM_ALREADY_STOPPED)\n"
    assert "vm_pause of 1 of 2 VMs succeeded after " in result.out


@pytest.mark.parametrize("words", [[], ["vm-001", "--label", "a"], ["vm-001", "--at-once", "0"]])
def test_an_action_on_no_vm_or_two_choices_asks_nothing(
    service: FakeService, run: Run, words: list[str]
) -> None:
    assert run("vm", "start", *words).status == 2
    assert service.requests == []


def test_delete_passes_its_flags_and_requires_yes_in_a_pipe(service: FakeService, run: Run) -> None:
    service.reply_vms(make_vm(1, name="web"))
    service.reply("GET", "/vms/vm-001/snapshots", {"snapshots": [{}, {}]})
    service.reply("DELETE", "/vms/vm-001", make_accepted())
    result = run("vm", "delete", "web", "--no-wait", "--force")
    assert (result.status, service.asked("DELETE")) == (2, [])
    assert result.err == (
        "virtplay: cannot ask whether to delete vm-001 (web, running on kvm1) with its disk of"
        " 20 GiB and 2 snapshots: no terminal; use --yes\n"
    )
    run("vm", "delete", "vm-001", "--no-wait", "--yes")
    run("vm", "delete", "vm-001", "--no-wait", "--force", "--keep-disks", "-y")
    assert [query for _, query, _ in service.asked("DELETE")] == [
        {},
        {"force": True, "keepDisks": True},
    ]


def test_a_vm_is_named_to_the_service_as_it_was_typed(service: FakeService, run: Run) -> None:
    service.reply_vms(make_vm(1, name="web 1/é?#"))
    service.reply("POST", "/vms/vm-001/start", make_accepted())
    assert run("vm", "start", "web 1/é?#", "--no-wait").status == 0
    assert "id:          vm-001" in run("vm", "show", "web 1/é?#").out
    assert service.asked("GET")[0][0] == "/vms/vm-001"


def test_name_that_several_have_lists_them(service: FakeService, run: Run) -> None:
    vms = [
        {"id": "vm-001", "name": "web", "domain": "web", "host": "kvm1", "status": "running",
         "createdAt": "2026-01-01T12:00:00Z"},
        {"id": "vm-004", "name": "web", "domain": "web-2", "host": None, "status": "error",
         "createdAt": "2026-01-02T12:00:00Z"},
    ]  # fmt: skip
    error = errors.VmAmbiguous(
        "cannot choose a VM: 2 are named web: vm-001 (running on kvm1), vm-004 (error on no host);"
        " use an id",
        vms=vms,
        matches=2,
    )
    service.reply("DELETE", "/vms/web", error)
    result = run("vm", "delete", "web", "--force", "--yes")
    assert result.status == 1
    assert result.err.splitlines() == [
        "virtplay: cannot choose a VM: 2 are named web; use an id:",
        "  vm-001 on kvm1, running, created 2026-01-01",
        "  vm-004 on no host, error, created 2026-01-02",
    ]
    document = json.loads(run("vm", "delete", "web", "--yes", "--json").err)
    assert document["error"]["code"] == "VM_AMBIGUOUS"
    assert document["error"]["details"]["vms"] == vms


def test_a_name_that_another_vm_has_is_refused(service: FakeService, run: Run) -> None:
    service.reply_vms(make_vm(1, name="web"), make_vm(2, name="db"))
    service.reply("POST", "/vms", make_accepted())
    service.reply("PUT", "/vms/vm-001", make_accepted())
    create = ("vm", "create", "web", "--template", "micro", "--no-wait")
    result = run(*create)
    assert (result.status, service.asked("POST")) == (2, [])
    assert result.err == (
        "virtplay: cannot use the name web: another VM has it: vm-001 on kvm1, running, created"
        " 2026-01-01; choose another name or use --allow-duplicate\n"
    )
    assert run(*create, "--allow-duplicate").status == 0
    rename = ("vm", "update", "vm-001", "--no-wait", "--name")
    assert run(*rename, "db").status == 2
    assert run(*rename, "web").status == 0, "its own name"
    assert run(*rename, "db", "--allow-duplicate").status == 0
    assert [body for _, _, body in service.asked("PUT")] == [{"name": "web"}, {"name": "db"}]


def test_a_refused_name_says_what_of_the_other_vm_it_is(service: FakeService, run: Run) -> None:
    other = make_vm(1, name="db", domain="web")
    service.reply_vms(other)
    service.reply("POST", "/vms", make_accepted())
    for name, what in (("web", "domain"), ("vm-001", "id"), (other.uuid.upper(), "UUID")):
        service.reply("GET", f"/vms/{name}", other.model_dump(mode="json"))
        result = run("vm", "create", name, "--template", "micro", "--no-wait")
        assert result.status == 2
        assert f" created 2026-01-01 (as its {what}; its name is db); choose another" in result.err


@pytest.mark.parametrize(
    ("changes", "domain"),
    [
        ([("title", "old \x9b", "new"), ("name", "old", "new-2")], "is now new-2"),
        (
            [("title", "old \x9b", "new")],
            "keeps its name (virtplay job log job-000012 says why)",
        ),
    ],
)
def test_a_rename_ends_with_the_new_name_and_says_what_the_domain_has(
    service: FakeService, run: Run, changes: list[tuple[str, str, str]], domain: str
) -> None:
    service.reply_vms(make_vm(name="old \x9b"))
    service.reply("PUT", "/vms/vm-001", make_accepted("old \x9b"))
    keys = ("field", "before", "after")
    made = [
        {**dict(zip(keys, each, strict=True)), "applies": "offline", "destroys": False}
        for each in changes
    ]
    service.reply_job(make_succeeded(action="vm_update", changes=made))
    out = run("vm", "update", "vm-001", "--name", "new").out
    assert re.search(r"^Updated new \(vm-001\) on kvm1 in \d+\.\d s; ", out, re.M)
    assert out.endswith(rf"; it was named old \x9b, and its domain {domain}" + "\n")
    out = run("vm", "update", "vm-001", "--name", "old \x9b").out
    assert "it was named" not in out


def test_refusal_is_one_line_and_exit_1(service: FakeService, run: Run) -> None:
    service.reply("POST", "/vms/vm-001/start", errors.VmAlreadyRunning("cannot\nstart\x1b[31m it"))
    result = run("vm", "start", "vm-001")
    assert result.status == 1
    assert result.out == ""
    assert result.err == "virtplay: cannot\\nstart\\x1b[31m it (VM_ALREADY_RUNNING)\n"


def test_service_names_every_wrong_field(service: FakeService, run: Run) -> None:
    service.reply_vms()
    result = run("vm", "create", "x", "--template", "micro", "--cpu", "0", "--disk", "0")
    assert result.status == 2
    assert result.err == (
        "virtplay: --cpu must be greater than or equal to 1;"
        " --disk must be greater than or equal to 1G\n"
    )


@pytest.mark.parametrize(
    ("given", "limit"),
    [("100T", "less than or equal to 16T"), ("1", "greater than or equal to 32M")],
)
def test_a_limit_of_memory_has_its_unit(
    service: FakeService, run: Run, given: str, limit: str
) -> None:
    service.reply_vms()
    result = run("vm", "create", "x", "--template", "micro", "--memory", given)
    assert (result.status, result.err) == (2, f"virtplay: --memory must be {limit}\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["vm", "list", "--status", "asleep"],
        ["vm", "list", "--limit", "0"],
        ["vm", "list", "--limit", "101"],
        ["vm", "update", "vm-001"],
        ["vm", "update", "vm-001", "--label", "a=b", "--no-labels"],
        ["vm", "create", "x"],
        ["vm", "create", "x", "--template", "micro", "--cpu", "two"],
        ["vm", "create", "x", "--template", "micro", "--label", "a"],
        ["vm", "create", "x", "--template", "micro", "--label", "a=1", "--label", "a=2"],
        ["vm", "create", "x", "--template", "micro", "--network", "a", "--bridge", "b"],
        ["vm", "create", "x", "--template", "micro", "--ssh-key", "/nowhere"],
        ["vm", "create", "x", "--template", "micro", "--token", "secret"],
        ["vm", "fly", "vm-001"],
    ],
)
def test_wrong_command_line_is_exit_2_and_asks_nothing(
    service: FakeService, run: Run, arguments: list[str]
) -> None:
    result = run(*arguments)
    assert result.status == 2
    assert result.out == ""
    assert "Error: " in result.err
    assert service.requests == []


def test_private_key_never_leaves_the_machine(
    service: FakeService, run: Run, tmp_path: Path
) -> None:
    file = tmp_path / "id"
    file.write_text(
        "-----BEGIN OPENSSH PRIVATE KEY-----\nb3Bl\n-----END OPENSSH PRIVATE KEY-----\n"
    )
    result = run("vm", "create", "x", "--template", "micro", "--ssh-key", str(file))
    assert result.status == 2
    assert "private key" in result.err
    assert service.requests == []
