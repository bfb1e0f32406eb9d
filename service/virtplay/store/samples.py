"""Store: samples of VMs' usage, in three resolutions.

Plain tables and SQL: samples are a hundred times as frequent as other rows, and Tortoise has no
composite primary keys. All values are integers, which SQLite stores in as few bytes as they need:
percentages in hundredths, memory in KiB, rates in bytes a second.
"""

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, fields
from enum import IntEnum
from operator import attrgetter
from typing import Any, cast

from tortoise import Tortoise

from virtplay.store.database import is_sqlite, transaction
from virtplay.store.models import Vm

CHUNK = 200
"""VMs in one statement; it holds SQLite's only connection, for which others wait."""


class Resolution(IntEnum):
    """Seconds between two samples; RAW is one sample for each observation of the host."""

    RAW = 0
    FIVE_MINUTES = 300
    HOUR = 3600


TABLES = {
    Resolution.RAW: "sample_raw",
    Resolution.FIVE_MINUTES: "sample_5m",
    Resolution.HOUR: "sample_1h",
}


@dataclass(frozen=True)
class Sample:
    """The usage of a VM at one moment, or its average over a span; None where unknown."""

    at: int
    """Seconds since the epoch; for an average, the start of its span."""
    cpu: int | None = None
    """Hundredths of a percent of all vCPUs of the VM."""
    memory_used: int | None = None
    """KiB."""
    memory_total: int | None = None
    disk_usage: int | None = None
    """Hundredths of a percent."""
    disk_read: int | None = None
    """Bytes a second, like the fields below."""
    disk_write: int | None = None
    network_rx: int | None = None
    network_tx: int | None = None


COLUMNS = tuple(field.name for field in fields(Sample))
VALUES = COLUMNS[1:]
_VALUES_OF = attrgetter(*COLUMNS)
AVERAGES = ", ".join(f"CAST(round(avg(s.{name})) AS BIGINT)" for name in VALUES)
REPLACE = ", ".join(f"{name} = excluded.{name}" for name in VALUES)


def _marks(count: int) -> list[str]:
    return ["?"] * count if is_sqlite() else [f"${n}" for n in range(1, count + 1)]


async def write_samples(samples: Iterable[tuple[int, Sample]]) -> None:
    """Insert raw samples as (VM number, sample); replace an earlier one of the same moment."""
    rows: list[list[Any]] = [[vm_id, *_VALUES_OF(sample)] for vm_id, sample in samples]
    if rows:
        marks = ", ".join(_marks(len(COLUMNS) + 1))
        await Tortoise.get_connection("default").execute_many(
            f"INSERT INTO sample_raw (vm_id, {', '.join(COLUMNS)}) VALUES ({marks})"  # noqa: S608
            f" ON CONFLICT (vm_id, at) DO UPDATE SET {REPLACE}",
            rows,
        )


async def read_samples(
    vm_id: int, resolution: Resolution, since: int, until: int, step: int
) -> list[Sample]:
    """Return averages over spans of `step` seconds in [since, until); empty spans are absent."""
    vm, start, end = _marks(3)
    _, rows = await Tortoise.get_connection("default").execute_query(
        f"SELECT s.at - s.at % {step} AS span, {AVERAGES} FROM {TABLES[resolution]} s"  # noqa: S608
        f" WHERE s.vm_id = {vm} AND s.at >= {start} AND s.at < {end} GROUP BY 1 ORDER BY 1",
        [vm_id, since, until],
    )
    return [Sample(*tuple(row)) for row in rows]


async def rolled_until(resolution: Resolution) -> int:
    """Return the end of the last roll-up into that resolution, in epoch seconds; 0 before it."""
    (mark,) = _marks(1)
    _, rows = await Tortoise.get_connection("default").execute_query(
        f"SELECT until FROM sample_rollup WHERE step = {mark}",  # noqa: S608
        [int(resolution)],
    )
    return int(rows[0]["until"]) if rows else 0


async def roll_up(source: Resolution, target: Resolution, since: int, until: int) -> None:
    """Average the samples of `source` in [since, until) into samples of `target`.

    A repeated roll-up does no harm, so `until` is stored only at the end.
    """
    step = int(target)
    async for ids in _batches():
        one, other, start, end = _marks(4)
        async with transaction():
            await Tortoise.get_connection("default").execute_query(
                f"INSERT INTO {TABLES[target]} (vm_id, {', '.join(COLUMNS)})"  # noqa: S608
                f" SELECT s.vm_id, s.at - s.at % {step}, {AVERAGES}"
                f" FROM vm JOIN {TABLES[source]} s ON s.vm_id = vm.id"
                f" WHERE vm.id >= {one} AND vm.id <= {other}"
                f" AND s.at >= {start} AND s.at < {end} GROUP BY 1, 2"
                f" ON CONFLICT (vm_id, at) DO UPDATE SET {REPLACE}",
                [ids[0], ids[-1], since, until],
            )
    marks = _marks(2)
    await Tortoise.get_connection("default").execute_query(
        f"INSERT INTO sample_rollup (step, until) VALUES ({marks[0]}, {marks[1]})"  # noqa: S608
        " ON CONFLICT (step) DO UPDATE SET until = excluded.until",
        [step, until],
    )


async def forget_samples(resolution: Resolution, before: int) -> None:
    """Delete the samples of every VM that are older than `before`."""
    number, moment = _marks(2)
    async for ids in _batches():
        await Tortoise.get_connection("default").execute_many(
            f"DELETE FROM {TABLES[resolution]} WHERE vm_id = {number} AND at < {moment}",  # noqa: S608
            [[vm_id, before] for vm_id in ids],
        )


async def forget_vm_samples(vm_id: int) -> None:
    """Delete every sample of one VM, inside the caller's transaction."""
    (mark,) = _marks(1)
    for table in TABLES.values():
        await Tortoise.get_connection("default").execute_query(
            f"DELETE FROM {table} WHERE vm_id = {mark}",  # noqa: S608
            [vm_id],
        )


async def _batches() -> AsyncIterator[list[int]]:
    """Yield the numbers of all VMs in order, up to CHUNK at a time."""
    last = 0
    while (
        ids := await Vm.filter(id__gt=last).order_by("id").limit(CHUNK).values_list("id", flat=True)
    ):
        yield cast("list[int]", ids)
        last = cast("int", ids[-1])
