"""Unit tests: what a VM used, from counters that begin anew now and then."""

from dataclasses import replace
from typing import Any

import pytest
from virtplay.metrics.rates import (
    Counters,
    Usage,
    disk_usage,
    measure,
    memory_of,
    rate,
    read_counters,
)

HOST = {"uuid": "host-1", "uptime_seconds": 1000.0}
DOMAIN: dict[str, Any] = {
    "uuid": "a",
    "vcpus": 2,
    "memory": 512,
    "started_at": "2026-01-01T00:00:00.000Z",
    "stats": {
        "cpu_time_ns": 5_000_000_000,
        "block": [{"read_bytes": 100, "write_bytes": 10}, {"read_bytes": 50, "write_bytes": 5}],
        "interface": [{"rx_bytes": 7, "tx_bytes": 8}],
        "balloon": {"available_bytes": 400 * 1024**2, "usable_bytes": 300 * 1024**2},
    },
    "disks": [{"allocation_bytes": 25, "capacity_bytes": 100}],
}
BEFORE = read_counters(HOST, DOMAIN)


def later(seconds: float, **values: Any) -> Counters:
    """The counters some seconds after BEFORE."""
    return replace(BEFORE, uptime=BEFORE.uptime + seconds, **values)


def test_counters_are_sums_over_disks_and_cards() -> None:
    assert (
        Counters(1000.0, ("host-1", "2026-01-01T00:00:00.000Z"), 5_000_000_000, 150, 15, 7, 8)
        == BEFORE
    )


def test_what_libvirt_does_not_give_is_unknown() -> None:
    bare = read_counters(HOST, {"uuid": "a", "stats": {"block": [{"capacity_bytes": 5}]}})
    assert (bare.cpu_ns, bare.disk_read, bare.network_rx) == (None, None, None)


def test_use_between_two_observations() -> None:
    after = later(
        10, cpu_ns=15_000_000_000, disk_read=1150, disk_write=15, network_rx=107, network_tx=9
    )
    use = measure(BEFORE, after, DOMAIN)
    assert use.cpu == pytest.approx(50)  # ten seconds of CPU in ten seconds on two vCPUs
    assert (use.disk_read, use.disk_write) == (100.0, 0.0)
    assert use.network_rx == 10.0
    assert use.network_tx == pytest.approx(0.1)


@pytest.mark.parametrize(
    "after",
    [
        later(10, run=("host-1", "2026-01-01T00:05:00.000Z")),  # it was restarted
        later(10, run=("host-2", BEFORE.run[1])),  # it was migrated
        later(-900),  # its host was booted
        later(0),
        later(7200),
    ],
)
def test_no_rate_across_a_reset(after: Counters) -> None:
    use = measure(BEFORE, replace(after, cpu_ns=10**12, disk_read=10**9), DOMAIN)
    assert (use.cpu, use.disk_read, use.network_rx) == (None, None, None)
    assert use.memory_used == 100 * 1024**2


def test_a_counter_that_fell_gives_no_rate_and_harms_no_other() -> None:
    use = measure(BEFORE, later(10, disk_read=5, disk_write=25), DOMAIN)
    assert use.disk_read is None
    assert use.disk_write == 1.0


@pytest.mark.parametrize(("before", "after"), [(None, 5), (5, None), (6, 5), (None, None)])
def test_rate_of_what_is_not_known(before: int | None, after: int | None) -> None:
    assert rate(before, after, 10) is None


def test_first_observation_has_no_rates() -> None:
    use = measure(None, BEFORE, DOMAIN)
    assert use == Usage(memory_used=100 * 1024**2, memory_total=512 * 1024**2, disk_usage=25.0)


def test_memory_without_balloon_statistics_is_not_known() -> None:
    assert memory_of({"memory": 512, "stats": {"balloon": {"rss_bytes": 5}}}) == (
        None,
        512 * 1024**2,
    )


def test_the_agents_file_systems_go_before_the_image() -> None:
    systems = [
        {"used_bytes": 30, "total_bytes": 40},
        {"used_bytes": 10, "total_bytes": 60},
    ]
    assert disk_usage({**DOMAIN, "filesystems": systems}) == 40.0
    assert disk_usage({**DOMAIN, "filesystems": []}) == 25.0
    assert disk_usage({"disks": []}) is None
    # A block device takes its whole size: it has no use of its own.
    device = {"target": "vdb", "capacity_bytes": 100}
    assert disk_usage({"disks": [device]}) is None
    file = {"target": "vda", "capacity_bytes": 40, "allocation_bytes": 10}
    assert disk_usage({"disks": [file, device]}) == 25.0
