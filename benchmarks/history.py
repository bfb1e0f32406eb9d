"""Benchmarks: the usage history of one VM, out of a month of samples of a thousand."""

import asyncio
import random
import sqlite3
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from benchmarks.measuring import NEVER, NOWHERE, Figure, medians, p99, serving

VMS = 1000
QUERIES = 200
DAY = 86_400


def bench(*, quick: bool) -> Iterator[Figure]:
    """History of 24 h at 1m from the API, over samples of 30 days."""
    vms = 20 if quick else VMS
    draw = random.Random(1)  # noqa: S311 - no secret
    took: list[float] = []
    points = 0
    with serving(NOWHERE, NEVER, prepare=lambda state: asyncio.run(fill(state, vms))) as service:
        for _ in range(QUERIES):
            # A little less than the raw samples' retention, so that they are what is read.
            since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - DAY + 120))
            vm = f"vm-{draw.randrange(1, vms + 1):03d}"
            began = time.perf_counter()
            metrics = service.get(f"/vms/{vm}/metrics?from={since}&history=all")
            took.append(time.perf_counter() - began)
            points = len(metrics["cpu"]["history"])
        size = (service.state / "virtplay.sqlite3").stat().st_size
    yield {
        "bench": "history",
        "vms": vms,
        "database_mb": round(size / 1e6),
        "points": points,
        **medians(query=took),
        "query_p99_s": round(p99(took), 4),
        "runs": len(took),
    }


async def fill(state: Path, vms: int) -> None:
    """Make a database with VMs and 30 days of samples as the observations would have left them."""
    from virtplay.states import VmStatus  # noqa: PLC0415
    from virtplay.store.database import close_database, open_database, transaction  # noqa: PLC0415
    from virtplay.store.vms import create_vm  # noqa: PLC0415

    file = state / "virtplay.sqlite3"
    await open_database(f"sqlite://{file}")
    async with transaction():
        for number in range(1, vms + 1):
            _ = await create_vm(
                uuid=uuid.uuid4(), name=f"bench {number}", status=VmStatus.RUNNING, cpu=2,
                memory=2048, disk=20, provisioned=True,
            )  # fmt: skip
    await close_database()
    now = int(time.time())
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("PRAGMA synchronous = OFF")
        for table, step, days in (
            ("sample_raw", 15, 1),
            ("sample_5m", 300, 30),
            ("sample_1h", 3600, 30),
        ):
            end = now - now % step
            database.execute(
                "WITH RECURSIVE moment(at) AS (SELECT ? UNION ALL SELECT at + ? FROM moment"  # noqa: S608
                " WHERE at + ? <= ?)"
                f" INSERT INTO {table} SELECT vm.id, at, abs(random()) % 10000,"
                " 200000 + abs(random()) % 1800000, 2097152, 2300 + abs(random()) % 100,"
                " abs(random()) % 1000000, abs(random()) % 1000000, abs(random()) % 200000,"
                " abs(random()) % 200000 FROM vm CROSS JOIN moment ORDER BY vm.id, at",
                (end - days * DAY, step, step, end),
            )
        for step in (300, 3600):
            database.execute(
                "INSERT INTO sample_rollup (step, until) VALUES (?, ?)", (step, now - now % step)
            )
