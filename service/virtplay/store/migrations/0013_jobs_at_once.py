"""Store: adds the limit of a request on how many of its jobs run at once."""

from tortoise import fields, migrations
from tortoise.migrations import operations as ops


class Migration(migrations.Migration):
    """Add the first job of the request, and how many of its jobs run at once."""

    dependencies = [("virtplay", "0012_lists_at_any_size")]

    operations = [
        ops.AddField(model_name="Job", name="bulk_id", field=fields.IntField(null=True)),
        ops.AddField(model_name="Job", name="at_once", field=fields.IntField(null=True)),
    ]
