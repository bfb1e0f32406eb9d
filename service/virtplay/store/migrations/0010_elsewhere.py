"""Store: adds the other hosts on which a VM is defined."""

import functools
from json import dumps, loads

from tortoise import fields, migrations
from tortoise.migrations import operations as ops

compact = functools.partial(dumps, separators=(",", ":"))


class Migration(migrations.Migration):
    """Add the hosts and the states of the VM there, which observations fill."""

    dependencies = [("virtplay", "0009_disks_in_pools")]

    operations = [
        ops.AddField(
            model_name="Vm",
            name="elsewhere",
            field=fields.JSONField(null=True, encoder=compact, decoder=loads),
        ),
    ]
