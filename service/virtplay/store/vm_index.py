"""Store: what the list of VMs is served from: texts of searches, rows of labels, counts.

This file computes the two texts of a VM's row; triggers of the database follow them, and keep the
counts (migration 0012).
"""

import json
import logging
from collections.abc import Mapping
from typing import Any
from unicodedata import normalize

from tortoise import Tortoise
from tortoise.exceptions import BaseORMException

from virtplay.store.database import DatabaseAway, is_sqlite, transaction
from virtplay.store.models import Vm
from virtplay.texts import fold

log = logging.getLogger("virtplay.store.vm_index")

INDEX_VERSION = 2
"""Raise it with every change of the texts: the next start writes those of all VMs anew."""
BATCH = 500
LABEL_MAX = 640
"""Characters of a label that are compared; PostgreSQL's indexes hold no more in UTF-8."""
SUMS = "host, status, SUM(vms) AS vms"
SPARE_COUNTS = 1000
"""So many rows of changes cost nothing to add up."""
SHORTEST = 3
"""The characters of each entry in SQLite's index of searches; shorter texts begin entries."""


def search_text_of(vm: Mapping[str, Any]) -> str:
    """Return the folded id, name, domain, OS and addresses of a VM, given by its columns.

    The line feeds at the end let each of its characters be followed by two more.
    """
    columns = ("ref", "name", "domain", "os", "ip")
    parts = dict.fromkeys((*(vm[key] for key in columns), *(a["ip"] for a in vm["addresses"])))
    return "\n".join(fold(part) for part in parts if part) + "\n" * (SHORTEST - 1)


def label_text_of(labels: Mapping[str, str]) -> str:
    """Return what filters may ask for, `key` and `key=value` of each label, as a JSON array."""
    lines = {label_of(f"{key}={value}") for key, value in labels.items()}
    return json.dumps(sorted(lines | {line.partition("=")[0] for line in lines}))


def label_of(text: str) -> str:
    """Return `key` or `key=value` as they are compared."""
    return normalize("NFC", text)[:LABEL_MAX]


def index_texts(vm: Vm) -> None:
    """Update the columns that searches and label filters read."""
    vm.search_text = search_text_of(vars(vm))
    vm.label_text = label_text_of(vm.labels)


async def renew_index() -> None:
    """Write the texts of all VMs if another version of the service has written them.

    On PostgreSQL also create the index of searches, unless it exists.
    """
    if not is_sqlite():
        await _index_searches()
    database = Tortoise.get_connection("default")
    rows = await database.execute_query_dict("SELECT version FROM vm_index_version")
    if [row["version"] for row in rows] == [INDEX_VERSION]:
        return
    last = 0
    while vms := await Vm.filter(id__gt=last).order_by("id").limit(BATCH):
        async with transaction():
            for vm in vms:
                before = vm.search_text, vm.label_text
                index_texts(vm)
                if (vm.search_text, vm.label_text) != before:
                    await vm.save(update_fields=["search_text", "label_text"])
        last = vms[-1].id
    async with transaction():
        database = Tortoise.get_connection("default")
        await database.execute_query("DELETE FROM vm_index_version")
        await database.execute_query(f"INSERT INTO vm_index_version VALUES ({INDEX_VERSION})")  # noqa: S608


async def _index_searches() -> None:
    """Create PostgreSQL's index of searches; without its extension, each search reads every VM."""
    database = Tortoise.get_connection("default")
    try:
        await database.execute_query("CREATE EXTENSION IF NOT EXISTS pg_trgm")
        await database.execute_query(
            "CREATE INDEX IF NOT EXISTS vms_by_text ON vm USING gin (search_text gin_trgm_ops)"
        )
    except DatabaseAway:
        raise
    except BaseORMException as error:
        log.warning(
            "cannot index searches, each will read every VM: %s; install PostgreSQL's contrib"
            " modules and run CREATE EXTENSION pg_trgm in the database",
            error,
        )


async def compact_counts() -> None:
    """Replace the rows of the counts of VMs by one for each host and status, if they are many."""
    database = Tortoise.get_connection("default")
    [rows] = await database.execute_query_dict(
        "SELECT COUNT(*) AS now, COUNT(DISTINCT host || status) AS needed FROM vm_count"
    )
    if rows["now"] < 2 * rows["needed"] + SPARE_COUNTS:
        return
    if not is_sqlite():
        # One statement, so that it deletes exactly what it adds up.
        await database.execute_query(
            "WITH gone AS (DELETE FROM vm_count RETURNING host, status, vms) INSERT INTO vm_count"  # noqa: S608
            f" SELECT {SUMS} FROM gone GROUP BY host, status"
        )
        return
    async with transaction():
        database = Tortoise.get_connection("default")
        sums = await database.execute_query_dict(
            f"SELECT {SUMS} FROM vm_count GROUP BY host, status"  # noqa: S608
        )
        await database.execute_query("DELETE FROM vm_count")
        await database.execute_many(
            "INSERT INTO vm_count VALUES (?, ?, ?)", [list(row.values()) for row in sums]
        )
