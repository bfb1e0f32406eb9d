"""Lab tests: labs come up side by side, act as asked, and leave nothing however they end."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from lab import Host, Lab, LabError
from lab.directory import LabDirectory
from lab.processes import Process
from lab.slot import MAX_HOSTS, PREFIX, SLOTS, Slot

pytestmark = [
    pytest.mark.usefixtures("lab_machine"),
    # One after the other: a machine has addresses for eight labs, and each worker has one already.
    pytest.mark.xdist_group("test_lab"),
]

REPOSITORY = Path(__file__).resolve().parents[2]
DOMAIN = """<domain type='qemu'><name>bare</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='q35'>hvm</type></os></domain>"""


@pytest.fixture(scope="module")
def bare() -> Iterator[Lab]:
    with Lab(hosts=1, prepare=False) as running:
        yield running


@pytest.fixture
def place() -> Iterator[Path]:
    """Give a directory whose name is short enough for a lab's; tmp_path's grows with pytest."""
    with tempfile.TemporaryDirectory(prefix="test-lab-") as name:
        yield Path(name)


def traces(directory: Path) -> list[str]:
    """Return whatever is left on the machine of the lab in this directory."""
    found = [str(directory)] if directory.exists() else []
    links = subprocess.run(["ip", "-json", "link"], capture_output=True, check=True).stdout
    found += [link["ifname"] for link in json.loads(links) if str(directory) in str(link)]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            of_lab = str(directory) in (process / "mountinfo").read_text()
            of_lab |= str(directory).encode() in (process / "cmdline").read_bytes()
        except (OSError, ValueError):
            continue
        if of_lab and int(process.name) != os.getpid():
            found.append((process / "cmdline").read_text().replace("\0", " "))
    return found


def machine_state(labs: Sequence[Lab], networks: list[str]) -> dict[str, Counter[str]]:
    """Return what `labs` could leave on the machine, less what others may do on it just now.

    Links count when they have an address in one of `networks` and are not another lab's, which
    takes a network as soon as it is free; mounts when a lab host has a mount of its own there.
    """
    shown = subprocess.run(["ip", "-json", "-details", "address"], capture_output=True, check=True)
    links = [
        link["ifname"]
        for link in json.loads(shown.stdout)
        for address in link["addr_info"]
        if any(ip_address(address["local"]) in ip_network(network) for network in networks)
        and any(str(lab.directory) in link.get("ifalias", str(lab.directory)) for lab in labs)
    ]
    spaces = subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True)
    covered = {"/dev", "/dev/pts", "/dev/shm", "/etc", "/proc", "/root", "/run", "/sys", "/usr"}
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return {
        "links": Counter(links),
        "netns": Counter(spaces.stdout.splitlines()),
        "mounts": Counter(mount for mount in mounts if mount in covered | {"/var"}),
    }


def eventually_gone(directory: Path, seconds: float = 120) -> list[str]:
    """Wait until the lab's traces are gone; return what is left at the end."""
    deadline = time.monotonic() + seconds
    while (left := traces(directory)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


def said_by(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)


def start(
    *arguments: str, cwd: Path = REPOSITORY, through: Sequence[str] = ()
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*through, sys.executable, "-m", "lab", *arguments],
        cwd=cwd,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_each_slot_has_names_and_addresses_of_its_own() -> None:
    slots = [Slot(number) for number in range(SLOTS)]
    for one, other in itertools.combinations(slots, 2):
        assert not one.network.overlaps(other.network)
        assert not other.bridge.startswith(one.bridge)
    assert max(len(slot.veth(MAX_HOSTS)) for slot in slots) <= 15, "the kernel's limit"
    assert all(ip_address(slot.address(MAX_HOSTS)) in slot.network for slot in slots)


def test_two_labs_run_at_once_and_leave_nothing() -> None:
    before = machine_state([], [])
    with Lab(prepare=False) as one, Lab(prepare=False) as two:
        assert set(one.seconds) == {"hosts"}
        hosts = [*one.hosts, *two.hosts]
        assert len({host.address for host in hosts}) == 4
        for host in hosts:
            assert host.ssh("hostname").stdout.strip() == host.name
            capabilities = host.ssh("virsh -c qemu:///system capabilities").stdout
            assert f"<uuid>{host.uuid}</uuid>" in capabilities
            assert host.ssh("test -e /dev/kvm", check=False).returncode == 1
        assert len({host.uuid for host in hosts}) == 4
        assert traces(one.directory)
        firsts = (one.hosts[0].address, two.hosts[0].address)
        networks = [str(ip_network(f"{first}/{PREFIX}", strict=False)) for first in firsts]
        assert machine_state([one, two], networks)["links"].total() == 2
        inits = [host.init for host in hosts]
    assert [init for init in inits if init.alive()] == []
    assert traces(one.directory) == []
    assert traces(two.directory) == []
    assert machine_state([one, two], networks) == before


def test_inventory_reaches_hosts_by_ansible(bare: Lab) -> None:
    program = Path(sys.executable).with_name("ansible")
    done = said_by(program, "-i", bare.inventory, "hypervisors", "-m", "ping")
    assert done.stdout.count('"pong"') == 1, done.stdout + done.stderr


def test_libvirt_answers_from_the_machine(bare: Lab) -> None:
    uri = f"qemu+ssh://root@{bare.hosts[0].name}/system?command={bare.ssh_program}"
    done = said_by("virsh", "-c", uri, "hostname")
    assert done.stdout.strip() == "lab-1", done.stderr


def test_foreign_host_key_is_refused(bare: Lab, tmp_path: Path) -> None:
    other = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", other], check=True)
    known = tmp_path / "known_hosts"
    known.write_text(f"{bare.hosts[0].address} {other.with_suffix('.pub').read_text()}")
    option = f"UserKnownHostsFile={known}"
    done = said_by(bare.ssh_program, "-o", option, "lab-1", "true")
    assert done.returncode == 255
    assert "verification failed" in done.stderr


def test_host_cannot_write_to_the_machines_files(bare: Lab) -> None:
    host = bare.hosts[0]
    host.run("touch", "/etc/virtplay-mark", "/var/lib/virtplay-mark", "/root/virtplay-mark")
    for place in ("/etc", "/var/lib", "/root"):
        assert not (Path(place) / "virtplay-mark").exists()
    for place in ("/usr", "/usr/bin", "/var/lib/dpkg"):
        with pytest.raises(LabError, match="Read-only file system"):
            host.run("touch", f"{place}/virtplay-mark")


def test_hosts_see_the_project_wherever_it_lies(place: Path) -> None:
    # A host has a /root of its own, where root's clones are.
    with tempfile.TemporaryDirectory(prefix="a clone ", dir="/root") as clone:
        shutil.copytree(REPOSITORY / "lab", Path(clone, "lab"))
        arguments = ("up", "--bare", "--until-eof", "--hosts", "1", "--dir", str(place / "l"))
        with start(*arguments, cwd=Path(clone)) as process:
            assert process.stdout
            assert process.stdout.readline(), process.stderr and process.stderr.read()
            directory = LabDirectory(place / "l")
            record = directory.read_record()
            assert record
            host = Host(record.hosts[0], directory)
            program = Path(clone, "lab/host-init.sh")
            assert host.run("cat", str(program)).stdout == program.read_text()
            with pytest.raises(LabError, match="Read-only file system"):
                host.run("touch", str(program))
            process.terminate()
        assert process.returncode == 0
        assert program.exists()


def test_hosts_start_on_a_machine_with_huge_pages(place: Path) -> None:
    """As systemd mounts them, below /dev, of which the hosts have their own."""
    mount = 'mount -t hugetlbfs none /dev/shm; exec "$@"'
    through = ("unshare", "--mount", "sh", "-ec", mount, "sh")
    arguments = ("up", "--bare", "--until-eof", "--hosts", "1", "--dir", str(place / "l"))
    with start(*arguments, through=through) as process:
        assert process.stdout
        assert process.stdout.readline(), process.stderr and process.stderr.read()
        directory = LabDirectory(place / "l")
        record = directory.read_record()
        assert record
        host = Host(record.hosts[0], directory)
        assert "hugetlbfs" not in host.run("cat", "/proc/mounts").stdout
        host.run("virsh", "-c", "qemu:///system", "version")
        process.terminate()
    assert process.returncode == 0


def test_cut_host_is_unreachable_until_mended(bare: Lab) -> None:
    host = bare.hosts[0]
    host.cut()
    try:
        tried = said_by(bare.ssh_program, "-o", "ConnectTimeout=2", host.name, "true")
        assert tried.returncode == 255
        assert host.run("hostname").stdout.strip() == host.name
    finally:
        host.mend()
    deadline = time.monotonic() + 120
    # For some seconds the kernel may remember that the host did not respond.
    while host.ssh("hostname", check=False).stdout.strip() != host.name:
        assert time.monotonic() < deadline, "the host is still unreachable"
        time.sleep(0.2)


def test_guest_survives_killed_libvirtd_and_can_be_frozen(bare: Lab) -> None:
    host = bare.hosts[0]
    host.run("virsh", "create", "/dev/stdin", stdin=DOMAIN)
    try:
        host.kill_libvirtd()
        assert host.run("virsh", "list", check=False).returncode != 0
        host.start_libvirtd()
        assert "running" in host.run("virsh", "domstate", "bare").stdout
        status = 'grep State "/proc/$(cat /run/libvirt/qemu/bare.pid)/status"'
        host.freeze("bare")
        assert "T (stopped)" in host.run("sh", "-c", status).stdout
        host.thaw("bare")
        assert "T (stopped)" not in host.run("sh", "-c", status).stdout
    finally:
        host.run("virsh", "destroy", "bare")


def test_pool_is_filled_only_when_it_is_small(bare: Lab) -> None:
    host = bare.hosts[0]
    with pytest.raises(LabError, match="not a small_pool"):
        host.fill_pool()
    with host.small_pool(1 << 20):
        host.fill_pool(leave=4096)
        pool = "/var/lib/libvirt/images"
        host.run("fallocate", "-l", "4096", f"{pool}/fits")
        with pytest.raises(LabError, match="No space left"):
            host.run("fallocate", "-l", "4096", f"{pool}/too-much")
    assert host.run("ls", pool).stdout == ""


def test_prepared_hosts_have_network_pool_and_template(lab: Lab) -> None:
    for host in lab.hosts:
        assert "ip address='203.0.113.1'" in host.run("virsh", "net-dumpxml", "default").stdout
        assert "active" in host.run("virsh", "-q", "net-list").stdout
        pools = host.run("virsh", "-q", "pool-list", "--name").stdout.split()
        assert {"default", "templates"} <= set(pools)
        manifest = json.loads(host.run("cat", "/var/lib/libvirt/templates/micro.json").stdout)
        host.run("qemu-img", "check", f"/var/lib/libvirt/templates/{manifest['file']}")


def test_killed_host_is_gone_and_lab_still_ends() -> None:
    with Lab(prepare=False) as lab:
        lab.hosts[0].kill()
        with pytest.raises(LabError, match="the host has ended"):
            lab.hosts[0].run("true")
        assert lab.hosts[1].ssh("hostname").stdout.strip() == "lab-2"
    assert traces(lab.directory) == []


def test_lab_ends_with_killed_test_process(place: Path) -> None:
    code = (
        "import pathlib, time; from lab import Lab\n"
        f"with Lab(hosts=1, prepare=False, directory=pathlib.Path({str(place / 'l')!r})):\n"
        "    print('up', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"up\n"
        process.kill()
    assert eventually_gone(place / "l") == []


def test_leftovers_of_killed_supervisor_go_with_next_lab(place: Path) -> None:
    directory = place / "l"
    with start("up", "--bare", "--until-eof", "--hosts", "1", "--dir", str(directory)) as process:
        assert process.stdout
        assert process.stdout.readline()
        record = LabDirectory(directory).read_record()
        assert record
        assert record.hosts[0].init
        process.kill()
        process.wait()
        assert record.hosts[0].init.wait(60), "the host outlived its supervisor"
        assert traces(directory)
    with Lab(hosts=1, prepare=False, directory=directory) as lab:
        assert lab.hosts[0].ssh("hostname").stdout.strip() == "lab-1"
    assert traces(directory) == []


@pytest.mark.parametrize(
    "stage",
    [".", "l", "l/lab.json", "l/id_ed25519", "l/lab-1.log", "l/lab-1/dev", "l/inventory.yml"],
)
def test_signal_while_starting_ends_the_lab(place: Path, stage: str) -> None:
    with start("up", "--bare", "--dir", str(place / "l")) as process:
        while not (place / stage).exists():
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        code = process.wait(120)
    assert code in {0, -signal.SIGTERM}  # the latter before Python has set its handlers
    assert traces(place / "l") == []


def test_detached_lab_is_taken_down(place: Path) -> None:
    directory = place / "l"
    with start("up", "--bare", "--detach", "--hosts", "1", "--dir", str(directory)) as process:
        said, _ = process.communicate(timeout=120)
        assert f"inventory: {directory}/inventory.yml" in said
    try:
        assert traces(directory)
        refused = start("up", "--bare", "--dir", str(directory))
        assert "runs a lab in it" in refused.communicate(timeout=120)[1]
    finally:
        down = start("down", "--dir", str(directory))
        assert down.communicate(timeout=120) == ("", "")
    assert down.returncode == 0
    assert traces(directory) == []


def test_directory_with_other_content_is_refused_untouched(place: Path) -> None:
    (place / "mine").write_text("precious")
    with (
        pytest.raises(LabError, match="not an empty directory"),
        Lab(prepare=False, directory=place),
    ):
        pass
    assert [path.name for path in place.iterdir()] == ["mine"]


def test_too_long_directory_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / ("long" * 20)
    with pytest.raises(LabError, match="longer than"), Lab(prepare=False, directory=directory):
        pass
    assert not directory.exists()


def test_down_without_a_lab_says_so(place: Path) -> None:
    down = start("down", "--dir", str(place))
    assert "contains none" in down.communicate(timeout=120)[1]
    assert down.returncode == 1


def test_process_is_not_mistaken_for_its_successor() -> None:
    myself = Process.of(os.getpid())
    assert myself
    assert myself.alive()
    assert not Process(myself.pid, myself.started - 1, myself.boot).alive()
    assert not Process(myself.pid, myself.started, "another-boot").send(signal.SIGKILL)
