"""Store: the VMs of a run from a shell that is about several, and when audit rows were made."""

import functools
from json import dumps, loads

from tortoise import fields, migrations
from tortoise.migrations import operations as ops

compact = functools.partial(dumps, separators=(",", ":"))


class Migration(migrations.Migration):
    """What was told, and what that is in the list: a column to show and to search."""

    dependencies = [("virtplay", "0005_reported_jobs")]

    operations = [
        ops.AddField(
            model_name="Job",
            name="domains",
            field=fields.JSONField(null=True, encoder=compact, decoder=loads),
        ),
        ops.AddField(model_name="Job", name="vm_refs", field=fields.TextField(null=True)),
        ops.RunSQL(
            "CREATE INDEX reported_jobs ON job (heard_at) WHERE run_id IS NOT NULL",
            "DROP INDEX reported_jobs",
        ),
        ops.RunSQL("CREATE INDEX audit_by_time ON audit (created_at)", "DROP INDEX audit_by_time"),
    ]
