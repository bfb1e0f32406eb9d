"""Store: adds when a job's step began, and how long it waits for a guest."""

from tortoise import fields, migrations

from virtplay.store.migrations._drop_columns import AddColumn


class Migration(migrations.Migration):
    """Add the start of a job's step, and the seconds that a guest has to shut down."""

    dependencies = [("virtplay", "0013_jobs_at_once")]

    operations = [
        AddColumn(model_name="Job", name="step_started_at", field=fields.DatetimeField(null=True)),
        AddColumn(model_name="Job", name="step_timeout", field=fields.IntField(null=True)),
    ]
