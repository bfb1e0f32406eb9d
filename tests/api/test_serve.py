"""API tests: whole `virtplay serve` processes, killed and stopped in the middle of a job."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from virtplay import app
from virtplay.machine import unit
from virtplay.machine.uninstall import plan
from virtplay.settings import Settings
from virtplay.store.database import DatabaseAway

from tests.api.conftest import ADMIN, BODY, FINISHED, PROJECT, only_sqlite, write_inventory
from tests.api.fake_hosts import FakeHost
from tests.api.postgres import free_port

pytestmark = pytest.mark.slow
VIRTPLAY = Path(sys.executable).with_name("virtplay")


def processes_of(mark: str) -> dict[int, str]:
    """pid → command line of every living process that has `mark` in its environment."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if mark.encode() in (entry / "environ").read_bytes():
                    words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    found[int(entry.name)] = words
    return found


def wait_for(test: Callable[[], Any], seconds: float = 300) -> Any:
    """What `test` returns once that is true."""
    deadline = time.monotonic() + seconds
    while not (found := test()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
    return found


class Server:
    """A `virtplay serve` on the test's database and hypervisor; started as often as wanted."""

    def __init__(self, folder: Path, database_url: str, python: Path, launcher: str) -> None:
        self.folder = folder
        self.mark = f"VIRTPLAY_STATE_DIR={folder / 'state'}"
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        hypervisors = folder / "hypervisors"
        hypervisors.mkdir()
        self.host = FakeHost("kvm1", hypervisors, python)
        write_inventory(folder / "hosts.yml", {"kvm1": self.host})
        self.environment = {
            **os.environ,
            "VIRTPLAY_STATE_DIR": str(folder / "state"),
            "VIRTPLAY_DATABASE_URL": database_url,
            "VIRTPLAY_PROJECT_DIR": str(PROJECT),
            "VIRTPLAY_LAUNCHER": launcher,
            "VIRTPLAY_INVENTORY": str(folder / "hosts.yml"),
            "VIRTPLAY_BOOTSTRAP_TOKEN": ADMIN,
            "VIRTPLAY_PORT": str(self.port),
            "VIRTPLAY_OBSERVE_INTERVAL": "1",
            "VIRTPLAY_SHUTDOWN_GRACE": "0.5",
            # A module that is killed leaves what it was unpacked to.
            "TMPDIR": str(folder),
        }
        self.process: subprocess.Popen[bytes] | None = None
        self.client = httpx.Client(
            base_url=f"http://127.0.0.1:{self.port}/api/v1",
            headers={"Authorization": f"Bearer {ADMIN}"},
            timeout=120,
        )

    def start(self, pass_fds: Sequence[int] = ()) -> None:
        """Start it, with these descriptors left open, and wait until it is ready."""
        log = (self.folder / "serve.log").open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "virtplay.cli", "serve"],
            env=self.environment,
            stdout=log,
            stderr=log,
            cwd=self.folder,
            pass_fds=pass_fds,
        )
        log.close()
        wait_for(self.is_ready)

    def is_ready(self) -> bool:
        """Whether /readyz answers 200."""
        assert self.process is not None
        assert self.process.poll() is None, self.log()
        with contextlib.suppress(httpx.TransportError):
            answer = httpx.get(f"{self.address}/readyz", verify=False)
            return answer.status_code == 200
        return False

    def log(self) -> str:
        """What it printed."""
        return (self.folder / "serve.log").read_text()

    def end(self, number: int) -> int:
        """Send it that signal and wait until it is gone; its exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(45)  # before Sanic's own limit for a slow request ends that

    def get(self, path: str) -> Any:
        """`data` of a GET."""
        answer = self.client.get(path)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    def post(self, path: str, body: Any = None) -> Any:
        """`data` of an accepted POST."""
        answer = self.client.post(path, json=body)
        assert answer.status_code == 202, answer.text
        return answer.json()["data"]

    def finish(self, job: str) -> Any:
        """The job once it has ended."""
        return wait_for(lambda: (j := self.get(f"/jobs/{job}"))["status"] in FINISHED and j)

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run `virtplay` with these words on the same database."""
        return subprocess.run(
            [VIRTPLAY, *words], env=self.environment, capture_output=True, text=True, check=False
        )


@pytest.fixture
def server(tmp_path: Path, database_url: str, python: Path, launcher: Path) -> Iterator[Server]:
    """A server that is not started yet; nothing of it is left at the end.

    On SQLite its jobs are forks of a launcher, on PostgreSQL programs of their own.
    """
    way = str(launcher) if database_url.startswith("sqlite") else "off"
    made = Server(tmp_path, database_url, python, way)
    yield made
    made.client.close()
    if made.process is not None and made.process.poll() is None:
        made.end(signal.SIGTERM)
    try:
        wait_for(lambda: not processes_of(made.mark))
    finally:
        for pid in processes_of(made.mark):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.mark.usefixtures("cold_ansible")
def test_killed_in_the_middle_of_a_job_and_started_again(server: Server) -> None:
    server.start()
    running = server.post("/vms", {**BODY, "autoStart": True})
    assert server.finish(running["jobId"])["status"] == "succeeded"
    gate = server.host.hold("create")
    restart_gate = server.host.hold("restart")
    user_data = "#cloud-config\nhostname: kept\n"
    data = server.post("/vms", {**BODY, "userData": user_data})
    start = server.post(f"/vms/{data['id']}/start")
    restart = server.post(f"/vms/{running['id']}/restart")
    wait_for(lambda: len(server.host.calls("create")) == 2 and server.host.calls("restart"))
    queued = server.post("/vms", BODY)
    server.end(signal.SIGKILL)
    wait_for(lambda: not processes_of(server.mark))
    assert server.host.read()["done"] == ["create"]
    gate.unlink()
    restart_gate.unlink()
    server.start()
    job = server.finish(data["jobId"])
    assert (job["status"], job["attempt"]) == ("succeeded", 2)
    calls = [c["given"] for c in server.host.calls("create") if c["given"]["id"] == data["id"]]
    assert [call["user_data"] for call in calls] == [user_data] * 2
    assert calls[0]["generation"] < calls[1]["generation"]
    assert server.finish(start["jobId"])["status"] == "succeeded"
    assert server.finish(queued["jobId"])["status"] == "succeeded"
    assert server.finish(restart["jobId"])["status"] == "succeeded"
    assert server.get(f"/vms/{running['id']}")["startedAt"] == "2026-11-22T13:31:00Z"
    wait_for(lambda: {vm["status"] for vm in server.get("/vms")["vms"]} <= {"running", "stopped"})
    assert server.get(f"/vms/{data['id']}")["status"] == "running"
    assert len(server.host.domains()) == 3
    log = server.client.get(f"/jobs/{data['jobId']}/log").text
    assert log.count("PLAY [") == 2
    assert server.end(signal.SIGTERM) == 0


@only_sqlite
@pytest.mark.usefixtures("cold_ansible")
def test_a_batch_that_is_killed_in_the_middle_is_done_again_job_by_job(server: Server) -> None:
    server.start()
    made = [server.post("/vms", {**BODY, "autoStart": True}) for _ in range(3)]
    for vm in made:
        assert server.finish(vm["jobId"])["status"] == "succeeded"
    # The first is done and its result is not there when the service dies; the second is under way.
    gate = server.host.hold("pause")
    server.host.order(f"pause {server.get('/vms/vm-001')['domain']}", lie="")
    refs = [vm["id"] for vm in made]
    data = server.post("/vms/actions", {"action": "pause", "vms": refs, "atOnce": 2})
    wait_for(lambda: server.host.calls("pause"))
    wait_for(lambda: "pause" in server.host.read()["done"])
    server.end(signal.SIGKILL)
    wait_for(lambda: not processes_of(server.mark))
    assert server.host.read()["done"].count("pause") == 1
    gate.unlink()
    server.start()
    jobs = [server.finish(each["jobId"]) for each in data["jobs"]]
    assert [(job["status"], job["attempt"]) for job in jobs] == [
        ("succeeded", 2), ("succeeded", 2), ("succeeded", 1),
    ]  # fmt: skip
    assert [job["changed"] for job in jobs] == [False, True, True]
    assert {vm["status"] for vm in server.get("/vms")["vms"]} == {"paused"}
    assert server.end(signal.SIGTERM) == 0
    assert not list((server.folder / "state" / "jobs").glob("batch-*"))


@only_sqlite
@pytest.mark.usefixtures("cold_ansible")
def test_a_restart_whose_result_a_kill_loses_is_done_once(server: Server) -> None:
    server.start()
    vm = server.post("/vms", {**BODY, "autoStart": True})
    assert server.finish(vm["jobId"])["status"] == "succeeded"
    gate = server.host.hold("restart")
    restart = server.post(f"/vms/{vm['id']}/restart")
    wait_for(lambda: server.host.calls("restart"))
    assert server.process is not None
    server.process.send_signal(signal.SIGSTOP)  # it cannot write the result
    gate.unlink()
    wait_for(lambda: "restart" in server.host.read()["done"])
    server.end(signal.SIGKILL)
    server.start()
    job = server.finish(restart["jobId"])
    assert (job["status"], job["attempt"], job["changed"]) == ("succeeded", 2, True)
    assert len(server.host.calls("restart")) == 2
    assert server.get(f"/vms/{vm['id']}")["startedAt"] == "2026-11-22T13:31:00Z"


@pytest.mark.usefixtures("cold_ansible")
def test_sigterm_in_the_middle_of_a_job_leaves_nothing_running(server: Server) -> None:
    server.start()
    gate = server.host.hold("create")
    data = server.post("/vms", BODY)
    wait_for(lambda: server.host.calls("create"))
    assert server.end(signal.SIGTERM) == 0
    assert processes_of(server.mark) == {}
    assert "Traceback" not in server.log()
    assert server.host.read()["done"] == []
    gate.unlink()
    server.start()
    job = server.finish(data["jobId"])
    assert (job["status"], job["attempt"], job["progress"]) == ("succeeded", 2, 100)
    assert server.end(signal.SIGINT) == 0


@only_sqlite
def test_its_own_launcher_ends_with_it(server: Server) -> None:
    server.environment["VIRTPLAY_LAUNCHER"] = "on"
    for number in (signal.SIGKILL, signal.SIGTERM):
        server.start()
        wait_for(lambda: list((server.folder / "state/launcher").glob("*/socket")))
        data = server.post("/vms", BODY)
        assert server.finish(data["jobId"])["status"] == "succeeded"
        metrics = httpx.get(f"{server.address}/metrics", headers=server.client.headers).text
        assert 'virtplay_launcher_fallbacks_total{program="ansible-playbook"} 0' in metrics
        server.end(number)
        wait_for(lambda: not processes_of(server.mark))
    assert not (server.folder / "state/launcher").exists()


def open_files(pid: int) -> dict[int, str]:
    """Descriptor → file, socket or pipe of that process."""
    found = {}
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found[int(entry.name)] = str(entry.readlink())
    return found


STOPPED_IN_ITS_START = """
import asyncio, os, signal
from virtplay import app

create_app = app.create_app

def create(settings):
    async def stop(*_):
        os.kill(os.getpid(), signal.SIGTERM)
        if seconds := float(os.environ["PAUSE"]):
            await asyncio.sleep(seconds)

    made = create_app(settings)
    # As soon as Sanic has its own handlers of signals, and before ours are there.
    made.register_listener(stop, "after_server_start", priority=1)
    return made

app.create_app = create
from virtplay.cli.server import serve
serve()
"""


@only_sqlite
@pytest.mark.parametrize("pause", ["0.2", "0"], ids=["seen before", "seen after ours are there"])
def test_sigterm_in_the_middle_of_its_start_ends_it(server: Server, pause: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", STOPPED_IN_ITS_START],
        env=server.environment | {"PAUSE": pause},
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert processes_of(server.mark) == {}


@only_sqlite
@pytest.mark.usefixtures("cold_ansible")
def test_no_process_of_a_job_holds_a_descriptor_of_the_service(server: Server) -> None:
    reader, left = os.pipe()
    with os.fdopen(reader), os.fdopen(left):
        server.start(pass_fds=[left])
        assert server.process is not None
        service = server.process.pid
        gate = server.host.hold("create")
        data = server.post("/vms", BODY)
        wait_for(lambda: server.host.calls("create"))
        of_service = {file for number, file in open_files(service).items() if number > 2}
        of_service.discard("/dev/null")
        # Newer versions of libffi keep their own file open, in each process anew.
        of_service = {file for file in of_service if not file.startswith(("/usr/", "anon_inode:"))}
        assert any(file.startswith("socket:") for file in of_service), "it listens"
        assert f"pipe:[{os.fstat(left).st_ino}]" in of_service, "it was started with it"
        plays = {
            pid: words
            for pid, words in processes_of(server.mark).items()
            if pid != service and "virtplay.jobs.play" in words
        }
        assert any("/jobs/" in words for words in plays.values()), plays
        assert any("/observation/" in words for words in plays.values()), plays
        for pid, words in plays.items():
            # Standard input is the pipe by which a fork learns that the service has died.
            held = {file for number, file in open_files(pid).items() if number != 0}
            assert not of_service & held, words
        for pid in plays:
            os.kill(pid, signal.SIGSTOP)
        server.end(signal.SIGKILL)
    assert plays.keys() <= processes_of(server.mark).keys(), "the plays are still there"
    gate.unlink()
    server.start()
    assert server.finish(data["jobId"])["status"] == "succeeded"
    wait_for(lambda: not plays.keys() & processes_of(server.mark).keys())


@only_sqlite
def test_tokens_by_the_command_line_while_it_serves(server: Server) -> None:
    server.start()
    made = server.command("token", "create", "ci", "--role", "viewer")
    text = made.stdout.strip()
    assert made.returncode == 0
    headers = {"Authorization": f"Bearer {text}"}
    assert server.client.get("/vms", headers=headers).status_code == 200
    assert server.client.post("/vms", json=BODY, headers=headers).status_code == 403
    listed = server.command("token", "list").stdout
    assert "ci" in listed
    assert "bootstrap" in listed
    assert text not in listed
    assert server.command("token", "revoke", "ci").returncode == 0
    assert server.client.get("/vms", headers=headers).status_code == 401
    again = server.command("token", "create", "ci")
    assert (again.returncode, again.stdout) == (1, "")
    assert again.stderr.startswith("virtplay: cannot create token ci")
    assert server.command("token", "revoke", "nobody").returncode == 1
    for days in ("0", "-1", "nan"):
        odd = server.command("token", "create", f"odd{days}", "--expires-days", days)
        assert odd.returncode != 0, "it would never expire, or never be valid"
        assert "Traceback" not in odd.stderr
    assert server.command("db", "upgrade").returncode == 0
    assert ADMIN not in server.log()
    assert text not in server.log()


@only_sqlite
def test_what_keeps_it_from_starting_is_one_line(server: Server) -> None:
    for key, value, words in (
        ("VIRTPLAY_PORT", "0", "VIRTPLAY_PORT"),
        ("VIRTPLAY_LOG_LEVEL", "LOUD", "VIRTPLAY_LOG_LEVEL"),
        ("VIRTPLAY_INVENTORY", "/nowhere.yml", "nowhere.yml"),
        ("VIRTPLAY_STATE_DIR", "/proc/x", "cannot use the state directory /proc/x: No such file"),
        ("VIRTPLAY_BOOTSTRAP_TOKEN", "short", "VIRTPLAY_BOOTSTRAP_TOKEN"),
        ("VIRTPLAY_DATABASE_URL", "oracle://x", "oracle"),
        ("VIRTPLAY_DATABASE_URL", "postgres://u:hidden-word@127.0.0.1:1/x", "127.0.0.1:1/x"),
    ):
        server.environment, kept = {**server.environment, key: value}, server.environment
        tried = server.command("serve")
        server.environment = kept
        assert tried.returncode == 1, (key, value, tried.stderr)
        assert "virtplay: cannot " in tried.stderr, tried.stderr
        assert words in tried.stderr
        assert "Traceback" not in tried.stderr
        assert "hidden-word" not in tried.stderr


def write_certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate for the name `virt` and its key; no alternative names."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "virt")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "cert.pem").write_bytes(certificate.public_bytes(pem))
    (folder / "key.pem").write_bytes(key.private_bytes(pem, *private))
    return folder / "cert.pem", folder / "key.pem"


@only_sqlite
def test_the_first_observation_waits_for_a_libvirt_that_has_just_started(server: Server) -> None:
    server.host.order("observe", probed=str(server.folder / "probed"))
    server.start()
    [host] = server.get("/hosts")["hosts"]
    assert (host["status"], host["message"]) == ("ready", "")
    assert server.get("/jobs?action=host_observe")["jobs"] == []
    assert server.post("/vms", BODY)["status"] == "creating"
    log = server.log()
    assert "host kvm1: libvirt did not respond within 5.0 s; waiting for libvirt" in log
    assert "WARNING" not in log
    assert "DeprecationWarning" not in log
    assert "ERROR" not in log
    # A host that stays silent is an error as before, once it has been waited for.
    server.host.order("observe", fail={"msg": "libvirt is gone"})
    wait_for(lambda: server.get("/hosts/kvm1")["status"] == "error")


@only_sqlite
def test_any_certificate_with_its_key_is_served(server: Server) -> None:
    certificate, key = write_certificate(server.folder)
    server.environment["VIRTPLAY_TLS_CERTIFICATE"] = str(certificate)
    server.environment["VIRTPLAY_TLS_KEY"] = str(certificate)
    tried = server.command("serve")
    assert tried.returncode == 1
    assert f"cannot use the certificate {certificate} with the key {certificate}" in tried.stderr
    assert "Traceback" not in tried.stderr
    server.environment["VIRTPLAY_TLS_KEY"] = str(key)
    server.address = f"https://127.0.0.1:{server.port}"
    server.start()
    # Printed after /readyz has answered.
    wait_for(lambda: f"Virtplay is ready at {server.address}" in server.log())


@only_sqlite
def test_a_port_in_use_is_one_line_and_costs_no_token(server: Server) -> None:
    del server.environment["VIRTPLAY_BOOTSTRAP_TOKEN"]
    with socket.create_server(("127.0.0.1", server.port)):
        tried = server.command("serve")
    assert tried.returncode == 1
    assert f"virtplay: cannot listen on 127.0.0.1:{server.port}: " in tried.stderr
    assert "Traceback" not in tried.stderr
    server.start()
    assert server.log().count("first admin token") == 1


@only_sqlite
@pytest.mark.parametrize("empty", [False, True])
def test_the_first_start_writes_an_admin_token_to_a_file(
    server: Server, monkeypatch: pytest.MonkeyPatch, empty: bool
) -> None:
    if empty:
        server.environment["VIRTPLAY_BOOTSTRAP_TOKEN"] = ""
    else:
        del server.environment["VIRTPLAY_BOOTSTRAP_TOKEN"]
    server.start()
    file = server.folder / "state/token"
    assert f"The first admin token is in {file}\n" in server.log()
    assert file.stat().st_mode & 0o777 == 0o600
    text = file.read_text().strip()
    headers = {"Authorization": f"Bearer {text}"}
    assert server.client.get("/vms", headers=headers).status_code == 200
    server.end(signal.SIGTERM)
    server.start()
    assert server.log().count("first admin token") == 1
    assert server.client.get("/vms", headers=headers).status_code == 200
    assert text not in server.log()
    # The plan is that of this state directory, whatever service the machine has.
    monkeypatch.setattr(unit, "FILE", server.folder / "unit")
    made = Settings(state_dir=server.folder / "state")
    assert {*made.state_dir.iterdir()} <= {*plan(made, purge=True).paths}
    for path in (server.folder / "state").rglob("*"):
        assert path == file or not path.is_file() or text.encode() not in path.read_bytes()


@only_sqlite
async def test_a_token_file_is_named_when_its_token_is_valid(
    database: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise DatabaseAway("disk full")

    settings = Settings(state_dir=tmp_path)
    with monkeypatch.context() as failing:
        failing.setattr(app, "create_token", refuse)
        with pytest.raises(DatabaseAway):
            await app._create_first_token(settings)
    assert capsys.readouterr().out == ""
    await app._create_first_token(settings)
    assert capsys.readouterr().out == f"The first admin token is in {tmp_path}/token\n"


@only_sqlite
def test_a_new_database_keeps_the_first_admin_token(server: Server) -> None:
    del server.environment["VIRTPLAY_BOOTSTRAP_TOKEN"]
    file = server.folder / "state/token"
    file.write_text(f"{ADMIN}\n")
    file.chmod(0o644)
    server.start()
    assert server.get("/vms")["vms"] == []
    assert file.stat().st_mode & 0o777 == 0o600


@only_sqlite
def test_a_slow_client_does_not_keep_it_from_ending(server: Server) -> None:
    server.start()
    with socket.create_connection(("127.0.0.1", server.port)) as slow:
        slow.sendall(b"POST /api/v1/vms HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(50)]
        assert server.get("/vms")["vms"] == []
        assert server.end(signal.SIGTERM) == 0
        for each in idle:
            each.close()


@only_sqlite
def test_a_second_service_on_the_state_directory_is_refused(server: Server) -> None:
    server.start()
    second = subprocess.run(
        [VIRTPLAY, "serve", "--port", str(free_port())],
        env=server.environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert second.returncode == 1
    assert second.stderr.splitlines()[-1] == (
        "virtplay: cannot start: another virtplay serve uses the state directory"
        f" {server.folder / 'state'}"
    )
    assert server.get("/vms")["vms"] == []


@only_sqlite
def test_sighup_reads_the_inventory_anew(server: Server) -> None:
    server.start()
    assert server.process is not None
    inventory = server.folder / "hosts.yml"
    before = inventory.read_text()
    inventory.write_text("hypervisors: [")
    server.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "cannot reload the inventory" in server.log())
    assert [host["name"] for host in server.get("/hosts")["hosts"]] == ["kvm1"]
    write_inventory(inventory, {"kvm1": server.host, "kvm2": server.host})
    server.process.send_signal(signal.SIGHUP)
    wait_for(lambda: len(server.get("/hosts")["hosts"]) == 2)
    inventory.write_text(before)


def ignores_hangup(pid: int) -> bool:
    """Whether SIGHUP is ignored by that process."""
    status = Path(f"/proc/{pid}/status").read_text()
    mask = next(line for line in status.splitlines() if line.startswith("SigIgn:"))
    return bool(int(mask.split()[1], 16) >> (signal.SIGHUP - 1) & 1)


@only_sqlite
def test_a_sighup_before_it_is_ready_does_not_end_it(server: Server) -> None:
    with (server.folder / "serve.log").open("ab") as log:
        server.process = subprocess.Popen(
            [VIRTPLAY, "serve"], env=server.environment, stdout=log, stderr=log
        )
    pid = server.process.pid
    wait_for(lambda: ignores_hangup(pid) or server.is_ready())
    assert ignores_hangup(pid), "it was ready and had never ignored it"

    def ready_under_fire() -> bool:
        os.kill(pid, signal.SIGHUP)
        return server.is_ready()

    wait_for(ready_under_fire)
    assert server.end(signal.SIGTERM) == 0


@only_sqlite
@pytest.mark.parametrize("first", ["db upgrade", "serve"])
def test_what_it_writes_is_private_in_any_directory(server: Server, first: str) -> None:
    state = server.folder / "shared"
    state.mkdir()
    state.chmod(0o755)
    server.mark = f"VIRTPLAY_STATE_DIR={state}"
    server.environment["VIRTPLAY_STATE_DIR"] = str(state)
    del server.environment["VIRTPLAY_DATABASE_URL"]
    if first != "serve":
        assert server.command(*first.split()).returncode == 0
        assert (state / "virtplay.sqlite3").stat().st_mode & 0o777 == 0o600
        # As an earlier version left it.
        (state / "virtplay.sqlite3").chmod(0o644)
    server.start()
    assert server.finish(server.post("/vms", BODY)["jobId"])["status"] == "succeeded"
    found = {path.name: (path.is_dir(), path.stat().st_mode & 0o777) for path in state.iterdir()}
    assert {"jobs", "virtplay.sqlite3"} <= found.keys()
    assert all(mode == (0o700 if folder else 0o600) for folder, mode in found.values()), found
    assert state.stat().st_mode & 0o777 == 0o755, "it is the user's"


@only_sqlite
def test_at_a_terminal_it_says_nothing_of_sanic(server: Server) -> None:
    reader, terminal = os.openpty()
    server.process = subprocess.Popen(
        [VIRTPLAY, "serve"], env=server.environment, stdout=terminal, stderr=terminal
    )
    os.close(terminal)
    shown = b""
    while b"Virtplay is ready" not in shown:
        shown += os.read(reader, 4096)
    assert b"PRODUCTION" not in shown
    assert b"\x1b" not in shown
    # At once, while the last of the start still runs: it must not be lost.
    server.end(signal.SIGTERM)
    os.close(reader)
