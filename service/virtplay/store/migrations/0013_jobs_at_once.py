"""Store: adds the limit of a request on how many of its jobs run at once."""

from tortoise import fields, migrations

from virtplay.store.migrations._drop_columns import AddColumn


class Migration(migrations.Migration):
    """Add the first job of the request, and how many of its jobs run at once."""

    dependencies = [("virtplay", "0012_lists_at_any_size")]

    operations = [
        AddColumn(model_name="Job", name="bulk_id", field=fields.IntField(null=True)),
        AddColumn(model_name="Job", name="at_once", field=fields.IntField(null=True)),
    ]
