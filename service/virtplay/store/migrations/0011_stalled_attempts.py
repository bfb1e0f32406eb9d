"""Store: adds what the attempts of a job have achieved before the service ended."""

from tortoise import fields, migrations
from tortoise.migrations import operations as ops


class Migration(migrations.Migration):
    """Add the progress of the attempt before, and the number of attempts without progress."""

    dependencies = [("virtplay", "0010_elsewhere")]

    operations = [
        ops.AddField(model_name="Job", name="reached", field=fields.IntField(null=True)),
        ops.AddField(model_name="Job", name="stalled", field=fields.IntField(null=True)),
    ]
