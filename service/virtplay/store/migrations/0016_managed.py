"""Store: adds whether a VM's domain has our metadata."""

from tortoise import fields, migrations

from virtplay.store.migrations._drop_columns import AddColumn


class Migration(migrations.Migration):
    """Add the column, which observations fill."""

    dependencies = [("virtplay", "0015_domain_names")]

    operations = [
        AddColumn(model_name="Vm", name="managed", field=fields.BooleanField(null=True)),
    ]
