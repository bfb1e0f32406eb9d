"""Unit tests: only store/ queries and writes rows; import-linter sees imports, and no calls.

Outside store/ a model's name stands in annotations alone, no row's own method is called, and no
function of store/ returns a query that others could go on with.
"""

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest
import virtplay
from tortoise.models import Model
from virtplay.store import models

PACKAGE = Path(virtplay.__file__).parent
STORE = PACKAGE / "store"
MODELS = {
    name
    for name, kind in inspect.getmembers(models, inspect.isclass)
    if issubclass(kind, Model) and kind is not Model
}
ROW_METHODS = {
    name: inspect.signature(method)
    for name, method in inspect.getmembers(Model, inspect.iscoroutinefunction)
    if inspect.isfunction(method) and not name.startswith("_")
}
"""save, delete, refresh_from_db and fetch_related, with what they take beside the row itself."""


def without_annotations(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes below `node` that are evaluated, and those of no annotation."""
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield child
                yield from without_annotations(child)


def imported_models(tree: ast.AST) -> set[str]:
    """The names under which a file has imported models."""
    return {
        each.asname or each.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and "store" in (node.module or "").split(".")
        for each in node.names
        if each.name in MODELS
    }


def fits(call: ast.Call, signature: inspect.Signature) -> bool:
    """Whether the arguments of a call are some that a row's method takes."""
    if any(isinstance(each, ast.Starred) for each in call.args):
        return True
    try:
        signature.bind(
            call.func, *call.args, **{each.arg: each.value for each in call.keywords if each.arg}
        )
    except TypeError:
        return False
    return True


def calls_of_the_orm(source: str) -> list[str]:
    """Each use of a model or of a row's method in a file outside store/, as `line: text`."""
    tree = ast.parse(source)
    names = imported_models(tree)
    nodes = list(without_annotations(tree))
    of_others = {
        id(node.func)
        for node in nodes
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ROW_METHODS
        and not fits(node, ROW_METHODS[node.func.attr])
    }
    found = [
        node
        for node in nodes
        if (isinstance(node, ast.Name) and node.id in names)
        or (
            isinstance(node, ast.Attribute)
            and (node.attr in MODELS or (node.attr in ROW_METHODS and id(node) not in of_others))
        )
    ]
    return [f"{node.lineno}: {ast.unparse(node)}" for node in found]


def returned_queries(source: str) -> list[str]:
    """The public functions of a file of store/ that return a query, or what they do not say."""
    return [
        node.name
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and not node.name.startswith("_")
        and (node.returns is None or "QuerySet" in ast.unparse(node.returns))
    ]


def test_only_the_store_calls_the_orm() -> None:
    found = [
        f"{path.relative_to(PACKAGE)}:{use}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if STORE not in path.parents
        for use in calls_of_the_orm(path.read_text())
    ]
    assert not found


def test_store_returns_rows_and_no_queries() -> None:
    found = [
        f"{path.name}: {name}"
        for path in sorted(STORE.glob("*.py"))
        for name in returned_queries(path.read_text())
    ]
    assert not found


IMPORT = "from virtplay.store.models import Job, Vm\n"


@pytest.mark.parametrize(
    "source",
    [
        *(
            IMPORT + text
            for text in (
                "Vm.filter(host=name)",
                "Vm.all().only('uuid')",
                "await Job.get(id=1)",
                "await Job.get_or_none(id=1)",
                "await Vm.exists(id=1)",
                "await Vm.filter(id=1).select_for_update().first()",
                "await Vm.filter(id__in=ids).update(missed=0)",
                "await Vm.create(name='x')",
                "Vm(name='x')",
                "kind = Vm",
                "find = Job.filter",
                "for model in (Job, Vm): pass",
                "async def f(vm: Vm = Vm()) -> None: ...",
                "vm: Vm = await Vm.first()",
            )
        ),
        "from virtplay.store.models import Vm as Row\nRow.filter()",
        "from virtplay.store.vms import Vm\nVm.filter()",
        "from ..store.models import Vm\nVm.filter()",
        "from virtplay.store import models\nmodels.Vm.filter()",
        "from virtplay.store import vms as store\nstore.Vm.filter()",
        "import virtplay.store.models\nvirtplay.store.models.Job.all()",
        "await vm.save()",
        "await vm.save(update_fields=['missed'])",
        "await vm.save(None, ['missed'])",
        "await vm.save(**kept)",
        "await vm.save(*kept)",
        "await snapshot.delete()",
        "await snapshot.delete(using_db=connection)",
        "await (await store.find_vm(ref)).delete()",
        "await job.refresh_from_db(fields=['status'])",
        "await job.fetch_related('events')",
        "await gather(*map(lambda vm: vm.save(), vms))",
        "write = vm.save",
    ],
)
def test_a_call_of_the_orm_is_found(source: str) -> None:
    assert calls_of_the_orm(source)


@pytest.mark.parametrize(
    "source",
    [
        IMPORT + "def f(vm: Vm, jobs: list[Job]) -> dict[int, Vm]: ...",
        IMPORT + "async def f(row: Job | None) -> Vm | None: ...",
        IMPORT + "class Accepted:\n    vm: Vm\n    job: Job",
        IMPORT + "jobs: list[Job] = []",
        IMPORT + "vm.cpu = job.progress",
        "from rich.progress import Job\nJob.filter()",
        "await store.save_vm(vm, missed=0)",
        "await self._snapshots.delete(caller, ref, sid)",
        "await request.services.vms.delete(caller, ref, force=True, keep_disks=False)",
        "await self._snapshots.create(caller, ref, new)",
        "values.get('key'), values.update(key=1), filter(None, values)",
    ],
)
def test_what_is_none_is_let_through(source: str) -> None:
    assert not calls_of_the_orm(source)


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("def rows() -> QuerySet[Vm]: ...", ["rows"]),
        ("async def rows(host: str) -> tuple[QuerySet[Vm], int]: ...", ["rows"]),
        ("def rows(): ...", ["rows"]),
        ("async def rows() -> list[Vm]: ...", []),
        ("def _rows() -> QuerySet[Vm]: ...", []),
    ],
)
def test_a_returned_query_is_found(source: str, names: list[str]) -> None:
    assert returned_queries(source) == names


def test_what_is_looked_for_is_what_tortoise_has() -> None:
    assert {"Vm", "Job", "Host", "Snapshot"} <= MODELS
    assert {"save", "delete", "refresh_from_db", "fetch_related"} == set(ROW_METHODS)
