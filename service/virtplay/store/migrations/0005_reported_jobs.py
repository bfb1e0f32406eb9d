"""Store: adds the origin of a job, and what a run from a shell reports of itself."""

import functools
from json import dumps, loads

from tortoise import fields, migrations
from tortoise.migrations import operations as ops
from tortoise.migrations.schema_editor.base import BaseSchemaEditor
from tortoise.migrations.schema_generator.state import State

from virtplay.states import JobOrigin

compact = functools.partial(dumps, separators=(",", ":"))


class AddOrigin(ops.AddField):
    """Adds job.origin with its default in the database.

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
        """Add the column, and set the origin of existing jobs, none of which is a reported run."""
        for statement in (
            "ALTER TABLE job ADD COLUMN origin VARCHAR(16) NOT NULL DEFAULT 'api'",
            "UPDATE job SET origin = 'observation' WHERE action = 'host_observe'",
            "UPDATE job SET origin = 'schedule' WHERE requested_by = 'snapshot schedule'",
        ):
            sql = ops.RunSQL(statement)
            await sql.database_forward(app_label, old_state, new_state, state_editor)


class Migration(migrations.Migration):
    """Make a run from a shell one job of its token, however often it is reported."""

    dependencies = [("virtplay", "0004_samples")]

    operations = [
        AddOrigin(
            model_name="Job",
            name="origin",
            field=fields.CharEnumField(enum_type=JobOrigin, default=JobOrigin.API, max_length=16),
        ),
        ops.AddField(
            model_name="Job", name="playbook", field=fields.CharField(null=True, max_length=255)
        ),
        ops.AddField(
            model_name="Job",
            name="hosts",
            field=fields.JSONField(null=True, encoder=compact, decoder=loads),
        ),
        ops.AddField(
            model_name="Job", name="run_by", field=fields.CharField(null=True, max_length=255)
        ),
        ops.AddField(
            model_name="Job", name="run_id", field=fields.CharField(null=True, max_length=64)
        ),
        ops.AddField(model_name="Job", name="token_id", field=fields.IntField(null=True)),
        ops.AddField(
            model_name="Job",
            name="heard_at",
            field=fields.DatetimeField(null=True, auto_now=False, auto_now_add=False),
        ),
        ops.RunSQL(
            "CREATE UNIQUE INDEX one_job_a_run ON job (token_id, run_id) WHERE run_id IS NOT NULL",
            "DROP INDEX one_job_a_run",
        ),
        ops.RunSQL(
            "CREATE INDEX unfinished_reported_jobs ON job (heard_at)"
            " WHERE finished_at IS NULL AND run_id IS NOT NULL",
            "DROP INDEX unfinished_reported_jobs",
        ),
        ops.RunSQL("CREATE INDEX jobs_of_origin ON job (origin, id)", "DROP INDEX jobs_of_origin"),
    ]
