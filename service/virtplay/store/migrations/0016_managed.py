"""Store: adds whether a VM's domain has our metadata."""

from tortoise import fields, migrations
from tortoise.migrations import operations as ops


class Migration(migrations.Migration):
    """Add the column, which observations fill."""

    dependencies = [("virtplay", "0015_domain_names")]

    operations = [
        ops.AddField(model_name="Vm", name="managed", field=fields.BooleanField(null=True)),
    ]
