"""Store: adds snapshots, their schedules, console tickets, and jobs that hold no VM."""

import functools
from json import dumps, loads

from tortoise import fields, migrations
from tortoise.migrations import operations as ops
from tortoise.migrations.schema_editor.base import BaseSchemaEditor
from tortoise.migrations.schema_generator.state import State

from virtplay.states import SnapshotOrigin, SnapshotStatus

compact = functools.partial(dumps, separators=(",", ":"))


class AddLocks(ops.AddField):
    """Adds job.locks with its default in the database.

    Tortoise 1.1 adds a column without its default, which SQLite refuses if the table has rows:
    https://github.com/tortoise/tortoise-orm/issues/2104
    """

    async def database_forward(
        self,
        app_label: str,
        old_state: State,
        new_state: State,
        state_editor: BaseSchemaEditor | None = None,
    ) -> None:
        """Add the column; existing jobs, and new ones of an earlier release, hold their VM."""
        column = ops.RunSQL("ALTER TABLE job ADD COLUMN locks BOOL NOT NULL DEFAULT TRUE")
        await column.database_forward(app_label, old_state, new_state, state_editor)


class Migration(migrations.Migration):
    """Add the tables of snapshots and consoles; the job that opens a console holds no VM."""

    dependencies = [("virtplay", "0002_one_unfinished_job")]

    operations = [
        ops.CreateModel(
            name="Snapshot",
            fields=[
                (
                    "id",
                    fields.IntField(generated=True, primary_key=True, unique=True, db_index=True),
                ),
                ("ref", fields.CharField(null=True, unique=True, max_length=32)),
                ("vm_id", fields.IntField(db_index=True)),
                ("name", fields.CharField(max_length=255)),
                ("title", fields.CharField(max_length=255)),
                ("description", fields.TextField(default="")),
                ("origin", fields.CharEnumField(enum_type=SnapshotOrigin, max_length=16)),
                ("status", fields.CharEnumField(enum_type=SnapshotStatus, max_length=16)),
                ("parent", fields.CharField(null=True, max_length=255)),
                ("current", fields.BooleanField(default=False)),
                ("has_memory", fields.BooleanField(default=False)),
                ("power", fields.CharField(default="", max_length=16)),
                ("frozen", fields.BooleanField(null=True)),
                ("size", fields.BigIntField(null=True)),
                ("error", fields.JSONField(null=True, encoder=compact, decoder=loads)),
                (
                    "expires_at",
                    fields.DatetimeField(null=True, auto_now=False, auto_now_add=False),
                ),
                (
                    "prune_after",
                    fields.DatetimeField(null=True, auto_now=False, auto_now_add=False),
                ),
                ("created_at", fields.DatetimeField(auto_now=False, auto_now_add=True)),
            ],
            options={"table": "snapshot", "app": "virtplay", "pk_attr": "id"},
            bases=["Model"],
        ),
        ops.CreateModel(
            name="SnapshotSchedule",
            fields=[
                (
                    "id",
                    fields.IntField(generated=True, primary_key=True, unique=True, db_index=True),
                ),
                ("vm_id", fields.IntField(unique=True)),
                ("cron", fields.JSONField(encoder=compact, decoder=loads)),
                ("timezone", fields.CharField(default="UTC", max_length=64)),
                ("keep", fields.JSONField(encoder=compact, decoder=loads)),
                ("enabled", fields.BooleanField(default=True)),
                (
                    "next_at",
                    fields.DatetimeField(
                        null=True, db_index=True, auto_now=False, auto_now_add=False
                    ),
                ),
                ("last_at", fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
                ("last_job", fields.CharField(null=True, max_length=32)),
                (
                    "skipped_at",
                    fields.DatetimeField(null=True, auto_now=False, auto_now_add=False),
                ),
                ("skipped_because", fields.TextField(default="")),
                ("created_at", fields.DatetimeField(auto_now=False, auto_now_add=True)),
                ("updated_at", fields.DatetimeField(auto_now=False, auto_now_add=True)),
            ],
            options={"table": "snapshot_schedule", "app": "virtplay", "pk_attr": "id"},
            bases=["Model"],
        ),
        ops.CreateModel(
            name="ConsoleTicket",
            fields=[
                (
                    "id",
                    fields.IntField(generated=True, primary_key=True, unique=True, db_index=True),
                ),
                ("digest", fields.CharField(unique=True, max_length=64)),
                ("vm_id", fields.IntField()),
                ("token_id", fields.IntField()),
                ("kind", fields.CharField(max_length=16)),
                ("port", fields.IntField(null=True)),
                ("expires_at", fields.DatetimeField(auto_now=False, auto_now_add=False)),
                ("used_at", fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
            ],
            options={"table": "console_ticket", "app": "virtplay", "pk_attr": "id"},
            bases=["Model"],
        ),
        AddLocks(model_name="Job", name="locks", field=fields.BooleanField(default=True)),
        ops.AddField(
            model_name="Job",
            name="snapshot_ref",
            field=fields.CharField(null=True, max_length=32),
        ),
        ops.RunSQL(
            "CREATE UNIQUE INDEX one_snapshot_of_a_name ON snapshot (vm_id, name)",
            "DROP INDEX one_snapshot_of_a_name",
        ),
        ops.RunSQL(
            "DROP INDEX one_unfinished_job_a_vm",
            "CREATE UNIQUE INDEX one_unfinished_job_a_vm ON job (vm_id)"
            " WHERE finished_at IS NULL AND after_id IS NULL",
        ),
        ops.RunSQL(
            "CREATE UNIQUE INDEX one_unfinished_job_a_vm ON job (vm_id)"
            " WHERE finished_at IS NULL AND after_id IS NULL AND locks",
            "DROP INDEX one_unfinished_job_a_vm",
        ),
    ]
