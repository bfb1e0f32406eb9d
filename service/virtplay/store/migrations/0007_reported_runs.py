"""Store: moves reported runs into their own table, and drops what is unused."""

import functools
from json import dumps, loads

from tortoise import fields, migrations
from tortoise.migrations import operations as ops

from virtplay.store.migrations._drop_columns import DropColumns

compact = functools.partial(dumps, separators=(",", ":"))
OF_RUNS = ("domains", "vm_refs", "playbook", "hosts", "run_by", "run_id", "token_id", "heard_at")


class Migration(migrations.Migration):
    """Move what a run reports out of its job, which keeps its number and other columns."""

    dependencies = [("virtplay", "0006_jobs_of_several_vms")]

    operations = [
        ops.CreateModel(
            name="ReportedRun",
            fields=[
                (
                    "job_id",
                    fields.IntField(generated=False, primary_key=True, unique=True, db_index=True),
                ),
                ("token_id", fields.IntField()),
                ("run_id", fields.CharField(max_length=64)),
                ("playbook", fields.CharField(max_length=255)),
                ("run_by", fields.CharField(max_length=255)),
                ("hosts", fields.JSONField(default=list, encoder=compact, decoder=loads)),
                ("domains", fields.JSONField(default=list, encoder=compact, decoder=loads)),
                ("vm_refs", fields.TextField(default="")),
                (
                    "reported_at",
                    fields.DatetimeField(db_index=True, auto_now=False, auto_now_add=False),
                ),
            ],
            options={
                "table": "reported_run",
                "app": "virtplay",
                "unique_together": (("token_id", "run_id"),),
                "pk_attr": "job_id",
            },
            bases=["Model"],
        ),
        ops.RunSQL(
            "INSERT INTO reported_run (job_id, token_id, run_id, playbook, run_by, hosts, domains,"
            " vm_refs, reported_at) SELECT id, token_id, run_id, playbook, run_by, hosts,"
            " COALESCE(domains, '[]'), COALESCE(vm_refs, ' ' || vm_ref || ' ', ''), heard_at"
            " FROM job WHERE run_id IS NOT NULL"
        ),
        ops.RunSQL("UPDATE job SET origin = 'shell' WHERE origin = 'cli'"),
        ops.RunSQL("DROP INDEX one_job_a_run"),
        ops.RunSQL("DROP INDEX unfinished_reported_jobs"),
        ops.RunSQL("DROP INDEX reported_jobs"),
        DropColumns("Job", "job", (*OF_RUNS, "retry_of")),
        ops.DeleteModel("IdempotencyKey"),
    ]
