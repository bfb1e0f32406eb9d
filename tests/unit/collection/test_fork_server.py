"""Tests of the fork server of a host, with real processes: what runs in a fork is as elsewhere."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.unit.collection.test_bytecode import COLLECTIONS, PACKAGE, RUNTIME, pack, send, sent_by

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root uses it, as on hosts")
ROOT = COLLECTIONS.parent
CLIENT = """
import sys
client = {}
exec(%(client)r, client)
client["run"](%(program)r, %(bytecode)r, %(server)r, %(directory)r)
"""
READ = "import sys; exec(sys.stdin.buffer.read())"
# What Ansible sends imports from its zip; a module without libvirt leaves no server.
PROGRAM = """
import os, sys, types
sys.modules["libvirt"] = sys.modules["lxml.etree"] = types.ModuleType("libvirt")
sys.path.insert(0, %r)
from ansible_collections.virtplay.libvirt.plugins.module_utils import room, simple
from ansible_collections.virtplay.libvirt.plugins.module_utils.room import inner
"""


@dataclass
class Ran:
    """The end of a program."""

    status: int
    stdout: str
    stderr: str


class Machine:
    """A directory of servers, and programs that use them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "parent").mkdir(mode=0o755)
        self.directory = path / "parent/modules"
        self.sources = {name: RUNTIME[name].read_text() for name in RUNTIME}
        self.archive = pack(path / "one.zip", 1)

    def text(self, code: str) -> str:
        """What Ansible would send for a program."""
        return CLIENT % {
            "program": PROGRAM % str(self.archive) + code,
            "client": self.sources["fork_client"],
            "bytecode": self.sources["bytecode"],
            "server": self.sources["fork_server"],
            "directory": str(self.directory),
        }

    def start(self, code: str, **options: Any) -> subprocess.Popen[str]:
        """Start a program as Ansible does."""
        arguments = options.pop("arguments", [])
        process = subprocess.Popen(
            [sys.executable, "-c", READ, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )
        assert process.stdin
        process.stdin.write(self.text(code))
        process.stdin.close()
        process.stdin = None
        return process

    def run(self, code: str = "", **options: Any) -> Ran:
        """Run a program to its end."""
        process = self.start(code, **options)
        stdout, stderr = process.communicate(timeout=60)
        return Ran(process.returncode, stdout, stderr)

    def servers(self) -> list[psutil.Process]:
        """The servers whose sockets are in the directory."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.cmdline()[-1:] == ["virtplay-fork-server"] and any(
                    str(each.laddr).startswith(str(self.directory))
                    for each in process.net_connections("unix")
                ):
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.ZombieProcess):
                continue
        return found

    def locked(self) -> list[psutil.Process]:
        """The processes that have a lock in the directory, as a server that still starts."""
        return [
            process
            for process in psutil.process_iter(["open_files"])
            if any(
                each.path.startswith(str(self.directory))
                for each in process.info["open_files"] or ()
            )
        ]

    def wait_for_server(self, count: int = 1) -> list[psutil.Process]:
        """Return the servers as soon as there are that many."""
        until(lambda: len(self.servers()) == count)
        return self.servers()


def until(look: Callable[[], Any]) -> Any:
    """Return what look returns as soon as that is true."""
    deadline = time.monotonic() + 60
    while not (found := look()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def has_ended(pid: int) -> bool:
    """Whether there is no such process any more, or only its zombie."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """A machine without a server; its servers end with the test."""
    found = Machine(tmp_path)
    yield found
    # A server that is about to start cannot without the directory.
    servers = [*found.servers(), *found.locked()]
    shutil.rmtree(found.directory.parent, ignore_errors=True)
    for process in servers:
        process.kill()


@pytest.fixture
def served(machine: Machine) -> Machine:
    """A machine whose first task has left a server."""
    assert machine.run().status == 0
    machine.wait_for_server()
    return machine


PARENT = "print(os.getppid(), simple.ANSWER, inner.outer(), flush=True)\n"


def test_the_first_task_leaves_a_server_and_the_others_are_forks_of_it(machine: Machine) -> None:
    first = machine.run(PARENT)
    assert first == Ran(0, f"{os.getpid()} 1 2\n", "")
    [server] = machine.wait_for_server()
    second, third = machine.run(PARENT), machine.run(PARENT)
    assert second == third == Ran(0, f"{server.pid} 1 2\n", "")
    assert [each.pid for each in machine.servers()] == [server.pid]
    assert server.name() == "virtplay-fork"


def test_a_server_has_nothing_of_the_first_task(machine: Machine) -> None:
    with (machine.path / "lock").open("w") as file:
        machine.run(
            env=os.environ | {"SECRET": "no", "TZ": "Asia/Tokyo"},
            cwd=machine.path,
            pass_fds=[file.fileno()],
        )
    [server] = machine.wait_for_server()
    assert "SECRET" not in server.environ()
    assert server.environ()["TZ"] == "Asia/Tokyo"
    assert server.cwd() == "/"
    assert os.getsid(server.pid) == server.pid
    assert [each.path for each in server.open_files()] == [
        str(next(machine.directory.glob("*.lock")))
    ]
    descriptors = {str(each.readlink()) for each in Path(f"/proc/{server.pid}/fd").iterdir()}
    assert {each.partition(":")[0] for each in descriptors if not each.startswith("/")} == {
        "pipe",
        "socket",
    }


STATE = """
import json, signal, tempfile, time
umask = os.umask(0); os.umask(umask)
print(json.dumps({
    "environ": dict(os.environ), "directory": os.getcwd(), "umask": umask, "argv": sys.argv,
    "session": os.getsid(0) == os.getpid(), "timezone": time.tzname, "input": sys.stdin.read(),
    "temporary": tempfile.gettempdir(), "main": __name__, "modules": "__main__" in sys.modules,
    "child": repr(signal.getsignal(signal.SIGCHLD)), "wakeup": signal.set_wakeup_fd(-1),
    "open": sorted(os.listdir("/proc/self/fd"), key=int),
}))
"""


def test_a_fork_takes_over_what_its_client_has(served: Machine) -> None:
    def states(**options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        elsewhere = Machine.__new__(Machine)
        elsewhere.__dict__ |= served.__dict__ | {"directory": served.path / "unsafe/modules"}
        elsewhere.directory.parent.mkdir(exist_ok=True)
        elsewhere.directory.parent.chmod(0o777)  # no server there
        alone, forked = (
            json.loads(each.run(STATE, **options).stdout) for each in (elsewhere, served)
        )
        return alone, forked

    options = {
        "env": os.environ | {"SSH_CONNECTION": "192.0.2.1 1 192.0.2.2 22"},
        "cwd": served.path,
        "umask": 0o027,
    }
    alone, forked = states(**options)
    assert forked.pop("session")
    alone.pop("session")
    # The connection to its client
    assert len(forked.pop("open")) == len(alone.pop("open")) + 1
    assert forked == alone
    assert forked["environ"]["SSH_CONNECTION"]
    assert forked["directory"] == str(served.path)
    assert forked["umask"] == 0o027


THREAD = """
import threading, time
threading.Thread(target=lambda: [time.sleep(0.1), print("late")]).start()
"""
FAIL = """
import traceback
try:
    simple.fail()
except ValueError:
    traceback.print_exc()
"""


@pytest.mark.parametrize(
    ("code", "status", "stdout", "stderr"),
    [
        ("sys.exit(3)", 3, "", ""),
        ("sys.exit()", 0, "", ""),
        ("sys.exit('no')", 1, "", "no\n"),
        ("os._exit(7)", 7, "", ""),
        ("print('out'); print('err', file=sys.stderr)", 0, "out\n", "err\n"),
        ("import atexit; atexit.register(print, 'last'); print('first')", 0, "first\nlast\n", ""),
        ("raise ValueError('on purpose')", 1, "", "ValueError: on purpose\n"),
        # The source of a preloaded file is found.
        (FAIL, 0, "", "    raise ValueError('on purpose')\n"),
        ("os.kill(os.getpid(), 9)", 137, "", ""),
        (THREAD, 0, "late\n", ""),
        pytest.param("os.write(1, b'x' * 300000)", 0, "x" * 300000, "", id="long"),
    ],
)
def test_a_program_ends_as_it_would_alone(
    served: Machine, code: str, status: int, stdout: str, stderr: str
) -> None:
    ran = served.run(code)
    assert (ran.status, ran.stdout) == (status, stdout)
    assert stderr in ran.stderr
    assert bool(stderr) == bool(ran.stderr)


LONG = "print(os.getpid(), flush=True)\nimport signal\nsignal.pause()\n"


WITH_CHILDREN = """
import signal, subprocess
signal.signal(signal.SIGTERM, signal.SIG_IGN)
silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
child = subprocess.Popen(["sleep", "600"], **silent)
other = subprocess.Popen(["sleep", "600"], **silent, start_new_session=True)
print(os.getpid(), child.pid, other.pid, flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_a_program_ends_with_its_client(served: Machine, number: signal.Signals) -> None:
    process = served.start(f"{WITH_CHILDREN}signal.pause()\n")
    assert process.stdout
    program, child, other = map(int, process.stdout.readline().split())
    process.send_signal(number)
    until(lambda: has_ended(program) and has_ended(child))
    process.communicate()
    # What has a session of its own goes on, as it would elsewhere.
    assert not has_ended(other)
    os.kill(other, signal.SIGKILL)
    assert len(served.servers()) == 1


@pytest.mark.parametrize("end", ["sys.exit(4)", "os.kill(os.getpid(), 9)"])
def test_what_a_program_leaves_behind_outlives_its_client(served: Machine, end: str) -> None:
    ran = served.run(f"{WITH_CHILDREN}{end}\n")
    assert ran.status in {4, 137}
    _program, child, other = map(int, ran.stdout.split())
    assert not has_ended(child)
    for pid in (child, other):
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_closed_standard_stream_changes_nothing(served: Machine, number: int) -> None:
    code = "os.open('/dev/null', os.O_RDWR); open('done', 'w').write(str(os.getppid()))\n"
    text = served.text(code)
    (served.path / "program.py").write_text(text)
    shell = f"exec {sys.executable} -c 'exec(open(\"program.py\").read())' {number}>&-"
    subprocess.run(["sh", "-c", shell], cwd=served.path, check=True)
    assert (served.path / "done").read_text() == str(os.getpid())


def test_a_variable_that_is_not_utf_8_changes_nothing(served: Machine) -> None:
    options = {"env": os.environb | {b"LC_NAME": b"\xff"}}
    assert served.run(PARENT, **options) == Ran(0, f"{os.getpid()} 1 2\n", "")
    both = {each.pid for each in served.wait_for_server(2)}
    assert int(served.run(PARENT, **options).stdout.split()[0]) in both


def test_the_umask_changes_nothing(machine: Machine) -> None:
    machine.directory.parent.rmdir()
    machine.run(umask=0o002)
    assert oct(machine.directory.parent.stat().st_mode & 0o777) == "0o755"
    assert oct(machine.directory.stat().st_mode & 0o777) == "0o700"
    machine.wait_for_server()
    machine.run(umask=0)
    assert machine.run(PARENT, umask=0o077).stdout != f"{os.getpid()} 1 2\n"


@pytest.mark.skipif(
    subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode > 0,
    reason="this machine's root may not mount",
)
def test_a_changed_root_directory_has_another_server(served: Machine, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(served.text(f"{SAY}{PARENT}"))
    mounts = [*("/usr", "/lib", "/lib64", "/bin", "/proc", "/tmp", str(Path(sys.prefix)))]
    mounts += [str(Path(sys.base_prefix)), str(ROOT)]
    root = tmp_path / "root"
    root.mkdir()
    script = "".join(
        f"if [ -d {path} ]; then mkdir -p {root}{path}; mount --rbind {path} {root}{path}; fi\n"
        for path in dict.fromkeys(mounts)
    )
    script += f"exec chroot {root} {sys.executable} {tmp_path}/program.py\n"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{os.getpid()} 1 2\n"
    assert "a server is left" in done.stderr


def test_a_server_with_an_old_library_takes_no_more_tasks(machine: Machine) -> None:
    library = machine.path / "old.so"
    library.write_bytes(b"\0" * 4096)
    server = machine.sources["fork_server"]
    machine.sources["fork_server"] = server.replace("_LOOK_SECONDS = 10.0", "_LOOK_SECONDS = 0.1")
    # It maps the library as an import does.
    load = f"import mmap\nlibrary = mmap.mmap(os.open({str(library)!r}, os.O_RDONLY), 0, prot=1)\n"
    machine.sources["bytecode"] += f"\nimport os\n{load}"
    machine.run()
    [process] = machine.wait_for_server()
    assert machine.run(PARENT).stdout == f"{process.pid} 1 2\n"
    library.unlink()
    until(lambda: has_ended(process.pid))


def test_a_login_is_known_in_a_fork(served: Machine) -> None:
    login = os.environ | {"SSH_CONNECTION": "192.0.2.1 50000 192.0.2.2 22"}
    code = f"""
sys.path[:] = [{str(COLLECTIONS)!r}, *(each for each in sys.path if not each.endswith(".zip"))]
sys.meta_path[:] = [each for each in sys.meta_path if type(each).__name__ != "Finder"]
for name in [each for each in sys.modules if each.startswith("ansible_collections")]:
    del sys.modules[name]
from ansible_collections.virtplay.libvirt.plugins.module_utils.lock import file_lock
print(file_lock._login_address(), os.getppid())
"""
    [server] = served.servers()
    assert served.run(code, env=login) == Ran(0, f"192.0.2.1 {server.pid}\n", "")


def test_a_program_goes_on_without_its_server(served: Machine) -> None:
    code = "print(os.getppid(), flush=True)\nwhile not os.path.exists('go'): pass\nsys.exit(5)\n"
    process = served.start(code, cwd=served.path)
    [server] = served.servers()
    assert process.stdout
    assert int(process.stdout.readline()) == server.pid
    server.kill()
    server.wait()
    (served.path / "go").touch()
    process.communicate(timeout=60)
    assert process.returncode == 5
    # The next task finds no server, and leaves another.
    assert served.run(PARENT).stdout.startswith(f"{os.getpid()} ")
    served.wait_for_server()


def test_an_end_that_nobody_knows_is_an_error(served: Machine) -> None:
    process = served.start(LONG)
    [server] = served.servers()
    assert process.stdout
    pid = int(process.stdout.readline())
    server.suspend()
    os.kill(pid, signal.SIGKILL)
    server.kill()
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert stderr.startswith("cannot tell how the module ended")


def test_programs_run_side_by_side(served: Machine) -> None:
    both = [served.start(LONG) for _ in range(2)]
    pids = [int(each.stdout.readline()) for each in both if each.stdout]
    assert {psutil.Process(pid).ppid() for pid in pids} == {served.servers()[0].pid}
    for each in both:
        each.kill()
        each.communicate()


@pytest.mark.parametrize(
    "options",
    [
        {"env": os.environ | {"PATH": "/usr/bin"}},
        {"env": os.environ | {"LD_BIND_NOW": "1"}},
        {"preexec_fn": lambda: os.nice(1)},
        {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0))},
        {"preexec_fn": lambda: signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])},
        {"extra_groups": [1]},
    ],
)
def test_what_a_fork_cannot_take_over_has_another_server(
    served: Machine, options: dict[str, Any]
) -> None:
    assert served.run(PARENT, **options).stdout.startswith(f"{os.getpid()} ")
    both = {each.pid for each in served.wait_for_server(2)}
    ran = [int(served.run(PARENT, **each).stdout.split()[0]) for each in (options, {})]
    assert set(ran) == both


def test_a_fork_uses_only_files_that_are_the_same(served: Machine) -> None:
    served.archive = pack(served.path / "other.zip", 5)
    [server] = served.servers()
    assert served.run(PARENT).stdout == f"{server.pid} 5 6\n"
    path = f"print(simple.__file__, {PACKAGE!r} in room.__path__[0])"
    assert served.run(path).stdout == f"{served.archive}/{PACKAGE}/simple.py True\n"


def test_a_new_version_of_the_collection_has_another_server(served: Machine) -> None:
    served.sources["fork_server"] += "\n# another version\n"
    assert served.run(PARENT).stdout.startswith(f"{os.getpid()} ")
    assert len(served.wait_for_server(2)) == 2


def test_a_suspended_server_delays_no_task(served: Machine) -> None:
    [server] = served.servers()
    server.suspend()
    assert served.run(PARENT) == Ran(0, f"{os.getpid()} 1 2\n", "")
    server.resume()
    assert served.run(PARENT).stdout.startswith(f"{server.pid} ")


def test_a_person_who_looks_at_what_was_sent_has_a_process_of_their_own(served: Machine) -> None:
    ran = served.run("print(sys.argv[1:], os.getppid())", arguments=["explode"])
    assert ran.stdout == f"['explode'] {os.getpid()}\n"


SAY = """
import subprocess
subprocess.Popen = lambda *_, **__: sys.exit("a server is left")
"""
"""Instead of a server, the program leaves a line on its standard error."""


@pytest.mark.parametrize(
    "code",
    [
        'del sys.modules["libvirt"]',
        'del sys.modules["lxml.etree"]',
        # What the server would inherit is not what its name says.
        "import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0))",
        "os.nice(1)",
        'os.environ["LC_NAME"] = "C"',
    ],
)
def test_no_server_is_left_by_what_has_changed_its_process(machine: Machine, code: str) -> None:
    assert "a server is left" in machine.run(SAY).stderr
    assert machine.run(f"{SAY}{code}") == Ran(0, "", "")


def test_a_handler_of_a_signal_changes_nothing_that_a_server_inherits(machine: Machine) -> None:
    # As the C library sets one of its own while libvirt connects.
    code = "import signal; signal.signal(signal.SIGUSR1, lambda *_: None)"
    assert "a server is left" in machine.run(f"{SAY}{code}").stderr


def test_the_number_of_servers_is_bounded(machine: Machine) -> None:
    for number in range(8):
        machine.run(env=os.environ | {"LC_NAME": f"C.{number}"})
    servers = machine.wait_for_server(8)
    assert machine.run(SAY) == Ran(0, "", "")
    # One that was killed has left its socket.
    servers[0].kill()
    servers[0].wait()
    assert "a server is left" in machine.run(SAY).stderr
    assert len([each for each in machine.directory.iterdir() if each.is_socket()]) == 7


def test_none_is_asked_or_left_where_none_is_wanted(served: Machine) -> None:
    [server] = served.servers()
    wanted = served.sources["fork_server"]
    served.sources["fork_server"] = None  # type: ignore[assignment]
    for options in ({}, {"env": os.environ | {"PATH": "/usr/bin"}}):
        assert served.run(SAY + PARENT, **options) == Ran(0, f"{os.getpid()} 1 2\n", "")
    served.sources["fork_server"] = wanted
    assert served.run(PARENT).stdout.startswith(f"{server.pid} ")


@pytest.mark.parametrize("which", ["itself", "its parent"])
@pytest.mark.parametrize("mode", [0o702, 0o720])
def test_a_directory_that_others_may_write_to_is_not_used(
    served: Machine, which: str, mode: int
) -> None:
    (served.directory if which == "itself" else served.directory.parent).chmod(mode)
    before = sorted(path.name for path in served.directory.rglob("*"))
    served.archive = pack(served.path / "other.zip", 2)
    assert served.run(PARENT).stdout == f"{os.getpid()} 2 3\n"
    assert sorted(path.name for path in served.directory.rglob("*")) == before


def test_a_directory_that_cannot_be_created_changes_nothing(machine: Machine) -> None:
    machine.directory.parent.rmdir()
    machine.directory.parent.touch()
    assert machine.run(PARENT) == Ran(0, f"{os.getpid()} 1 2\n", "")


def test_a_server_ends_when_its_socket_has_gone_and_its_last_task_has_ended(
    machine: Machine,
) -> None:
    server = machine.sources["fork_server"]
    machine.sources["fork_server"] = server.replace("_LOOK_SECONDS = 10.0", "_LOOK_SECONDS = 0.1")
    machine.run()
    [process] = machine.wait_for_server()
    running = machine.start(LONG)
    assert running.stdout
    pid = int(running.stdout.readline())
    [path] = [each for each in machine.directory.iterdir() if each.is_socket()]
    path.unlink()
    # Another one can serve before this one has ended.
    until(lambda: machine.run().status or set(machine.servers()) - {process})
    assert process.is_running()
    os.kill(pid, signal.SIGTERM)
    running.communicate(timeout=60)
    assert running.returncode == 128 + signal.SIGTERM
    until(lambda: has_ended(process.pid))


def test_a_server_ends_after_its_time_and_another_follows(machine: Machine) -> None:
    server = machine.sources["fork_server"]
    machine.sources["fork_server"] = server.replace("SECONDS = 600.0", "SECONDS = 0.5")
    machine.run()
    [process] = machine.wait_for_server()
    until(lambda: has_ended(process.pid))
    assert not [each for each in machine.directory.iterdir() if each.is_socket()]
    assert machine.run(PARENT).stdout == f"{os.getpid()} 1 2\n"
    machine.wait_for_server()


def test_what_ansible_sends_is_served_unless_a_variable_says_no(tmp_path: Path) -> None:
    for value, expected in (("true", True), ("false", False)):
        (tmp_path / value).mkdir()
        arguments = ("power", "domains=web-1", f"libvirt_fork_server={value}")
        assert ("_LOOK_SECONDS" in send(tmp_path / value, *arguments).read_text()) is expected


DELEGATED = """
- hosts: host
  gather_facts: false
  tasks:
    - add_host:
        name: other
        ansible_connection: local
        libvirt_fork_server: false
    - virtplay.libvirt.power:
        domains: web-1
      delegate_to: other
"""


def test_the_variable_is_that_of_the_host_on_which_a_task_runs(tmp_path: Path) -> None:
    (tmp_path / "play.yml").write_text(DELEGATED)
    sent = sent_by(tmp_path, "power", "ansible-playbook", "play.yml")
    assert "_LOOK_SECONDS" not in sent.read_text()


def test_a_traceback_has_no_arguments(tmp_path: Path) -> None:
    sent = send(tmp_path, "power", "domains=web-1 uri=SECRET")
    done = subprocess.run(
        # No file can be written.
        ["sh", "-c", f"ulimit -f 0; exec {sys.executable} {sent} 2>&1 | cat"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" in done.stdout
    assert "SECRET" in sent.read_text()
    assert "SECRET" not in done.stdout


def test_nothing_is_imported_from_the_directory_of_a_task(tmp_path: Path) -> None:
    sent = send(tmp_path, "power", "domains=web-1").read_text()
    sent = sent.replace("/run/virtplay/modules", str(tmp_path / "modules"))
    here = tmp_path / "here"
    here.mkdir()
    for name in ("atexit", "base64", "contextlib", "marshal", "socket", "typing", "zlib"):
        (here / f"{name}.py").write_text("raise SystemExit('taken from here')\n")
    done = subprocess.run(
        [sys.executable, "-c", READ],
        cwd=here,
        input=sent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "dictionary requested, could not parse" in done.stdout
    assert done.stderr == ""
