"""Store: adds the lock of a VM, an index that allows it only one unfinished job.

In SQL, as Tortoise 1.1 silently drops the constraints of a new model's Meta:
https://github.com/tortoise/tortoise-orm/issues/2272
"""

from tortoise import migrations
from tortoise.migrations import operations as ops


class Migration(migrations.Migration):
    """Allow one unfinished job for each VM, and one start that waits for its creation."""

    dependencies = [("virtplay", "0001_initial")]

    operations = [
        ops.RunSQL(
            "CREATE UNIQUE INDEX one_unfinished_job_a_vm ON job (vm_id)"
            " WHERE finished_at IS NULL AND after_id IS NULL",
            "DROP INDEX one_unfinished_job_a_vm",
        ),
        ops.RunSQL(
            "CREATE UNIQUE INDEX one_waiting_job_a_vm ON job (vm_id)"
            " WHERE finished_at IS NULL AND after_id IS NOT NULL",
            "DROP INDEX one_waiting_job_a_vm",
        ),
    ]
