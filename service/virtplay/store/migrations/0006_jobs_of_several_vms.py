"""Store: adds the VMs of a reported run with several domains, and an index of audit times."""

import functools
from json import dumps, loads

from tortoise import fields, migrations
from tortoise.migrations import operations as ops

compact = functools.partial(dumps, separators=(",", ":"))


class Migration(migrations.Migration):
    """Add the reported domains, and the VMs that they are, as columns to show and to search."""

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
