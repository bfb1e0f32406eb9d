"""Role virtplay_service: saves the service's database to a file, or restores it from there.

Usage: database_copy.py save|restore FILE

The database is that of VIRTPLAY_DATABASE_URL, or the SQLite file in VIRTPLAY_STATE_DIR. No other
program may use it meanwhile. PostgreSQL requires pg_dump, pg_restore and psql of the server's
version or newer.
"""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

EMPTY = """DO $$
DECLARE found record;
BEGIN
  FOR found IN SELECT tablename AS name FROM pg_tables
               WHERE schemaname = current_schema() AND tableowner = current_user
  LOOP EXECUTE format('DROP TABLE %I CASCADE', found.name); END LOOP;
  FOR found IN SELECT oid::regprocedure AS name FROM pg_proc
               WHERE pronamespace = current_schema()::regnamespace
               AND proowner = current_user::regrole
               AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = pg_proc.oid AND deptype = 'e')
  LOOP EXECUTE format('DROP FUNCTION %s CASCADE', found.name); END LOOP;
END $$"""
"""Deletes the service's tables with their sequences, and the functions of their triggers.

Not the functions of an extension, which belongs to the administrator.
"""


def copy_sqlite(source, target):
    """Copy the database `source` to `target`, with the content of its write-ahead log."""
    if not source.exists():
        sys.exit(f"cannot copy the database {source}: it does not exist")
    with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(target)) as new:
        old.backup(new)


def postgres_environment(url):
    """Return the environment for libpq's programs; it hides the password from other users."""
    parts = urlsplit(url)
    query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
    given = {
        "PGHOST": parts.hostname or query.get("host"),
        "PGPORT": parts.port or query.get("port"),
        "PGUSER": unquote(parts.username or "") or query.get("user"),
        "PGPASSWORD": unquote(parts.password or "") or query.get("password"),
        "PGSSLMODE": query.get("ssl") or query.get("sslmode"),
        "PGDATABASE": unquote(parts.path.lstrip("/")),
    }
    return {**os.environ, **{key: str(value) for key, value in given.items() if value}}


def run(arguments, environment):
    """Run one of PostgreSQL's programs; end this program with a message if it fails."""
    try:
        subprocess.run(arguments, env=environment, check=True)
    except OSError as error:
        sys.exit(f"cannot copy the database: {arguments[0]}: {error.strerror}")
    except subprocess.CalledProcessError as error:
        sys.exit(f"cannot copy the database: {arguments[0]} failed with {error.returncode}")


def restore_postgres(file, environment):
    """Restore the database from `file` in one transaction: a failure leaves it as it is."""
    script = file.with_name(f"{file.name}.sql")
    try:
        # Comments on an extension are for its owner alone to restore.
        run(
            ["pg_restore", "--no-owner", "--no-privileges", "--no-comments", f"--file={script}",
             file],
            environment,
        )  # fmt: skip
        run(
            ["psql", "--no-psqlrc", "--quiet", "--output=/dev/null", "--set=ON_ERROR_STOP=1",
             "--single-transaction", f"--command={EMPTY}", f"--file={script}"],
            environment,
        )  # fmt: skip
    finally:
        script.unlink(missing_ok=True)


def main(verb, file):
    """Save the database to `file`, or restore it from there."""
    os.umask(0o077)
    url = os.environ.get("VIRTPLAY_DATABASE_URL", "")
    if url and not url.startswith("sqlite"):
        environment = postgres_environment(url)
        if verb == "save":
            run(["pg_dump", "--format=custom", f"--file={file}"], environment)
        else:
            restore_postgres(file, environment)
        return
    path = (
        Path(url.removeprefix("sqlite://"))
        if url
        else Path(os.environ["VIRTPLAY_STATE_DIR"], "virtplay.sqlite3")
    )
    copy_sqlite(*((path, file) if verb == "save" else (Path(file), path)))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
