"""Store: adds the reason of a VM's state."""

from tortoise import fields, migrations
from tortoise.migrations import operations as ops


class Migration(migrations.Migration):
    """Add the reason, which the next observation of each host fills."""

    dependencies = [("virtplay", "0007_reported_runs")]

    operations = [
        ops.AddField(
            model_name="Vm",
            name="state_reason",
            field=fields.CharField(max_length=32, null=True),
        ),
    ]
