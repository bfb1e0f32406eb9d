#!/bin/sh
# What: Tortoise ORM's own migrations, on SQLite: what operation RemoveField leaves of a table.
# Versions: tortoise-orm 1.1.9 with aiosqlite 0.22.1, on Python's SQLite.
# One would guess: the column goes and all else stays: the indexes, the defaults in the database, and
#       the promise of AUTOINCREMENT, which Tortoise writes for integer keys, that the id of a
#       deleted row is never given out again.
# What happens: the table is rebuilt. An index made by RunSQL in an earlier migration is gone (a
#       partial unique one, say, that guards an invariant), and the highest number is forgotten:
#       the next row gets the id of the newest row that was deleted. Nothing warns.
# Run: findings/tortoise-removefield-reuses-ids.sh    needs python3 with venv and a package index for pip
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install -q --disable-pip-version-check tortoise-orm==1.1.9 aiosqlite==0.22.1
mkdir -p "$place/shop/migrations"
touch "$place/shop/__init__.py" "$place/shop/migrations/__init__.py"
cat >"$place/shop/models.py" <<'END'
from tortoise import fields
from tortoise.models import Model


class Parcel(Model):
    id = fields.IntField(primary_key=True)
    name = fields.CharField(max_length=32)

    class Meta:
        table = "parcel"
END
cat >"$place/shop/migrations/0001_initial.py" <<'END'
from tortoise import fields, migrations
from tortoise.migrations import operations as ops


class Migration(migrations.Migration):
    initial = True
    operations = [
        ops.CreateModel(
            name="Parcel",
            fields=[
                ("id", fields.IntField(generated=True, primary_key=True, unique=True, db_index=True)),
                ("name", fields.CharField(max_length=32)),
                ("note", fields.CharField(max_length=32, null=True)),
            ],
            options={"table": "parcel", "app": "shop", "pk_attr": "id"},
            bases=["Model"],
        ),
        ops.RunSQL("CREATE UNIQUE INDEX one_name ON parcel (name) WHERE name != ''"),
    ]
END
cat >"$place/shop/migrations/0002_no_note.py" <<'END'
from tortoise import migrations
from tortoise.migrations import operations as ops


class Migration(migrations.Migration):
    dependencies = [("shop", "0001_initial")]
    operations = [ops.RemoveField("Parcel", "note")]
END
cat >"$place/look.py" <<'END'
import asyncio
import sqlite3
import sys
from importlib.metadata import version

from tortoise import Tortoise
from tortoise.migrations.api import migrate

FILE = sys.argv[1]
CONFIG = {
    "connections": {"default": f"sqlite://{FILE}"},
    "apps": {
        "shop": {
            "models": ["shop.models"],
            "migrations": "shop.migrations",
            "default_connection": "default",
        }
    },
}


def sql(*statements):
    """Run statements in the file; the rows of the last."""
    database = sqlite3.connect(FILE)
    with database:
        for statement in statements:
            rows = database.execute(statement).fetchall()
    database.close()
    return rows


async def migrate_to(target):
    await migrate(config=CONFIG, target=target)
    await Tortoise.close_connections()


def indexes():
    return [row[0] for row in sql("SELECT name FROM sqlite_master WHERE name = 'one_name'")]


async def main():
    await migrate_to("shop.0001_initial")
    sql(
        "INSERT INTO parcel (name) VALUES ('a'), ('b'), ('c')",
        "DELETE FROM parcel WHERE name = 'c'",
    )
    kept = bool(indexes())
    await migrate_to("shop.0002_no_note")
    sql("INSERT INTO parcel (name) VALUES ('d')")
    number = sql("SELECT id FROM parcel WHERE name = 'd'")[0][0]
    print(f"tortoise-orm {version('tortoise-orm')}, SQLite {sqlite3.sqlite_version}")
    print(f"unique index before RemoveField: {kept}, after: {bool(indexes())}")
    print(f"ids 1, 2, 3 were given, row 3 was deleted; after RemoveField the next row has id {number}")
    if (kept, bool(indexes()), number) != (True, False, 3):
        sys.exit("changed: expected an index that is lost, and id 3 again")


asyncio.run(main())
END
PYTHONPATH="$place" "$place/venv/bin/python" "$place/look.py" "$place/shop.sqlite3"
