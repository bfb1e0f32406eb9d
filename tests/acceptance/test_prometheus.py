"""Acceptance tests: what a Prometheus gets of the service, against what others measure."""

from __future__ import annotations

import contextlib
import functools
import shutil
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from lab import Lab
from lab.lab import Host
from tests.acceptance.guests import booted, domain_xml, in_guest, networked, qemu_pid
from tests.acceptance.prometheus import SCRAPE_SECONDS, Prometheus, make_token, run_prometheus
from tests.acceptance.service import INTERVAL, MICRO, Api, Service, wait_for

NAME = 'a"b\\c {{x}} <é漢>'
TITLE = 'by "virsh"\\n {y}'
TWO_INTERVALS = 2 * INTERVAL + SCRAPE_SECONDS + 2
"""The looks themselves take time too, on a busy machine up to a second each."""
WORK_SECONDS = 9 + INTERVAL
DISK_BYTES = 48 * 1024 * 1024
# Writes behind its own disk's file system, sends to its host, and computes.
WORK = f"""
dd if=/dev/zero of=/dev/vda bs=1M count={DISK_BYTES // 1024**2} seek=800; sync
ping -q -c 400 -i 0.005 -s 1400 $(ip route | sed -n 's/^default via \\([^ ]*\\).*/\\1/p')
dd if=/dev/zero bs=1M count=100 2>/dev/null | sha256sum
"""
EXPORTER = "127.0.0.1:9177"
MOVING = (
    "libvirt_domain_info_cpu_time_seconds_total",
    "libvirt_domain_block_stats_",
    "libvirt_domain_interface_stats_",
)


@dataclass
class Site:
    """A service, the Prometheus that scrapes it, and a VM that both know."""

    service: Service
    api: Api
    prometheus: Prometheus
    host: Host
    vm: str
    began: float

    @functools.cached_property
    def uuid(self) -> str:
        return str(domain_xml(self.host, self.vm).findtext("uuid"))

    def observed_at(self) -> float:
        """When the VM was observed; 0 when it is not known, as until a service's first look."""
        found = self.prometheus.query(
            f'virtplay_vm_last_observed_timestamp_seconds{{uuid="{self.uuid}"}}'
        )
        return found[0][1] if found else 0

    def observed_anew(self) -> float:
        """Wait for an observation that began after now has been scraped; when Prometheus had it."""
        asked = time.time()
        # The moment is that of a look's end; the look takes less than an interval.
        wait_for("an observation", lambda: self.observed_at() > asked + 1.5, 20)
        return time.time()

    def counter(self, metric: str, at: float | None = None) -> float:
        """The sum over the VM's devices of a counter of Prometheus."""
        return self.prometheus.value(f'sum({metric}{{uuid="{self.uuid}"}})', at)


@pytest.fixture(scope="module")
def site(lab: Lab, service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    programs = ("prometheus", "promtool", "prometheus-libvirt-exporter")
    if missing := [name for name in programs if not shutil.which(name)]:
        pytest.fail(f"run make setup-lab: there is no {', '.join(missing)}", pytrace=False)
    api = Api(service.port)
    host = lab.hosts[0]
    began = time.time()
    directory = tmp_path_factory.mktemp("prometheus") / "all"
    with run_prometheus(directory, "prometheus.yml", service) as prometheus:
        vm = api.create(name=NAME, host=host.name, autoStart=True)["domain"]
        try:
            networked(host, vm, "default via ")
            yield Site(service, api, prometheus, host, vm, began)
        finally:
            api.remove(*api.vms())


@pytest.fixture(scope="module")
def cut_off(site: Site, lab: Lab) -> Iterator[Host]:
    """The other host, whose cable was pulled: SSH takes its time to notice, so others go first."""
    host = lab.hosts[1]
    assert site.prometheus.value(f'libvirt_up{{host="{host.name}"}}') == 1
    host.cut()
    yield host
    host.mend()


@dataclass(frozen=True)
class Measured:
    """Counters of a VM as its guest, the kernel of its host, and virsh tell them."""

    cpu_of_process: float
    cpu_of_libvirt: float
    written_by_guest: int
    written: int
    sent_by_guest: int
    sent: int
    received: int


def measure(host: Host, vm: str) -> Measured:
    stat = host.run("cat", f"/proc/{qemu_pid(host, vm)}/stat").stdout.rpartition(")")[2].split()
    said = dict(
        line.strip().split("=", 1)
        for line in host.run("virsh", "domstats", vm).stdout.splitlines()
        if "=" in line
    )
    guest = in_guest(host, vm, "/bin/cat", "/proc/diskstats", "/proc/net/dev").splitlines()
    disk = next(line.split() for line in guest if " vda " in line)
    card = next(line.split() for line in guest if line.strip().startswith("eth0:"))
    return Measured(
        cpu_of_process=(int(stat[11]) + int(stat[12])) / 100,
        cpu_of_libvirt=int(said["cpu.time"]) / 1e9,
        written_by_guest=int(disk[9]) * 512,
        written=int(said["block.0.wr.bytes"]),
        sent_by_guest=int(card[9]),
        sent=int(said["net.0.tx.bytes"]),
        received=int(said["net.0.rx.bytes"]),
    )


def agree(ours: float, others: float) -> None:
    assert ours == pytest.approx(others, rel=0.05)


def test_series_agree_with_guest_and_host(site: Site, cut_off: Host) -> None:
    """Every counter grows by what the guest and its host counted between two observations.

    An idle guest uses some CPU time, too, so the host is measured before and after an observation.
    """
    early_start = measure(site.host, site.vm)
    before = site.observed_anew()
    late_start = measure(site.host, site.vm)
    # The history's test reads the minute of the work, which must be one, its observation too.
    wait_for("the beginning of a minute", lambda: time.time() % 60 < 56 - WORK_SECONDS, 30)
    in_guest(site.host, site.vm, "/bin/sh", "-c", WORK, seconds=60)
    early_end = measure(site.host, site.vm)
    after = site.observed_anew()
    late_end = measure(site.host, site.vm)

    def grown(metric: str) -> float:
        return site.counter(metric, after) - site.counter(metric, before)

    def agrees(ours: float, counter: Callable[[Measured], float]) -> None:
        least = counter(early_end) - counter(late_start)
        most = counter(late_end) - counter(early_start)
        assert least * 0.95 <= ours <= most * 1.05

    cpu = grown("libvirt_domain_info_cpu_time_seconds_total")
    agrees(cpu, lambda measured: measured.cpu_of_process)
    agrees(cpu, lambda measured: measured.cpu_of_libvirt)
    assert cpu > 2
    written = grown("libvirt_domain_block_stats_write_bytes_total")
    agrees(written, lambda measured: measured.written_by_guest)
    agrees(written, lambda measured: measured.written)
    agree(written, DISK_BYTES)
    sent = grown("libvirt_domain_interface_stats_transmit_bytes_total")
    agrees(sent, lambda measured: measured.sent_by_guest)
    agrees(sent, lambda measured: measured.sent)
    received = grown("libvirt_domain_interface_stats_receive_bytes_total")
    agrees(received, lambda measured: measured.received)
    assert sent > 400 * 1400
    # And as people ask for it.
    span = f"[{after - before + 4:.0f}s]"
    of = f'{{uuid="{site.uuid}"}}{span}'
    increase = site.prometheus.value(
        f"sum(increase(libvirt_domain_block_stats_write_bytes_total{of}))", after + 2
    )
    agree(increase, DISK_BYTES)


def exporter_values(host: Host) -> dict[tuple[str, str, str], float]:
    """What prometheus-libvirt-exporter says: metric, domain's UUID, device → value."""
    text = host.run("curl", "-sS", "--max-time", "10", f"http://{EXPORTER}/metrics").stdout
    return {
        (sample.name, sample.labels["uuid"], sample.labels.get("target_device", "")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("libvirt_domain_") and "uuid" in sample.labels
    }


@contextlib.contextmanager
def libvirt_exporter(host: Host) -> Iterator[None]:
    """Debian's exporter, a process of the host; it ends with the block, or with the host."""
    program = f"prometheus-libvirt-exporter --web.listen-address={EXPORTER}"
    start = f"{program} </dev/null >/dev/null 2>&1 & echo $!"
    pid = host.run("sh", "-c", start).stdout.strip()
    try:
        wait_for("the exporter", lambda: _answers(host), 15)
        yield
    finally:
        host.run("kill", pid, check=False)


def _answers(host: Host) -> bool:
    return host.run("curl", "-sf", f"http://{EXPORTER}/", check=False).returncode == 0


def test_series_agree_with_an_exporter_on_the_host(site: Site) -> None:
    card = domain_xml(site.host, site.vm).find("devices/interface")
    mac, tap = card.find("mac").get("address"), card.find("target").get("dev")
    with libvirt_exporter(site.host):
        before = exporter_values(site.host)
        site.observed_anew()
        after = exporter_values(site.host)
    shared = set()
    for (name, uuid, device), least in before.items():
        most = after[name, uuid, device]
        found = site.prometheus.query(f'{name}{{uuid="{uuid}"}}')
        ours = [value for series, value in found
                if series.get("target_device", "").replace(mac, tap) == device]  # fmt: skip
        if not ours:
            continue
        assert len(ours) == 1
        shared.add(name)
        # Whole centiseconds, the exporter says.
        slack = 0.01 if name.endswith("_seconds_total") else 0
        if name.startswith(MOVING):
            assert least - slack <= ours[0] <= most + slack, name
        else:
            assert ours[0] == least == most, name
    assert shared == {
        "libvirt_domain_info_cpu_time_seconds_total",
        "libvirt_domain_info_maximum_memory_bytes",
        "libvirt_domain_info_virtual_cpus",
        *(f"libvirt_domain_block_stats_{way}_{what}_total"
          for way in ("read", "write") for what in ("bytes", "requests")),
        *(f"libvirt_domain_interface_stats_{way}_{what}_total"
          for way in ("receive", "transmit") for what in ("bytes", "packets", "errors", "drops")),
    }  # fmt: skip


def test_live_text_is_clean(site: Site) -> None:
    address = f"http://127.0.0.1:{site.service.port}/metrics"
    assert httpx.get(address).status_code == 401
    token = make_token(site.service, f"promtool-{time.time():.0f}")
    answer = httpx.get(address, headers={"Authorization": f"Bearer {token}"})
    done = subprocess.run(
        ["promtool", "check", "metrics"],
        input=answer.content,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    # A Prometheus before 2.52 keeps one sample of a series that is there twice, and says nothing.
    series = [
        (sample.name, *sorted(sample.labels.items()))
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    ]
    assert len(series) == len(set(series))


def test_every_sample_of_a_scrape_is_kept(site: Site) -> None:
    site.observed_anew()
    (target,) = site.prometheus.targets()
    assert (target["health"], target["lastError"]) == ("up", "")
    scraped = site.prometheus.value("scrape_samples_scraped")
    assert scraped > 100
    assert site.prometheus.value("scrape_samples_post_metric_relabeling") == scraped
    refused = site.prometheus.refused()
    assert len(refused) >= 3
    assert not any(refused.values()), refused


def test_rules_find_their_series(site: Site) -> None:
    for rule in site.prometheus.rules():
        assert rule["health"] in ("ok", "unknown"), rule
    for recorded in ("vm_cpu:ratio", "vm_memory_used:ratio", "vm_disk_write:bytes_per_second"):
        assert site.prometheus.has(f'virtplay:{recorded}{{uuid="{site.uuid}"}}')
    for recorded in ("host_vm_cpu:ratio", "host_memory_used:ratio", "pool_used:ratio"):
        assert site.prometheus.has(f'virtplay:{recorded}{{host="{site.host.name}"}}')


def test_host_that_is_gone_takes_its_series_with_it(site: Site, cut_off: Host) -> None:
    prometheus, of = site.prometheus, f'{{host="{cut_off.name}"}}'
    wait_for("its end", lambda: prometheus.value(f"libvirt_up{of}") == 0, 40)
    assert not prometheus.has(f"virtplay_host_cpus{of}")
    # When it was seen last is still said, and the others go on.
    assert (
        prometheus.value(f"time() - virtplay_host_last_observed_timestamp_seconds{of}") > INTERVAL
    )
    assert prometheus.value(f'libvirt_up{{host="{site.host.name}"}}') == 1
    cut_off.mend()


def test_series_come_and_go_with_their_vm(site: Site) -> None:
    prometheus = site.prometheus
    assert prometheus.query(f'libvirt_domain_info{{uuid="{site.uuid}"}}')[0][0]["name"] == NAME
    made = site.api.send("POST", "/vms", {"name": "comes", "host": site.host.name, **MICRO})
    site.api.succeeded(made["jobId"])
    vm = site.api.vm(made["id"])["domain"]
    uuid = domain_xml(site.host, vm).findtext("uuid")
    info = f'libvirt_domain_info{{uuid="{uuid}", name="%s"}}'
    wait_for("its series", lambda: prometheus.has(info % "comes"), TWO_INTERVALS)
    # Stopped from its first observation on, with a size and without what only runs.
    assert prometheus.value(f'libvirt_domain_state{{uuid="{uuid}", state="stopped"}}') == 1
    assert not prometheus.has(f'libvirt_domain_info_cpu_time_seconds_total{{uuid="{uuid}"}} > 0')
    state = f'libvirt_domain_state{{uuid="{uuid}", state="stopped"}}'
    label_sets = prometheus.query(state)[0][0]

    site.host.run("virsh", "desc", vm, "--title", "--config", TITLE)
    escaped = TITLE.replace("\\", "\\\\").replace('"', '\\"')
    wait_for("its title", lambda: prometheus.has(info % escaped), TWO_INTERVALS)
    assert prometheus.query(f'libvirt_domain_info{{uuid="{uuid}"}}')[0][0]["name"] == TITLE
    assert prometheus.query(state)[0][0] == label_sets, "no other series has a name"

    site.api.run("DELETE", f"/vms/{made['id']}")
    wait_for("their end", lambda: not prometheus.has(f'{{uuid="{uuid}"}}'), TWO_INTERVALS)


def test_each_host_as_a_target(site: Site, lab: Lab, tmp_path: Path) -> None:
    with run_prometheus(tmp_path / "http-sd", "prometheus-http-sd.yml", site.service) as prometheus:

        def scraped() -> bool:
            return {
                (target["labels"]["job"], target["labels"]["instance"])
                for target in prometheus.targets()
                if target["health"] == "up"
            } == {
                ("virtplay", f"127.0.0.1:{site.service.port}"),
                *(("virtplay-hosts", host.name) for host in lab.hosts),
            }

        wait_for("every target", scraped, 20)
        for host in lab.hosts:
            labels = prometheus.query(f'libvirt_up{{host="{host.name}"}}')
            assert [series["instance"] for series, _ in labels] == [host.name]
        assert prometheus.value("count(virtplay_build_info)") == 1
        assert prometheus.value(f'count(libvirt_domain_info{{uuid="{site.uuid}"}})') == 1


def test_restarts_reset_no_counter_that_goes_on(site: Site) -> None:
    prometheus = site.prometheus
    cpu = f'libvirt_domain_info_cpu_time_seconds_total{{uuid="{site.uuid}"}}'
    series = prometheus.query(cpu)[0][0]
    # The guest's own restart and the service's are none; a new QEMU begins at 0, and that is one.
    site.host.run("virsh", "reset", site.vm)
    assert site.service.stop() == 0
    site.service.start()
    site.observed_anew()
    span = f"[{time.time() - site.began:.0f}s]"
    assert prometheus.value(f"resets({cpu}{span})") == 0
    assert prometheus.query(cpu)[0][0] == series
    site.api.run("POST", f"/vms/{site.vm}/stop", {"force": True})
    site.api.run("POST", f"/vms/{site.vm}/start")
    booted(site.host, site.vm)
    site.observed_anew()
    span = f"[{time.time() - site.began:.0f}s]"
    used = prometheus.value(cpu)
    assert prometheus.value(f"resets({cpu}{span})") == 1
    assert prometheus.query(cpu)[0][0] == series, "the same series as before"
    # All that it used, and nothing twice.
    peak = prometheus.value(f"max_over_time({cpu}{span})")
    assert used < peak
    assert prometheus.value(f"increase({cpu}{span})") <= (peak + used) * 1.05


def test_history_comes_from_prometheus(site: Site, lab: Lab, tmp_path: Path) -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    settings = {"VIRTPLAY_PROMETHEUS_URL": site.prometheus.url}
    state = tmp_path / "state"
    reader = Service(state, str(lab.inventory), port, settings)
    reader.start()
    try:
        other = Api(port)
        wait_for(
            "the VM",
            lambda: (
                site.vm
                in {vm["domain"] for vm in other.vms().values() if vm["status"] == "running"}
            ),
            20,
        )
        wait_for("the end of the minute", lambda: time.time() % 60 > 1, 5)
        since = datetime.fromtimestamp(site.began, UTC).isoformat().replace("+00:00", "Z")
        path = f"/vms/{site.vm}/metrics?from={since}&interval=1m&history=all"
        theirs, ours = other.get(path), site.api.get(path)
        written = [
            sum(60 * (point["write"] or 0) for point in told["disk"]["history"])
            for told in (theirs, ours)
        ]
        agree(written[0], DISK_BYTES)
        assert {p["timestamp"] for p in theirs["disk"]["history"]} <= {
            p["timestamp"] for p in ours["disk"]["history"]
        }
        assert max(p["value"] for p in theirs["cpu"]["history"]) > 5
        # A moment in which nothing ran is a gap.
        assert len(other.get(f"/vms/{site.vm}/metrics?to={since}")["cpu"]["history"]) == 0
    finally:
        reader.stop()
    with contextlib.closing(sqlite3.connect(state / "virtplay.sqlite3")) as database:
        for table in ("sample_raw", "sample_5m", "sample_1h"):
            assert database.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)


def test_guest_agent_that_hangs_hides_nothing(site: Site, lab: Lab) -> None:
    """Last: the guest's agent does not come back."""
    stop = "(sleep 1; killall -STOP qemu-ga) >/dev/null 2>&1 &"
    in_guest(site.host, site.vm, "/bin/sh", "-c", stop)

    def hangs() -> bool:
        ping = '{"execute": "guest-ping"}'
        asked = ("virsh", "qemu-agent-command", "--timeout", "1", site.vm, ping)
        return site.host.run(*asked, check=False).returncode != 0

    wait_for("the agent's silence", hangs, 10)
    site.observed_anew()
    for metric in (
        "libvirt_domain_info_cpu_time_seconds_total",
        "libvirt_domain_memory_used_bytes",
        "libvirt_domain_block_stats_write_bytes_total",
    ):
        assert site.prometheus.has(f'{metric}{{uuid="{site.uuid}"}}')
    shown = site.api.get(f"/vms/{site.vm}/metrics")
    assert shown["memory"]["usage"] > 10
    assert 0 < shown["disk"]["usage"] < 100, "of the image, as the guest does not say"
    for host in lab.hosts:
        # The one that was cut off is back meanwhile.
        wait_for("all series", functools.partial(back, site.prometheus, host), 30)


def back(prometheus: Prometheus, host: Host) -> bool:
    of = f'{{host="{host.name}"}}'
    return prometheus.value(f"libvirt_up{of}") == 1 and prometheus.has(f"virtplay_host_cpus{of}")
