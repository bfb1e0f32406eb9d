"""Store: saves the database in one file while it is used, and loads such a file.

The file is an SQLite database, whatever the service uses: SQLite copies itself, and the rows of
PostgreSQL are read in one transaction. So it needs no program of PostgreSQL, is brought to the
present schema by the same migrations as any SQLite database, and can be loaded into either kind.
"""

import asyncio
import contextlib
import os
import secrets
import shutil
import sqlite3
import stat
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg  # type: ignore[import-untyped]
from tortoise.migrations.api.migrate import migrate

from virtplay import __version__
from virtplay.errors import CannotCopy, CannotStart
from virtplay.files import exists
from virtplay.store.database import (
    BUSY_TIMEOUT_MS,
    DatabaseAway,
    DatabaseError,
    close_database,
    known_migrations,
    make_private,
    open_database,
    place_of,
    tortoise_config,
)
from virtplay.store.postgres import PostgresClient

ROWS_AT_ONCE = 5000
MARK = "virtplay_backup"
"""The table that only a backup has: when it was made, and by which version."""
SCHEMA = "tortoise_migrations"
DERIVED = ("vm_count", "vm_label", "vm_search")
"""What triggers write, and the beginning of the names of what belongs to the search."""
OWN_ACCORD = ("host", "vm_index_version", "sample_rollup", "audit")
"""Tables in which a service that has only been started has rows."""
NAMES = {"vm": "VM", "job": "job", "token": "token", "snapshot": "snapshot"}
FAULTS = (OSError, sqlite3.Error, asyncpg.PostgresError, asyncpg.InterfaceError, DatabaseError)


@dataclass(frozen=True)
class Contents:
    """What a database or a backup contains."""

    rows: Mapping[str, int] = field(default_factory=dict)
    """Table → number of its rows."""
    made_at: str = ""
    """The time of a backup, in UTC; empty for other files."""

    @property
    def is_empty(self) -> bool:
        """Whether nobody has used the database yet."""
        return not any(count for name, count in self.rows.items() if name not in OWN_ACCORD)

    def __str__(self) -> str:
        counts = {name: self.rows.get(table, 0) for table, name in NAMES.items()}
        return ", ".join(f"{count} {name}{'s' * (count != 1)}" for name, count in counts.items())


async def save_backup(url: str, file: Path) -> Contents:
    """Save the database at `url` in `file`, which appears when it is complete, with mode 0600.

    The service may use the database meanwhile. The schema stays as it is, also that of an earlier
    version. Raise CannotCopy.
    """
    place = _file_of(url)
    try:
        _refuse_other_file(file, url)
        with _new_file(file) as new:
            if place is not None:
                await asyncio.to_thread(_save_sqlite, place, new)
            else:
                await _save_postgres(url, new)
            with closing(sqlite3.connect(new)) as copy:
                copy.execute(f"CREATE TABLE {MARK} (made_at TEXT, version TEXT)")
                made_at = datetime.now(UTC).isoformat(" ", "seconds")
                copy.execute(f"INSERT INTO {MARK} VALUES (?, ?)", [made_at, __version__])  # noqa: S608
                copy.commit()
                return _contents(copy)
    except FAULTS as error:
        raise CannotCopy(
            f"cannot save the database {place_of(url)} in {file}: {_reason(error)}"
        ) from error


async def applied_migrations(url: str) -> set[str]:
    """Return the migrations that the database at `url` has had; none if it is new.

    Raise CannotStart if it cannot be read.
    """

    def read(file: Path) -> set[str]:
        if not exists(file):
            return set()
        with closing(_open(file, "rw")) as opened:
            return set(_applied(opened)) if _has(opened, SCHEMA) else set()

    place = _file_of(url)
    try:
        if place is not None:
            return await asyncio.to_thread(read, place)
        async with _connected(url) as source:
            return {row[0] for row in await source.fetch(f"SELECT name FROM {SCHEMA}")}  # noqa: S608
    except asyncpg.UndefinedTableError:
        return set()
    except FAULTS as error:
        raise CannotStart(
            f"cannot open the database at {place_of(url)}: {_reason(error)}"
        ) from error


async def unpack_backup(file: Path, copy: Path) -> Contents:
    """Copy a backup, or an SQLite database of the service, to `copy`, with the present schema.

    Raise CannotCopy if it is neither, damaged, or of a later version.
    """
    try:
        await asyncio.to_thread(_copy, file, copy)
        with closing(sqlite3.connect(copy)) as opened:
            contents = _contents(opened)
            damage = opened.execute("PRAGMA quick_check(1)").fetchone()[0]
            applied = _applied(opened)
            opened.execute(f"DROP TABLE IF EXISTS {MARK}")
            opened.commit()
    except sqlite3.DatabaseError as error:
        raise CannotCopy(f"cannot read {file}: it is no backup of Virtplay ({error})") from error
    except OSError as error:
        raise CannotCopy(f"cannot read {file}: {_reason(error)}") from error
    if damage != "ok":
        raise CannotCopy(f"cannot read {file}: it is damaged ({damage}); use another backup")
    _check_schema(applied, f"cannot restore {file}")
    try:
        await open_database(f"sqlite://{copy}")
    except CannotStart as error:
        raise CannotCopy(f"cannot restore {file}: {_reason(error)}") from error
    await close_database()
    return contents


def check_source(file: Path, url: str) -> None:
    """Raise CannotCopy if a file to restore cannot be read, or is the database at `url`."""
    try:
        _refuse_pipe(file)
        file.open("rb").close()
        is_database = _is_database(file, url)
    except OSError as error:
        raise CannotCopy(f"cannot read {error.filename}: {_reason(error)}") from error
    if is_database:
        raise CannotCopy(f"cannot restore {file}: it is the database itself; name a backup of it")


def _is_database(file: Path, url: str) -> bool:
    place = _file_of(url)
    return place is not None and exists(place) and exists(file) and file.samefile(place)


def _copy(file: Path, copy: Path) -> None:
    file = Path(os.path.realpath(file))  # its -wal is beside it, not beside a link
    if Path(f"{file}-wal").exists():  # a database that is open, or was not closed
        with closing(_open(file, "ro")) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
    else:
        shutil.copyfile(file, copy)
        _check_length(copy, file)


def _refuse_pipe(file: Path) -> None:
    """Raise CannotCopy for what can be read only once, or without end."""
    try:
        mode = file.stat().st_mode
        special = not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
    except FileNotFoundError:
        # sudo closes the pipe of <(command).
        special = file.is_relative_to("/dev/fd") or file == Path("/dev/stdin")
    if special:
        raise CannotCopy(
            f"cannot read {file}: it is a pipe or a device; write the backup into a file first"
        )


def _check_length(copy: Path, file: Path) -> None:
    """Raise CannotCopy if the copy of `file` is shorter than its header says.

    SQLite reads what is missing of the last page as zeros, and its checks find nothing.
    """
    with copy.open("rb") as opened:
        header = opened.read(32)
        size = opened.seek(0, os.SEEK_END)
    page = int.from_bytes(header[16:18], "big")
    whole = (65536 if page == 1 else page) * int.from_bytes(header[28:32], "big")
    if header.startswith(b"SQLite format 3\0") and size < whole:
        raise CannotCopy(
            f"cannot read {file}: it is damaged ({size} of {whole} bytes are there); use another"
            " backup"
        )


async def load_backup(copy: Path, url: str, *, replace: bool) -> None:
    """Replace what is in the database at `url` by an unpacked backup, in one transaction.

    Raise CannotCopy if the database is not empty, unless `replace`, or cannot be written.
    """
    place = _file_of(url)
    try:
        if place is not None:
            await asyncio.to_thread(_load_sqlite, copy, place, replace)
        else:
            await open_database(url)
            await close_database()
            await _load_postgres(copy, url, replace)
    except (*FAULTS, CannotStart) as error:
        raise CannotCopy(
            f"cannot restore the database {place_of(url)}: {_reason(error)}"
        ) from error


def _file_of(url: str) -> Path | None:
    """Return the file of an SQLite database; None for PostgreSQL."""
    return Path(url.removeprefix("sqlite://")) if url.startswith("sqlite://") else None


def _reason(error: BaseException) -> str:
    """Return why a copy failed, without the name of the temporary file."""
    if isinstance(error, CannotStart) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, DatabaseAway):
        return error.reason
    return (isinstance(error, OSError) and error.strerror) or str(error)


def _refuse_other_file(file: Path, url: str) -> None:
    """Raise CannotCopy if the file exists and is no backup that this one may replace."""
    if not exists(file):
        return
    what = "exists and is no backup"
    if _is_database(file, url):
        what = "is the database itself"
    elif file.is_file():  # not, say, a pipe, which SQLite would wait for
        with contextlib.suppress(sqlite3.Error), closing(_open(file, "ro")) as opened:
            if opened.execute(f"SELECT count(*) FROM {MARK}").fetchone()[0]:  # noqa: S608
                return
    raise CannotCopy(f"cannot save a backup in {file}: it {what}; choose another name")


@contextlib.contextmanager
def _new_file(file: Path) -> Iterator[Path]:
    """Yield an empty file beside `file`, mode 0600, which is `file` after the block.

    If `file` is a link, the new file takes the place of its target.
    """
    file = Path(os.path.realpath(file))
    new = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    os.close(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    try:
        new.chmod(0o600)  # whatever the umask is
        yield new
        _synchronise(new)
        new.replace(file)
        _synchronise(file.absolute().parent)
    finally:
        for name in (new, Path(f"{new}-wal"), Path(f"{new}-shm"), Path(f"{new}-journal")):
            name.unlink(missing_ok=True)


def _synchronise(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _open(path: Path, mode: str) -> sqlite3.Connection:
    """Open an SQLite file that must exist."""
    address = f"file:{quote(str(path.absolute()))}?mode={mode}"
    return sqlite3.connect(address, uri=True, timeout=BUSY_TIMEOUT_MS / 1000)


def _save_sqlite(database: Path, new: Path) -> None:
    if not exists(database):
        raise FileNotFoundError("there is no such file")
    with closing(_open(database, "rw")) as source, closing(sqlite3.connect(new)) as copy:
        source.backup(copy)  # all pages in one read transaction
        _check_schema(_applied(copy), f"cannot back up {database}")
        copy.execute("PRAGMA journal_mode = DELETE")  # the file is complete without a -wal file


async def _save_postgres(url: str, new: Path) -> None:
    async with (
        _connected(url) as source,
        source.transaction(isolation="repeatable_read", readonly=True),
    ):
        applied = [row[0] for row in await source.fetch(f"SELECT name FROM {SCHEMA}")]  # noqa: S608
        _check_schema(applied, f"cannot back up {place_of(url)}")
        await migrate(config=tortoise_config(f"sqlite://{new}"), target=f"virtplay.{max(applied)}")
        await close_database()
        with closing(sqlite3.connect(new)) as copy:
            copy.execute("PRAGMA journal_mode = DELETE")
            for table in _tables(copy):
                await _save_rows(source, copy, table)
            numbers = await source.fetch(
                "SELECT sequencename::text, last_value FROM pg_sequences"
                " WHERE schemaname = current_schema() AND last_value IS NOT NULL"
                " AND sequencename <> $1",
                f"{SCHEMA}_id_seq",
            )
            copy.execute("DELETE FROM sqlite_sequence WHERE name <> ?", [SCHEMA])
            copy.executemany(
                "INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)",
                [(name.removesuffix("_id_seq"), number) for name, number in numbers],
            )
            copy.commit()


async def _save_rows(source: Any, copy: sqlite3.Connection, table: str) -> None:
    names = _columns(copy, table)
    listed = ", ".join(f'"{name}"' for name in names)
    marks = ", ".join("?" * len(names))
    copy.execute(f"DELETE FROM {table}")  # noqa: S608 - a migration may have written a row
    rows: list[list[Any]] = []
    async for row in source.cursor(f'SELECT {listed} FROM "{table}"', prefetch=ROWS_AT_ONCE):  # noqa: S608
        rows.append([_as_sqlite(value) for value in row])
        if len(rows) == ROWS_AT_ONCE:
            copy.executemany(f"INSERT INTO {table} ({listed}) VALUES ({marks})", rows)  # noqa: S608
            rows.clear()
    copy.executemany(f"INSERT INTO {table} ({listed}) VALUES ({marks})", rows)  # noqa: S608


def _as_sqlite(value: Any) -> Any:
    """Return a value of PostgreSQL as Tortoise writes it into SQLite; JSON is a text in both."""
    if isinstance(value, datetime):
        return value.isoformat(" ")
    return str(value) if isinstance(value, uuid.UUID) else value


FROM_SQLITE: dict[str, Callable[[Any], Any]] = {
    "uuid": uuid.UUID,
    "timestamp with time zone": datetime.fromisoformat,
    "boolean": bool,
}
"""PostgreSQL's type of a column → its value from that of SQLite; others are the same."""


def _load_sqlite(copy: Path, database: Path, replace: bool) -> None:
    make_private(database)
    with closing(_open(copy, "rw")) as source, closing(_open(database, "rw")) as target:
        if not replace:
            _refuse_filled(_contents(target), str(database))
        # One transaction: a reader sees the old database or the new one, and so does a crash.
        source.backup(target)


async def _load_postgres(copy: Path, url: str, replace: bool) -> None:
    with closing(_open(copy, "ro")) as source:
        async with _connected(url) as target, target.transaction():
            tables = _tables(source)
            # Nobody else may write between the look and the end.
            await target.execute(f"LOCK TABLE {', '.join(tables)} IN ACCESS EXCLUSIVE MODE")
            if not replace:
                rows = {
                    table: await target.fetchval(f"SELECT count(*) FROM {table}")  # noqa: S608
                    for table in tables
                }
                _refuse_filled(Contents(rows), place_of(url))
            derived = [name for name in ("vm_count", "vm_label") if name not in tables]
            await target.execute(f"TRUNCATE {', '.join([*tables, *derived])}")
            for table in tables:
                await _load_rows(source, target, table)
            numbers = source.execute(
                "SELECT name, max(seq) FROM sqlite_sequence WHERE name <> ? GROUP BY name", [SCHEMA]
            )
            for table, number in numbers:
                await target.execute(
                    f"SELECT setval('{table}_id_seq', greatest($1, 1), $1 > 0)",
                    number,
                )


async def _load_rows(source: sqlite3.Connection, target: Any, table: str) -> None:
    names = _columns(source, table)
    types = dict(
        await target.fetch(
            "SELECT column_name::text, data_type::text FROM information_schema.columns"
            " WHERE table_schema = current_schema() AND table_name = $1",
            table,
        )
    )
    convert = [FROM_SQLITE.get(types[name]) for name in names]
    listed = ", ".join(f'"{name}"' for name in names)
    cursor = source.execute(f"SELECT {listed} FROM {table}")  # noqa: S608
    while rows := cursor.fetchmany(ROWS_AT_ONCE):
        records = [
            [
                value if value is None or change is None else change(value)
                for value, change in zip(row, convert, strict=True)
            ]
            for row in rows
        ]
        await target.copy_records_to_table(table, records=records, columns=names)


@contextlib.asynccontextmanager
async def _connected(url: str) -> AsyncIterator[Any]:
    """Yield a connection of asyncpg, outside Tortoise's."""
    credentials = tortoise_config(url)["connections"]["default"]["credentials"]
    client = PostgresClient(**credentials, connection_name="backup")
    client.pool_minsize = client.pool_maxsize = 1
    try:
        await client.create_connection(with_db=True)
        assert client._pool is not None
        async with client._pool.acquire() as connection:
            yield connection
    finally:
        await client.close()


def _tables(opened: sqlite3.Connection) -> list[str]:
    """Return the tables whose rows are copied."""
    rows = opened.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
    left_out = ("sqlite_", SCHEMA, MARK, *DERIVED)
    return [name for (name,) in rows if not name.startswith(left_out)]


def _columns(opened: sqlite3.Connection, table: str) -> list[str]:
    return [row[1] for row in opened.execute(f'PRAGMA table_info("{table}")')]


def _contents(opened: sqlite3.Connection) -> Contents:
    rows = {
        table: opened.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # noqa: S608
        for table in _tables(opened)
    }
    made_at = ""
    with contextlib.suppress(sqlite3.OperationalError):
        made_at = opened.execute(f"SELECT made_at FROM {MARK}").fetchone()[0]  # noqa: S608
    return Contents(rows, made_at)


def _has(opened: sqlite3.Connection, table: str) -> bool:
    found = opened.execute("SELECT 1 FROM sqlite_master WHERE name = ?", [table])
    return found.fetchone() is not None


def _applied(opened: sqlite3.Connection) -> list[str]:
    """Return the names of the migrations of an SQLite database."""
    return [row[0] for row in opened.execute(f"SELECT name FROM {SCHEMA}")]  # noqa: S608


def _check_schema(applied: list[str], cannot: str) -> None:
    """Raise CannotCopy if a database has a schema that this version does not know."""
    if not applied:
        raise CannotCopy(f"{cannot}: it has no tables of Virtplay")
    if unknown := set(applied) - known_migrations():
        raise CannotCopy(
            f"{cannot}: a later version of Virtplay has written it ({max(unknown)});"
            f" upgrade this one, which is {__version__}"
        )


def _refuse_filled(contents: Contents, where: str) -> None:
    if not contents.is_empty:
        raise CannotCopy(
            f"cannot restore the database {where}: it is not empty ({contents}); back it up, then"
            " use --replace, which deletes what it contains"
        )
