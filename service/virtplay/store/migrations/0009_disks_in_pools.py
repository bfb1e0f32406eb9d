"""Store: adds what the disks of a VM take in the default storage pool."""

from tortoise import fields, migrations
from tortoise.migrations import operations as ops


class Migration(migrations.Migration):
    """Add the pool of the first disk, and the size of all disks in the default pool."""

    dependencies = [("virtplay", "0008_state_reason")]

    operations = [
        ops.AddField(
            model_name="Vm", name="disk_pool", field=fields.CharField(max_length=255, null=True)
        ),
        ops.AddField(model_name="Vm", name="pool_size", field=fields.BigIntField(null=True)),
    ]
