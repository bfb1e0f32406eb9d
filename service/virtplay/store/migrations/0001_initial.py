"""Store: the first schema, as Tortoise generated it from the models."""

import functools
from json import dumps, loads

from tortoise import fields, migrations
from tortoise.migrations import operations as ops

from virtplay.states import HostStatus, JobStatus, VmStatus


class Migration(migrations.Migration):
    initial = True

    operations = [
        ops.CreateModel(
            name="AuditEntry",
            fields=[
                (
                    "id",
                    fields.BigIntField(
                        generated=True, primary_key=True, unique=True, db_index=True
                    ),
                ),
                ("actor", fields.CharField(max_length=128)),
                ("action", fields.CharField(max_length=64)),
                ("vm_ref", fields.CharField(null=True, max_length=32)),
                ("job_ref", fields.CharField(null=True, max_length=32)),
                ("address", fields.CharField(default="", max_length=64)),
                ("request_id", fields.CharField(default="", max_length=128)),
                ("created_at", fields.DatetimeField(auto_now=False, auto_now_add=True)),
            ],
            options={"table": "audit", "app": "virtplay", "pk_attr": "id"},
            bases=["Model"],
        ),
        ops.CreateModel(
            name="Host",
            fields=[
                (
                    "id",
                    fields.IntField(generated=True, primary_key=True, unique=True, db_index=True),
                ),
                ("name", fields.CharField(unique=True, max_length=255)),
                (
                    "status",
                    fields.CharEnumField(
                        default=HostStatus.UNKNOWN, enum_type=HostStatus, max_length=16
                    ),
                ),
                ("message", fields.TextField(default="", unique=False)),
                ("in_inventory", fields.BooleanField(default=True)),
                (
                    "facts",
                    fields.JSONField(
                        default=dict,
                        encoder=functools.partial(dumps, separators=(",", ":")),
                        decoder=loads,
                    ),
                ),
                (
                    "observed_at",
                    fields.DatetimeField(null=True, auto_now=False, auto_now_add=False),
                ),
            ],
            options={"table": "host", "app": "virtplay", "pk_attr": "id"},
            bases=["Model"],
        ),
        ops.CreateModel(
            name="IdempotencyKey",
            fields=[
                (
                    "id",
                    fields.IntField(generated=True, primary_key=True, unique=True, db_index=True),
                ),
                ("token_id", fields.IntField()),
                ("key", fields.CharField(max_length=255)),
                ("fingerprint", fields.CharField(max_length=64)),
                ("job_id", fields.IntField()),
                ("created_at", fields.DatetimeField(auto_now=False, auto_now_add=True)),
            ],
            options={
                "table": "idempotency_key",
                "app": "virtplay",
                "unique_together": (("token_id", "key"),),
                "pk_attr": "id",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="Job",
            fields=[
                (
                    "id",
                    fields.IntField(generated=True, primary_key=True, unique=True, db_index=True),
                ),
                ("ref", fields.CharField(null=True, unique=True, max_length=32)),
                ("action", fields.CharField(max_length=32)),
                ("vm_id", fields.IntField(null=True, db_index=True)),
                ("vm_ref", fields.CharField(null=True, max_length=32)),
                ("host", fields.CharField(null=True, max_length=255)),
                ("status", fields.CharEnumField(db_index=True, enum_type=JobStatus, max_length=16)),
                ("progress", fields.IntField(default=0)),
                ("step", fields.CharField(default="", max_length=255)),
                ("eta_seconds", fields.FloatField(null=True)),
                ("changed", fields.BooleanField(null=True)),
                ("dry_run", fields.BooleanField(default=False)),
                ("requested_by", fields.CharField(max_length=128)),
                ("request_id", fields.CharField(max_length=128)),
                ("command", fields.TextField(default="", unique=False)),
                (
                    "variables",
                    fields.JSONField(
                        default=dict,
                        encoder=functools.partial(dumps, separators=(",", ":")),
                        decoder=loads,
                    ),
                ),
                (
                    "result",
                    fields.JSONField(
                        null=True,
                        encoder=functools.partial(dumps, separators=(",", ":")),
                        decoder=loads,
                    ),
                ),
                (
                    "error",
                    fields.JSONField(
                        null=True,
                        encoder=functools.partial(dumps, separators=(",", ":")),
                        decoder=loads,
                    ),
                ),
                ("attempt", fields.IntField(default=1)),
                ("retry_of", fields.CharField(null=True, max_length=32)),
                ("after_id", fields.IntField(null=True)),
                ("generation", fields.IntField(default=0)),
                ("leased_by", fields.CharField(default="", max_length=128)),
                ("created_at", fields.DatetimeField(auto_now=False, auto_now_add=True)),
                ("started_at", fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
                (
                    "finished_at",
                    fields.DatetimeField(
                        null=True, db_index=True, auto_now=False, auto_now_add=False
                    ),
                ),
            ],
            options={"table": "job", "app": "virtplay", "pk_attr": "id"},
            bases=["Model"],
        ),
        ops.CreateModel(
            name="JobEvent",
            fields=[
                (
                    "id",
                    fields.BigIntField(
                        generated=True, primary_key=True, unique=True, db_index=True
                    ),
                ),
                ("job_id", fields.IntField()),
                ("seq", fields.IntField()),
                ("event", fields.CharField(max_length=64)),
                ("task", fields.CharField(default="", max_length=255)),
                ("host", fields.CharField(default="", max_length=255)),
                ("text", fields.TextField(default="", unique=False)),
                ("created_at", fields.DatetimeField(auto_now=False, auto_now_add=True)),
            ],
            options={
                "table": "job_event",
                "app": "virtplay",
                "unique_together": (("job_id", "seq"),),
                "pk_attr": "id",
            },
            bases=["Model"],
        ),
        ops.CreateModel(
            name="Token",
            fields=[
                (
                    "id",
                    fields.IntField(generated=True, primary_key=True, unique=True, db_index=True),
                ),
                ("name", fields.CharField(unique=True, max_length=128)),
                ("digest", fields.CharField(unique=True, max_length=64)),
                ("role", fields.CharField(max_length=16)),
                ("created_at", fields.DatetimeField(auto_now=False, auto_now_add=True)),
                ("expires_at", fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
                ("revoked_at", fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
                (
                    "last_used_at",
                    fields.DatetimeField(null=True, auto_now=False, auto_now_add=False),
                ),
            ],
            options={"table": "token", "app": "virtplay", "pk_attr": "id"},
            bases=["Model"],
        ),
        ops.CreateModel(
            name="Vm",
            fields=[
                (
                    "id",
                    fields.IntField(generated=True, primary_key=True, unique=True, db_index=True),
                ),
                ("ref", fields.CharField(null=True, unique=True, max_length=32)),
                ("uuid", fields.UUIDField(unique=True)),
                ("name", fields.CharField(max_length=255)),
                ("description", fields.TextField(default="", unique=False)),
                ("host", fields.CharField(null=True, db_index=True, max_length=255)),
                ("domain", fields.CharField(null=True, max_length=255)),
                ("status", fields.CharEnumField(db_index=True, enum_type=VmStatus, max_length=16)),
                ("power", fields.CharField(default="", max_length=16)),
                ("provisioned", fields.BooleanField(default=False)),
                (
                    "error",
                    fields.JSONField(
                        null=True,
                        encoder=functools.partial(dumps, separators=(",", ":")),
                        decoder=loads,
                    ),
                ),
                ("template", fields.CharField(default="", max_length=128)),
                ("os", fields.CharField(default="", max_length=128)),
                ("cpu", fields.IntField()),
                ("memory", fields.IntField()),
                ("disk", fields.IntField()),
                ("disk_allocation", fields.BigIntField(default=0)),
                (
                    "network",
                    fields.JSONField(
                        default=dict,
                        encoder=functools.partial(dumps, separators=(",", ":")),
                        decoder=loads,
                    ),
                ),
                ("ip", fields.CharField(null=True, max_length=64)),
                (
                    "addresses",
                    fields.JSONField(
                        default=list,
                        encoder=functools.partial(dumps, separators=(",", ":")),
                        decoder=loads,
                    ),
                ),
                ("auto_start", fields.BooleanField(default=False)),
                (
                    "labels",
                    fields.JSONField(
                        default=dict,
                        encoder=functools.partial(dumps, separators=(",", ":")),
                        decoder=loads,
                    ),
                ),
                (
                    "pending",
                    fields.JSONField(
                        default=dict,
                        encoder=functools.partial(dumps, separators=(",", ":")),
                        decoder=loads,
                    ),
                ),
                ("search_text", fields.TextField(default="", unique=False)),
                ("label_text", fields.TextField(default="", unique=False)),
                ("generation", fields.IntField(default=0)),
                ("snapshots", fields.IntField(default=0)),
                ("missed", fields.IntField(default=0)),
                ("started_at", fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
                (
                    "observed_at",
                    fields.DatetimeField(null=True, auto_now=False, auto_now_add=False),
                ),
                ("created_at", fields.DatetimeField(auto_now=False, auto_now_add=True)),
                ("updated_at", fields.DatetimeField(auto_now=False, auto_now_add=True)),
            ],
            options={"table": "vm", "app": "virtplay", "pk_attr": "id"},
            bases=["Model"],
        ),
    ]
