"""Store: adds what lists of VMs are served from: search, labels as rows, counts, sort orders.

Triggers keep all of it right in the transaction that writes a VM's row, whoever writes it.
"""

from typing import Any

from tortoise import migrations
from tortoise.migrations import operations as ops

ORDERS = {
    "name": "vms_by_name",
    "status": "vms_by_status",
    "host": "vms_by_host",
    "cpu": "vms_by_cpu",
    "memory": "vms_by_memory",
    "disk": "vms_by_disk",
    "created_at": "vms_by_creation",
    "updated_at": "vms_by_update",
}
REPLACED = {"host": "idx_vm_host_dacb18", "status": "idx_vm_status_8507e1"}
"""The indexes of the first schema that are the beginning of a new one."""
TABLES = (
    # NULL is the host of a VM without one. Rows are only added: two transactions that count on the
    # same row would wait for each other, and in the other order for ever.
    "CREATE TABLE vm_count (host VARCHAR(255), status VARCHAR(16) NOT NULL, vms INT NOT NULL)",
    "CREATE TABLE vm_index_version (version INT NOT NULL)",
)
COUNTED = "INSERT INTO vm_count SELECT host, status, count(*) FROM vm GROUP BY host, status"

SQLITE = (
    # Much narrower than the table, for the middle of the list.
    "CREATE INDEX vms_by_number ON vm (id)",
    "CREATE TABLE vm_label (label TEXT NOT NULL, vm_id INT NOT NULL, PRIMARY KEY (label, vm_id))"
    " WITHOUT ROWID",
    "CREATE INDEX labels_of_vm ON vm_label (vm_id)",
    "CREATE VIRTUAL TABLE vm_search USING fts5 (search_text, content = 'vm', content_rowid = 'id',"
    " tokenize = 'trigram case_sensitive 1')",
    "CREATE VIRTUAL TABLE vm_search_terms USING fts5vocab ('vm_search', 'row')",
    "INSERT INTO vm_search (vm_search) VALUES ('rebuild')",
)
NEW_SEARCH = "INSERT INTO vm_search (rowid, search_text) VALUES (new.id, new.search_text);"
OLD_SEARCH = (
    "INSERT INTO vm_search (vm_search, rowid, search_text)"
    " VALUES ('delete', old.id, old.search_text);"
)
NEW_LABELS = (
    "INSERT INTO vm_label (label, vm_id) SELECT value, new.id"
    " FROM json_each(CASE WHEN json_valid(new.label_text) THEN new.label_text ELSE '[]' END);"
)
OLD_LABELS = "DELETE FROM vm_label WHERE vm_id = old.id;"
NEW_COUNT = "INSERT INTO vm_count VALUES (new.host, new.status, 1);"
OLD_COUNT = "INSERT INTO vm_count VALUES (old.host, old.status, -1);"
SQLITE_TRIGGERS = {
    "vm_inserted": f"AFTER INSERT ON vm BEGIN {NEW_SEARCH} {NEW_LABELS} {NEW_COUNT} END",
    "vm_deleted": f"AFTER DELETE ON vm BEGIN {OLD_SEARCH} {OLD_LABELS} {OLD_COUNT} END",
    "vm_search_changed": "AFTER UPDATE OF search_text ON vm"
    f" WHEN new.search_text IS NOT old.search_text BEGIN {OLD_SEARCH} {NEW_SEARCH} END",
    "vm_labels_changed": "AFTER UPDATE OF label_text ON vm"
    f" WHEN new.label_text IS NOT old.label_text BEGIN {OLD_LABELS} {NEW_LABELS} END",
    "vm_moved": "AFTER UPDATE OF host, status ON vm"
    " WHEN new.host IS NOT old.host OR new.status IS NOT old.status"
    f" BEGIN {OLD_COUNT} {NEW_COUNT} END",
}

POSTGRES = (
    'CREATE TABLE vm_label (label TEXT COLLATE "C" NOT NULL, vm_id INT NOT NULL,'
    " PRIMARY KEY (label, vm_id))",
    "CREATE INDEX labels_of_vm ON vm_label (vm_id)",
    """CREATE FUNCTION vm_counted() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF TG_OP <> 'INSERT' THEN INSERT INTO vm_count VALUES (OLD.host, OLD.status, -1); END IF;
    IF TG_OP <> 'DELETE' THEN INSERT INTO vm_count VALUES (NEW.host, NEW.status, 1); END IF;
    RETURN NULL;
    END $$""",
    """CREATE FUNCTION vm_labelled() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF TG_OP <> 'INSERT' THEN DELETE FROM vm_label WHERE vm_id = OLD.id; END IF;
    IF TG_OP <> 'DELETE' AND NEW.label_text LIKE '[%' THEN
        INSERT INTO vm_label (label, vm_id)
        SELECT label, NEW.id FROM jsonb_array_elements_text(NEW.label_text::jsonb) AS label;
    END IF;
    RETURN NULL;
    END $$""",
)
POSTGRES_TRIGGERS = {
    "vm_counted": "AFTER INSERT OR DELETE ON vm FOR EACH ROW EXECUTE FUNCTION vm_counted()",
    "vm_moved": "AFTER UPDATE OF host, status ON vm FOR EACH ROW"
    " WHEN (NEW.host IS DISTINCT FROM OLD.host OR NEW.status IS DISTINCT FROM OLD.status)"
    " EXECUTE FUNCTION vm_counted()",
    "vm_labelled": "AFTER INSERT OR DELETE ON vm FOR EACH ROW EXECUTE FUNCTION vm_labelled()",
    "vm_labels_changed": "AFTER UPDATE OF label_text ON vm FOR EACH ROW"
    " WHEN (NEW.label_text IS DISTINCT FROM OLD.label_text) EXECUTE FUNCTION vm_labelled()",
}


def _is_sqlite(editor: Any) -> bool:
    return bool(editor.client.capabilities.dialect == "sqlite")


async def create(_apps: Any, editor: Any) -> None:
    """Create tables, indexes and triggers; `store.vm_index.renew_index` fills the labels.

    PostgreSQL's index of searches requires an extension, which may come later: renew_index too.
    """
    sqlite = _is_sqlite(editor)
    triggers = SQLITE_TRIGGERS if sqlite else POSTGRES_TRIGGERS
    for statement in (
        *TABLES,
        *(SQLITE if sqlite else POSTGRES),
        *(f"CREATE TRIGGER {name} {what}" for name, what in triggers.items()),
        COUNTED,
        # After a way back, so that writing them anew fills the table of labels.
        "UPDATE vm SET label_text = '' WHERE label_text <> ''",
        *(f"CREATE INDEX {name} ON vm ({column}, id)" for column, name in ORDERS.items()),
        *(f"DROP INDEX {name}" for name in REPLACED.values()),
    ):
        await editor.client.execute_query(statement)


async def drop(_apps: Any, editor: Any) -> None:
    """Drop all of it; the version before builds its own texts at its start."""
    sqlite = _is_sqlite(editor)
    ending = "" if sqlite else " ON vm"
    virtual = ("vm_search_terms", "vm_search") if sqlite else ()
    functions = () if sqlite else ("vm_counted", "vm_labelled")
    for statement in (
        *(f"CREATE INDEX {name} ON vm ({column})" for column, name in REPLACED.items()),
        *(f"DROP INDEX {name}" for name in (*ORDERS.values(), *("vms_by_number",) * sqlite)),
        *(
            f"DROP TRIGGER {name}{ending}"
            for name in (SQLITE_TRIGGERS if sqlite else POSTGRES_TRIGGERS)
        ),
        *(f"DROP FUNCTION {name}()" for name in functions),
        *(f"DROP TABLE {name}" for name in ("vm_label", "vm_count", "vm_index_version", *virtual)),
        *(() if sqlite else ("DROP INDEX IF EXISTS vms_by_text",)),
    ):
        await editor.client.execute_query(statement)


class Migration(migrations.Migration):
    """Add the tables without models: their keys have several columns, and one is virtual."""

    dependencies = [("virtplay", "0011_stalled_attempts")]

    operations = [ops.RunPython(create, drop)]
