"""Store: adds samples of VMs' usage, in three resolutions."""

from typing import Any

from tortoise import migrations
from tortoise.migrations import operations as ops

TABLES = ("sample_raw", "sample_5m", "sample_1h")
VALUES = (
    "cpu",
    "memory_used",
    "memory_total",
    "disk_usage",
    "disk_read",
    "disk_write",
    "network_rx",
    "network_tx",
)


async def create(_apps: Any, editor: Any) -> None:
    """Create the tables; on SQLite without row ids, which halves their size."""
    ending = " WITHOUT ROWID" if editor.client.capabilities.dialect == "sqlite" else ""
    values = ", ".join(f"{name} BIGINT" for name in VALUES)
    for table in TABLES:
        await editor.client.execute_script(
            f"CREATE TABLE {table} (vm_id INT NOT NULL, at BIGINT NOT NULL, {values},"
            f" PRIMARY KEY (vm_id, at)){ending}"
        )
    await editor.client.execute_script(
        "CREATE TABLE sample_rollup (step INT NOT NULL PRIMARY KEY, until BIGINT NOT NULL)"
    )


async def drop(_apps: Any, editor: Any) -> None:
    """Drop the tables with all samples."""
    for table in (*TABLES, "sample_rollup"):
        await editor.client.execute_script(f"DROP TABLE {table}")


class Migration(migrations.Migration):
    """Add one row for each VM and moment; no models, as Tortoise has no composite primary keys.

    https://github.com/tortoise/tortoise-orm/issues/1235
    """

    dependencies = [("virtplay", "0003_snapshots_and_consoles")]

    operations = [ops.RunPython(create, drop)]
