"""Store: drops columns in a migration, and keeps everything else of the table."""

import re
from collections.abc import Sequence

from tortoise.migrations import operations as ops
from tortoise.migrations.schema_editor.base import BaseSchemaEditor
from tortoise.migrations.schema_generator.state import State


class DropColumns(ops.TortoiseOperation):
    """Drops nullable columns that no index names.

    Tortoise 1.1 rebuilds an SQLite table for each column, and loses its indexes (including those
    of a VM's lock), its defaults and its highest number, which would be used again. SQLite itself
    can drop columns since 3.35, but Rocky Linux 9 has 3.34.
    """

    def __init__(self, model_name: str, table: str, columns: Sequence[str]) -> None:
        self.model_name, self.table, self.columns = model_name, table, columns

    def state_forward(self, app_label: str, state: State) -> None:
        """Remove the fields from the model's state."""
        for column in self.columns:
            ops.RemoveField(self.model_name, column).state_forward(app_label, state)

    async def database_forward(
        self,
        app_label: str,
        old_state: State,
        new_state: State,
        state_editor: BaseSchemaEditor | None = None,
    ) -> None:
        """Drop the columns; on SQLite with one rebuild of the table, in one transaction."""
        assert state_editor is not None
        if state_editor.client.capabilities.dialect == "sqlite":
            statements = await self._rebuild(state_editor)
        else:
            drops = ", ".join(f'DROP COLUMN "{column}"' for column in self.columns)
            statements = [f'ALTER TABLE "{self.table}" {drops}']
        await state_editor.client.execute_script("; ".join(statements))

    async def _rebuild(self, editor: BaseSchemaEditor) -> list[str]:
        """Return the statements; the new table has the old one's definition without the columns."""
        table, new = self.table, f"new_{self.table}"
        found = await editor.client.execute_query_dict(
            "SELECT type, sql FROM sqlite_master WHERE tbl_name = ? AND sql IS NOT NULL"
            " ORDER BY type <> 'table'",
            [table],
        )
        definition, *indexes = [str(row["sql"]) for row in found]
        for column in self.columns:
            pattern = rf',\s*"?{column}"? \w+(\(\d+\))?(?=\s*[,)])'
            definition, count = re.subn(pattern, "", definition)
            assert count == 1, f"no nullable column {column} in {definition}"
        info = await editor.client.execute_query_dict(f'PRAGMA table_info("{table}")')
        kept = ", ".join(f'"{row["name"]}"' for row in info if row["name"] not in self.columns)
        return [
            # execute_script commits the transaction that Tortoise has begun, so it begins another.
            "BEGIN IMMEDIATE",
            definition.replace(f'"{table}"', f'"{new}"', 1),
            f'INSERT INTO "{new}" ({kept}) SELECT {kept} FROM "{table}"',  # noqa: S608
            # Dropping a table deletes its highest number; renaming one keeps it.
            f"DELETE FROM sqlite_sequence WHERE name = '{new}'",  # noqa: S608
            f"UPDATE sqlite_sequence SET name = '{new}' WHERE name = '{table}'",  # noqa: S608
            f'DROP TABLE "{table}"',
            f'ALTER TABLE "{new}" RENAME TO "{table}"',
            *indexes,
            "COMMIT",
        ]


class AddColumn(ops.AddField):
    """Adds a nullable column; its way back keeps everything else of the table too."""

    async def database_backward(
        self,
        app_label: str,
        old_state: State,
        new_state: State,
        state_editor: BaseSchemaEditor | None = None,
    ) -> None:
        """Drop the column, as DropColumns does."""
        table = old_state.apps.get_model(f"{app_label}.{self.model_name}")._meta.db_table
        drop = DropColumns(self.model_name, table, [self.name])
        await drop.database_forward(app_label, old_state, new_state, state_editor)
