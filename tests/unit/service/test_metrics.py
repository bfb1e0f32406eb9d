"""Unit tests: what Prometheus gets of observations.

`WRITE_GOLDEN=1 pytest tests/unit/service/test_metrics.py` rewrites the list of published
metrics; a name or label that is in it must never change, as people's dashboards have it.
"""

import asyncio
import contextlib
import copy
import math
import os
import re
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import virtplay.metrics.exposition as exposition_module
import yaml
from prometheus_client.parser import text_string_to_metric_families
from virtplay.metrics.exposition import CHUNK, PARTS, Exposition, in_chunks, render_text
from virtplay.metrics.families import DATABASE_FAMILIES, FAMILIES, Kind
from virtplay.metrics.host_series import VmLabels, read_host
from virtplay.metrics.service_series import (
    LAG_SECONDS,
    count_job,
    count_request,
    service_text,
    watch_loop,
)
from virtplay.states import DomainState

ROOT = Path(__file__).parents[3]
PLUGINS = ROOT / "collections/ansible_collections/virtplay/libvirt/plugins"
GOLDEN = Path(__file__).parent / "golden" / "metrics.txt"
UUID = "00001234-5000-0000-0000-000000000001"
VM = {"host": "kvm1", "domain": "web-1", "uuid": UUID}
VDA = {**VM, "target_device": "vda"}
NIC = {**VM, "target_device": "52:54:00:e4:4e:35"}
Sample = tuple[str, frozenset[tuple[str, str]]]


def sample_info() -> dict[str, Any]:
    """The observation that the documentation of host_info shows."""
    text = (PLUGINS / "modules/host_info.py").read_text()
    returned = yaml.safe_load(text.split('RETURN = r"""', 1)[1].split('"""', 1)[0])
    contains = returned["host_info"]["contains"]
    return {name: copy.deepcopy(entry["sample"]) for name, entry in contains.items()}


def refs(name: str = "web server") -> dict[str, VmLabels]:
    return {UUID: VmLabels("vm-001", name, "debian12", "debian12")}


def exposed(exposition: Exposition, host: str | None = None) -> dict[Sample, float]:
    """The series of a scrape: (name, labels) → value; none may be there twice."""
    return parsed(b"".join(exposition.text(host)))


def parsed(text: bytes) -> dict[Sample, float]:
    found: dict[Sample, float] = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found, key
            found[key] = sample.value
    return found


def taken(info: Mapping[str, Any], name: str = "web server") -> dict[Sample, float]:
    exposition = Exposition()
    exposition.take("kvm1", info, refs(name), 1000.5, 0.25)
    return exposed(exposition)


def with_domain(**values: Any) -> dict[str, Any]:
    info = sample_info()
    info["domains"][0] |= values
    return info


def of_vm(series: Mapping[Sample, float]) -> set[str]:
    return {name for name, labels in series if ("uuid", UUID) in labels}


def types_and_labels(text: bytes) -> dict[str, str]:
    """Metric → its type and labels."""
    found: dict[str, str] = {}
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text.decode(), re.M))
    for family in text_string_to_metric_families(text.decode()):
        name = f"{family.name}_total" if f"{family.name}_total" in kinds else family.name
        labels = sorted({label for sample in family.samples for label in sample.labels})
        found[name] = f"{kinds[name]} {{{','.join(labels)}}}"
    return found


def test_published_metrics_are_the_golden_file() -> None:
    exposition = Exposition()
    exposition.take("kvm1", sample_info(), refs(), 1000.5, 0.25)
    count_request("GET", "/metrics", 200, 0.1)
    text = b"".join(exposition.text()) + service_text() + of_database()
    lines = [f"{name} {rest}\n" for name, rest in sorted(types_and_labels(text).items())]
    if os.environ.get("WRITE_GOLDEN"):
        GOLDEN.write_text("".join(lines))
    assert "".join(lines) == GOLDEN.read_text()
    # The sample has every metric that there is.
    families = (*FAMILIES, *DATABASE_FAMILIES)
    assert {family.name for family in families} <= types_and_labels(text).keys()


def of_database() -> bytes:
    """Every metric of the database, with one series."""
    values = {family.name: {family.labels: 1.0} for family in DATABASE_FAMILIES}
    return render_text(DATABASE_FAMILIES, values)


@pytest.mark.parametrize(
    "family", [*FAMILIES, *DATABASE_FAMILIES], ids=lambda family: str(family.name)
)
def test_names_end_with_total_when_they_count_and_never_else(family: Any) -> None:
    assert family.name.endswith("_total") == (family.kind is Kind.COUNTER)
    assert family.help.endswith(".")


VALUES: list[tuple[str, dict[str, str], float]] = [
    ("libvirt_up", {"host": "kvm1"}, 1),
    ("virtplay_host_cpus", {"host": "kvm1"}, 16),
    ("virtplay_host_cpus_allocated", {"host": "kvm1"}, 1),
    ("virtplay_host_memory_bytes", {"host": "kvm1"}, 25276510208),
    # What waits for the next boot counts as given.
    ("virtplay_host_memory_bytes_allocated", {"host": "kvm1"}, 1024 * 2**20),
    ("virtplay_host_memory_free_bytes", {"host": "kvm1"}, 24575574016),
    ("virtplay_host_last_observed_timestamp_seconds", {"host": "kvm1"}, 1000.5),
    ("virtplay_observation_duration_seconds", {"host": "kvm1"}, 0.25),
    ("virtplay_observations_total", {"host": "kvm1"}, 1),
    ("virtplay_observation_failures_total", {"host": "kvm1"}, 0),
    ("libvirt_storage_pool_capacity_bytes", {"host": "kvm1", "pool": "default"}, 270553174016),
    ("libvirt_storage_pool_available_bytes", {"host": "kvm1", "pool": "default"}, 245479202816),
    (
        "libvirt_domain_info",
        {
            **VM,
            "vm": "vm-001",
            "name": "web server",
            "template": "debian12",
            "os": "debian12",
            "managed": "true",
        },
        1,
    ),
    ("libvirt_domain_state", {**VM, "state": "running"}, 1),
    ("libvirt_domain_state", {**VM, "state": "stopped"}, 0),
    ("libvirt_domain_state_reason", {**VM, "state": "running", "reason": "booted"}, 1),
    ("virtplay_vm_last_observed_timestamp_seconds", VM, 1000.5),
    ("libvirt_domain_info_cpu_time_seconds_total", VM, 0.71),
    ("libvirt_domain_info_virtual_cpus", VM, 1),
    ("libvirt_domain_info_maximum_memory_bytes", VM, 1024 * 2**20),
    ("libvirt_domain_vcpu_state", {**VM, "vcpu": "0"}, 1),
    ("libvirt_domain_vcpu_time_seconds_total", {**VM, "vcpu": "0"}, 0.4),
    ("libvirt_domain_vcpu_wait_seconds_total", {**VM, "vcpu": "0"}, 0),
    ("libvirt_domain_vcpu_delay_seconds_total", {**VM, "vcpu": "0"}, 0.037925747),
    ("libvirt_domain_memory_used_bytes", VM, 507572224 - 401604608),
    ("libvirt_domain_memory_stats_actual_balloon_bytes", VM, 536870912),
    ("libvirt_domain_memory_stats_rss_bytes", VM, 350224384),
    ("libvirt_domain_memory_stats_swap_in_bytes_total", VM, 0),
    ("libvirt_domain_memory_stats_major_faults_total", VM, 212),
    ("libvirt_domain_block_stats_read_bytes_total", VDA, 512),
    ("libvirt_domain_block_stats_read_time_seconds_total", VDA, 0.003965705),
    ("libvirt_domain_block_stats_capacity_bytes", VDA, 21474836480),
    ("libvirt_domain_block_stats_physical_bytes", VDA, 196616),
    ("libvirt_domain_interface_stats_receive_bytes_total", NIC, 90),
    ("libvirt_domain_interface_stats_transmit_drops_total", NIC, 0),
]


@pytest.mark.parametrize(("name", "labels", "value"), VALUES)
def test_value(name: str, labels: dict[str, str], value: float) -> None:
    assert taken(sample_info())[name, frozenset(labels.items())] == pytest.approx(value, rel=1e-12)


ABOUT = {
    "libvirt_domain_info",
    "libvirt_domain_state",
    "libvirt_domain_state_reason",
    "libvirt_domain_info_virtual_cpus",
    "libvirt_domain_info_maximum_memory_bytes",
    "virtplay_vm_last_observed_timestamp_seconds",
    "virtplay_vm_generation",
}
SIZES = {f"libvirt_domain_block_stats_{what}_bytes" for what in
         ("capacity", "allocation", "physical")}  # fmt: skip


def test_a_stopped_vm_has_what_it_is_and_its_disks() -> None:
    sizes = {"target": "vda", "capacity_bytes": 3, "allocation_bytes": 2, "physical_bytes": 1}
    stats = {"vcpu": [], "balloon": {}, "block": [sizes], "interface": []}
    series = taken(with_domain(state="stopped", stats=stats))
    assert of_vm(series) == ABOUT | SIZES
    assert series["libvirt_domain_state", frozenset({**VM, "state": "stopped"}.items())] == 1


def test_a_stopped_vm_has_memory_allocated_but_no_cpu() -> None:
    series = taken(with_domain(state="stopped"))
    of_host = frozenset({("host", "kvm1")})
    assert series["virtplay_host_cpus_allocated", of_host] == 0
    assert series["virtplay_host_memory_bytes_allocated", of_host] == 1024 * 2**20


@pytest.mark.parametrize("given", [None, "n/a", "", math.nan, math.inf, [], {}])
def test_a_value_that_is_no_number_is_absent(given: object) -> None:
    info = sample_info()
    stats = info["domains"][0]["stats"]
    stats["cpu_time_ns"] = given
    stats["balloon"]["usable_bytes"] = given
    stats["block"][0]["read_bytes"] = given
    stats["vcpu"][0]["wait_ns"] = given
    info["host"]["memory_bytes"] = given
    names = {name for name, _ in taken(info)}
    gone = {
        "libvirt_domain_info_cpu_time_seconds_total",
        "libvirt_domain_memory_stats_usable_bytes",
        "libvirt_domain_memory_used_bytes",
        "libvirt_domain_block_stats_read_bytes_total",
        "libvirt_domain_vcpu_wait_seconds_total",
        "virtplay_host_memory_bytes",
    }
    assert {family.name for family in FAMILIES} - names == gone


@pytest.mark.parametrize("key", ["cpu_time_ns", "vcpu", "balloon", "block", "interface"])
def test_what_libvirt_does_not_give_is_absent(key: str) -> None:
    info = sample_info()
    del info["domains"][0]["stats"][key]
    assert of_vm(taken(sample_info())) - of_vm(taken(info))


def test_a_domain_of_which_nothing_can_be_read() -> None:
    info = sample_info()
    info["domains"] = [{"uuid": UUID, "name": "odd", "state": "unknown", "unreadable": "why"}]
    series = taken(info)
    assert of_vm(series) == {
        "libvirt_domain_info",
        "libvirt_domain_state",
        "virtplay_vm_last_observed_timestamp_seconds",
    }


def test_states_are_those_of_the_collection() -> None:
    text = (PLUGINS / "module_utils/states.py").read_text()
    body = text.split("class DomainState", 1)[1].split("\n\n\n", 1)[0]
    assert set(re.findall(r'= "(\w+)"', body)) == set(DomainState)


@pytest.mark.parametrize(
    ("metadata", "managed"), [(None, "false"), ({}, "true"), ({"template": "debian12"}, "true")]
)
def test_a_domain_of_strangers_is_told_apart(metadata: object, managed: str) -> None:
    series = taken(with_domain(metadata=metadata))
    assert [
        dict(labels)["managed"] for name, labels in series if name == "libvirt_domain_info"
    ] == [managed]


def test_a_rename_touches_one_series() -> None:
    before, after = taken(sample_info()), taken(with_domain(title="other"), "other")
    assert {name for name, _ in before.keys() ^ after.keys()} == {"libvirt_domain_info"}


def test_a_restart_keeps_every_series() -> None:
    info = sample_info()
    info["domains"][0]["interfaces"][0]["target"] = "vnet7"
    info["domains"][0]["stats"]["interface"][0]["target"] = "vnet7"
    assert taken(info).keys() == taken(sample_info()).keys()


def test_a_clock_that_was_set_back_changes_nothing_but_the_moment() -> None:
    exposition = Exposition()
    exposition.take("kvm1", sample_info(), refs(), 1000.5, 0.25)
    before = exposed(exposition)
    exposition.take("kvm1", sample_info(), refs(), 400.0, 0.25)
    after = exposed(exposition)
    changed = {sample[0] for sample, value in after.items() if before[sample] != value}
    assert changed == {
        "virtplay_host_last_observed_timestamp_seconds",
        "virtplay_vm_last_observed_timestamp_seconds",
        "virtplay_observations_total",
    }
    # No line says when: Prometheus refuses none for being older than the last.
    lines = b"".join(exposition.text()).decode().splitlines()
    assert not any(re.search(r"} \S+ \S+$", line) for line in lines)


def test_interfaces_without_an_address_of_their_own_go_by_their_device() -> None:
    mac = "52:54:00:00:00:01"
    cards: list[dict[str, Any]] = [
        {"mac": mac, "target": "vnet0"},
        {"mac": mac, "target": "vnet1"},
        {"target": "vnet2"},
        {"target": "vnet2"},
        {},
    ]
    info = sample_info()
    info["domains"][0]["stats"]["interface"] = [{**card, "rx_bytes": 1} for card in cards]
    values = read_host("kvm1", info, refs(), 0)
    received = values["libvirt_domain_interface_stats_receive_bytes_total"]
    assert [labels[-1] for labels in received] == [mac, "vnet1", "vnet2"]


HOSTILE = [
    'a"b\nc\\',
    "\\",
    "\\n",
    '"} 1\nvirtplay_up{x="',
    "{{ lookup('pipe', 'id') }}",
    "tab\tand\rreturn",
    "\x00\x1f\x7f",
    "\u202eright to left",
    "\u540d\u524d \U0001f600",
    "half \ud800 a pair",
    "# HELP libvirt_up",
    "x" * 5000,
    " ",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_any_name_is_only_a_label(name: str) -> None:
    info = with_domain(title=name)
    info["pools"][0]["name"] = name
    info["domains"][0]["stats"]["block"][0]["target"] = name
    exposition = Exposition()
    exposition.take("kvm1", info, refs(name), 1000.5, 0.25)
    series = exposed(exposition)
    whole = name.encode("utf-8", "replace").decode()
    shown = {label for series_name, labels in series for label in labels
             if series_name == "libvirt_domain_info" and label[0] == "name"}  # fmt: skip
    # The parser of the tests strips white space, which Prometheus does not.
    assert {value.strip() for _, value in shown} == {whole.strip()}
    assert len(series) == len(taken(sample_info()))


@pytest.mark.needs("promtool")
def test_promtool_has_nothing_to_say() -> None:
    exposition = Exposition()
    exposition.fail("kvm0")
    for number, name in enumerate(HOSTILE):
        exposition.take(f"kvm{number}", with_domain(title=name), refs(name), 1000.5, 0.25)
    count_job("vm_create", "succeeded", 2.5)
    count_request("GET", "/api/v1/vms/{id}", 200, 0.1)
    text = b"".join(exposition.text()) + service_text() + of_database()
    told = subprocess.run(
        ["promtool", "check", "metrics"], check=False, input=text, capture_output=True
    )
    assert (told.returncode, told.stdout, told.stderr) == (0, b"", b"")


OF_A_FAILED_HOST = {
    "libvirt_up",
    "virtplay_observations_total",
    "virtplay_observation_failures_total",
    "virtplay_host_last_observed_timestamp_seconds",
    "virtplay_observation_duration_seconds",
}


def test_series_come_and_go_with_their_host() -> None:
    exposition = Exposition()
    up = ("libvirt_up", frozenset({("host", "kvm1")}))
    failures = ("virtplay_observation_failures_total", up[1])
    exposition.fail("kvm1")
    assert {name for name, _ in exposed(exposition)} == {
        "libvirt_up",
        "virtplay_observations_total",
        "virtplay_observation_failures_total",
    }
    exposition.take("kvm1", sample_info(), refs(), 1000.5, 0.25)
    exposition.take("kvm2", sample_info(), refs(), 1000.5, None)
    assert exposed(exposition)[up] == 1
    assert {dict(labels)["host"] for _, labels in exposed(exposition, "kvm2")} == {"kvm2"}
    whole = exposed(exposition, "kvm1").keys()
    exposition.count_failure("kvm1")
    assert exposed(exposition, "kvm1").keys() == whole
    assert (exposed(exposition)[up], exposed(exposition)[failures]) == (1, 2)
    exposition.fail("kvm1")
    series = exposed(exposition, "kvm1")
    assert {name for name, _ in series} == OF_A_FAILED_HOST
    assert (series[up], series[failures]) == (0, 3)
    exposition.keep({"kvm2"})
    assert exposed(exposition, "kvm1") == {}
    assert {dict(labels)["host"] for _, labels in exposed(exposition)} == {"kvm2"}
    exposition.forget("nobody")


def test_a_deleted_vm_has_no_series() -> None:
    exposition = Exposition()
    exposition.take("kvm1", sample_info(), refs(), 1000.5, 0.25)
    exposition.take("kvm1", {**sample_info(), "domains": []}, {}, 1015.5, 0.25)
    assert of_vm(exposed(exposition)) == set()


def test_a_host_forgotten_while_it_is_rendered_stays_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exposition = Exposition()

    def forget(*given: Any) -> Any:
        exposition.forget("kvm1")
        return read_host(*given)

    monkeypatch.setattr(exposition_module, "read_host", forget)
    exposition.take("kvm1", sample_info(), refs(), 1000.5, 0.25)
    assert exposed(exposition) == {}


def test_a_scrape_shows_one_moment() -> None:
    exposition = Exposition()
    exposition.take("kvm1", sample_info(), refs(), 1000.5, 0.25)
    before = b"".join(exposition.text())
    slow = exposition.text()
    exposition.fail("kvm1")
    assert b"".join(slow) == before


def test_every_metric_is_announced_once() -> None:
    exposition = Exposition()
    for host in ("kvm2", "kvm1"):
        exposition.take(host, sample_info(), refs(), 1000.5, 0.25)
    text = b"".join(exposition.text()).decode()
    names = re.findall(r"^# TYPE (\S+)", text, re.M)
    assert names == [family.name for family in FAMILIES]
    assert re.findall(r"^# HELP (\S+)", text, re.M) == names


@pytest.mark.parametrize(
    "sizes", [[], [0], [1], [CHUNK], [CHUNK + 1], [CHUNK - 1, 2], [3 * CHUNK + 7, 0, 5], [10] * 9]
)
def test_chunks_are_whole_and_none_is_too_long(sizes: list[int]) -> None:
    pieces = [bytes([number % 256]) * size for number, size in enumerate(sizes)]
    chunks = list(in_chunks(pieces))
    assert b"".join(chunks) == b"".join(pieces)
    assert all(len(chunk) == CHUNK for chunk in chunks[:-1])
    assert all(0 < len(chunk) <= CHUNK for chunk in chunks)


def test_a_chunk_has_few_parts_however_short_they_are() -> None:
    pieces = [b"abc"] * (3 * PARTS + 1)
    assert [len(chunk) for chunk in in_chunks(pieces)] == [3 * PARTS] * 3 + [3]


def of_service(name: str, **labels: str) -> float | None:
    return parsed(service_text()).get((name, frozenset(labels.items())))


def test_jobs_are_counted_from_nought() -> None:
    failed = {"action": "console_open", "status": "lost"}
    before = of_service("virtplay_jobs_total", **failed)
    assert before is not None
    seconds = of_service("virtplay_job_duration_seconds_count", action="console_open")
    count_job("console_open", "lost", None)
    count_job("console_open", "succeeded", 3.0)
    assert of_service("virtplay_jobs_total", **failed) == before + 1
    after = of_service("virtplay_job_duration_seconds_count", action="console_open")
    assert after == (seconds or 0) + 1


def test_requests_of_strangers_make_one_series() -> None:
    for number in range(50):
        count_request(f"BREW{number}", None, 404, 0.1)
    text = service_text().decode()
    assert 'method="other",route="other",status="404"' in text
    assert "BREW" not in text


def test_the_service_says_what_it_is() -> None:
    text = service_text().decode()
    assert re.search(r'^virtplay_build_info\{python="3[.\d]+",version="[\d.]+"\} 1', text, re.M)
    assert re.search(r"^process_cpu_seconds_total \d", text, re.M)
    assert "_created" not in text


async def test_what_holds_the_event_loop_is_measured() -> None:
    def late() -> float:
        series = parsed(service_text())
        name = "virtplay_event_loop_lag_seconds_bucket"
        return series[name, frozenset({("le", "+Inf")})] - series[name, frozenset({("le", "0.1")})]

    before = late()
    watching = asyncio.create_task(watch_loop())
    await asyncio.sleep(0)
    time.sleep(LAG_SECONDS + 0.15)  # noqa: ASYNC251 - this is what holds the loop
    await asyncio.sleep(LAG_SECONDS)
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching
    assert late() == before + 1


def test_labels_of_any_text_are_read_as_they_were() -> None:
    name = 'a "b" \\ c\nd\\n é'
    series = taken(sample_info(), name)
    found = [dict(labels)["name"] for metric, labels in series if metric == "libvirt_domain_info"]
    assert found == [name]
