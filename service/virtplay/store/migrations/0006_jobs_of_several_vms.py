"""Store: the VMs of a run from a shell that is about several, and when audit rows were made."""

from tortoise import fields, migrations
from tortoise.migrations import operations as ops


class Migration(migrations.Migration):
    """One column to list and to search; the index is for forgetting old audit rows."""

    dependencies = [("virtplay", "0005_reported_jobs")]

    operations = [
        ops.AddField(model_name="Job", name="vm_refs", field=fields.TextField(null=True)),
        ops.RunSQL("CREATE INDEX audit_by_time ON audit (created_at)", "DROP INDEX audit_by_time"),
    ]
