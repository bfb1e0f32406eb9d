"""Store: adds the index by which a VM is found by the name of its domain."""

from tortoise import migrations
from tortoise.migrations import operations as ops


class Migration(migrations.Migration):
    """Add the index; `store.vm_index.renew_index` writes the texts of searches anew."""

    dependencies = [("virtplay", "0014_steps")]

    operations = [
        ops.RunSQL("CREATE INDEX vms_by_domain ON vm (domain)", "DROP INDEX vms_by_domain"),
    ]
