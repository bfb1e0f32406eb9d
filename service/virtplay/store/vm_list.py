"""Store: pages of VMs, with filters, search and order, each served by an index at any size."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any
from uuid import UUID

from virtplay.states import VmStatus
from virtplay.store.database import is_sqlite, moment_of, select
from virtplay.store.vm_index import SHORTEST, label_of
from virtplay.texts import fold

SORTS = {
    "id": "id",
    "name": "name",
    "status": "status",
    "host": "host",
    "cpu": "cpu",
    "memory": "memory",
    "disk": "disk",
    "createdAt": "created_at",
    "updatedAt": "updated_at",
}
LAST_CHARACTER = "\U0010ffff"
UUID_BEGINNING = re.compile(r"[0-9a-f]{4,32}")
"""Shorter texts are found in names and addresses only."""


@dataclass(slots=True)
class ListedVm:
    """What the list shows of a VM, under the names of `Vm`."""

    ref: str
    uuid: str
    name: str
    description: str
    host: str | None
    domain: str | None
    status: VmStatus
    state_reason: str | None
    error: Any
    template: str
    os: str
    cpu: int
    memory: int
    disk: int
    network: Any
    ip: str | None
    addresses: Any
    auto_start: bool
    managed: bool | None
    labels: Any
    pending: Any
    started_at: datetime | None
    observed_at: datetime | None
    created_at: datetime
    updated_at: datetime


LISTED = tuple(each.name for each in fields(ListedVm))
DOCUMENTS = ("error", "network", "addresses", "labels", "pending")
MOMENTS = ("started_at", "observed_at", "created_at", "updated_at")


VmRow = tuple[Any, ...]
"""The columns LISTED of a VM, as `select` reads them. It is hashable: equal rows, equal VMs."""


def listed(row: VmRow) -> ListedVm:
    """Return the VM of a row."""
    values = dict(zip(LISTED, row, strict=True))
    for name in DOCUMENTS:
        if values[name] is not None:
            values[name] = json.loads(values[name])
    for name in MOMENTS:
        values[name] = moment_of(values[name])
    values["uuid"] = str(values["uuid"])
    values["status"] = VmStatus(values["status"])
    values["auto_start"] = bool(values["auto_start"])
    if values["managed"] is not None:
        values["managed"] = bool(values["managed"])
    return ListedVm(**values)


@dataclass
class _Matches:
    """The VMs that match: SQL for where their numbers are found, and the values of its marks."""

    source: str = "vm v"
    number: str = "v.id"
    """The column of `source` that has the VMs' numbers."""
    conditions: list[str] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)

    def mark(self, value: Any) -> str:
        """Return the mark of one more value."""
        self.values.append(value)
        return f"?{len(self.values)}"

    def add_rows(self) -> None:
        """Add the VMs' rows to a source without them."""
        if not self.source.endswith("vm v"):
            # SQLite reads the tables of a CROSS JOIN in their order.
            self.source += " CROSS JOIN vm v"
            self.conditions.append(f"v.id = {self.number}")

    def select(self, what: str) -> str:
        """Return a query for something of the matches, without order."""
        where = " WHERE " + " AND ".join(self.conditions) if self.conditions else ""
        return f"SELECT {what} FROM {self.source}{where}"  # noqa: S608


async def numbers_with_label(label: str, most: int) -> list[int]:
    """Return the numbers of the first VMs with a label, `key` or `key=value`; at most `most`."""
    found = _Matches("vm_label l", "l.vm_id")
    found.conditions.append(f"l.label = {found.mark(label_of(label))}")
    query = f"{found.select('l.vm_id')} ORDER BY l.vm_id LIMIT {most:d}"
    return [number for (number,) in await select(query, found.values)]


async def page_vms(
    *,
    page: int,
    limit: int,
    status: VmStatus | None = None,
    search: str | None = None,
    host: str | None = None,
    label: str | None = None,
    sort: str = "id",
) -> tuple[list[VmRow], int]:
    """Return one page of VMs, and the number of all matching VMs.

    VMs that are equal in the field that sorts them follow by number; a descending order is exactly
    the ascending one from its end.
    """
    matches = _Matches()
    text = fold(search or "")
    if text and not await _search(matches, text):
        return [], 0
    if label is not None:
        _filter_label(matches, label)
    filters = {"status": status, "host": host}
    filters = {column: value for column, value in filters.items() if value is not None}
    counted = matches == _Matches()
    if not counted and filters:
        matches.add_rows()
    total = await _count_vms(filters) if counted else -1
    column = SORTS[sort.removeprefix("-")]
    first = (page - 1) * limit
    plus = ""
    if counted and filters and column != "id" and is_sqlite():
        # Few rows are sorted, and of many the index of the order is read until the page is full;
        # a plus keeps SQLite, which does not know how many there are, from the filter's index.
        everything = await _count_vms({})
        plus = "+" if (first + limit) * everything < total * total else ""
    for name, value in filters.items():
        matches.conditions.append(f"{plus}v.{name} = {matches.mark(value)}")
    if not counted:
        total = await _number(matches, "COUNT(*)")
    descending = sort.startswith("-")
    count = min(limit, total - first)
    if count <= 0:
        return [], total
    backwards = first > total // 2
    if backwards:
        first = total - first - count
    if column != "id":
        matches.add_rows()
    direction = " DESC" if descending != backwards else ""
    order = f"{matches.number}{direction}"
    if column != "id":
        order = f"v.{column}{direction}, v.id{direction}"
    numbers = matches.select(matches.number)
    numbers += f" ORDER BY {order} LIMIT {count} OFFSET {matches.mark(first)}"
    rows = await select(
        f"SELECT {', '.join(LISTED)} FROM vm WHERE id IN ({numbers})"  # noqa: S608
        f" ORDER BY {column}{' DESC' * descending}, id{' DESC' * descending}",
        matches.values,
    )
    return rows, total


async def _search(matches: _Matches, text: str) -> bool:
    """Restrict the matches, as the first, to VMs with that folded text; return False if none can.

    SQLite's index has each three successive characters: of a shorter text, all that begin with it.
    """
    if not is_sqlite():
        like = "".join(f"\\{char}" if char in "%_\\" else char for char in text)
        found = f"SELECT id FROM vm WHERE search_text LIKE {matches.mark(f'%{like}%')}"  # noqa: S608
        # A subquery with an OFFSET is planned by itself: else PostgreSQL may read all VMs in their
        # order, in the hope that the page is full soon.
        matches.source, matches.number = f"({found}{_of_uuid(matches, text)} OFFSET 0) s", "s.id"
        return True
    parts = [text]
    if len(text) < SHORTEST:
        terms = "SELECT term FROM vm_search_terms WHERE term >= ?1 AND term < ?2"
        parts = [term for (term,) in await select(terms, [text, text + LAST_CHARACTER])]
    quoted = ['"' + part.replace('"', '""') + '"' for part in parts]
    matches.source, matches.number = "vm_search s", "s.rowid"
    matches.conditions.append(f"s.vm_search MATCH {matches.mark(' OR '.join(quoted))}")
    if more := _of_uuid(matches, text):
        matches.source, matches.number = f"({matches.select('rowid AS id')}{more}) s", "s.id"
        matches.conditions.clear()
    return bool(parts)


def _of_uuid(matches: _Matches, text: str) -> str:
    """Return a UNION with the VMs whose UUID begins with a folded text; empty if none can.

    UUIDs are not in the texts: words such as "db" would be found in many of them.
    """
    digits = text.replace("-", "")
    if not UUID_BEGINNING.fullmatch(digits):
        return ""
    first, last = (str(UUID(digits.ljust(32, digit))) for digit in "0f")
    if not first.startswith(text) and digits != text:
        return ""
    between = f"{matches.mark(first)} AND {matches.mark(last)}"
    return f" UNION SELECT id FROM vm WHERE uuid BETWEEN {between}"  # noqa: S608


def _filter_label(matches: _Matches, label: str) -> None:
    """Restrict the matches to VMs with a label `key`, or `key=value`."""
    same = f"label = {matches.mark(label_of(label))}"
    if matches.source == "vm v":
        matches.source, matches.number = "vm_label l", "l.vm_id"
        matches.conditions.append(same)
    else:
        matches.conditions.append(
            f"EXISTS (SELECT 1 FROM vm_label WHERE {same} AND vm_id = {matches.number})"  # noqa: S608
        )


async def _count_vms(filters: Mapping[str, Any]) -> int:
    """Return the number of VMs with these columns, which may be host and status."""
    counts = _Matches("vm_count")
    counts.conditions += [f"{name} = {counts.mark(value)}" for name, value in filters.items()]
    return await _number(counts, "COALESCE(SUM(vms), 0)")


async def count_by_status() -> dict[str, int]:
    """Return status → number of VMs."""
    rows = await select("SELECT status, SUM(vms) FROM vm_count GROUP BY status")
    return {status: int(number) for status, number in rows}


async def _number(matches: _Matches, what: str) -> int:
    [(number,)] = await select(matches.select(what), matches.values)
    return int(number)
