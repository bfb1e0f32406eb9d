"""Unit tests: what importing a part of the service brings with it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import virtplay

PACKAGE = Path(virtplay.__file__).parent
MODULES = sorted(
    ".".join(("virtplay", *path.relative_to(PACKAGE).with_suffix("").parts))
    .removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
    if "migrations" not in path.parts and path.name != "__main__.py"
)  # fmt: skip
PURE = ("errors", "settings", "actions", "placement", "progress", "states")
DOORS = {
    "sanic": ("app", "api/"),
    "tortoise": ("store/",),
    "ansible_runner": ("play",),
    "prometheus_client": ("metrics/",),
    "asyncssh": ("console/reach",),
    "websockets": ("api/", "cli/console"),
    "libvirt": (),
}


def imports_of(path: Path) -> set[str]:
    """Every module that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@pytest.mark.parametrize("name", PURE)
def test_pure_files_import_nothing_of_the_service_but_pure_ones(name: str) -> None:
    of_service = {m for m in imports_of(PACKAGE / f"{name}.py") if m.startswith("virtplay.")}
    allowed = {"virtplay.errors", "virtplay.states"}
    assert {".".join(m.split(".")[:2]) for m in of_service} <= allowed


@pytest.mark.parametrize(("library", "doors"), DOORS.items())
def test_one_door_a_library(library: str, doors: tuple[str, ...]) -> None:
    for path in PACKAGE.rglob("*.py"):
        inside = path.relative_to(PACKAGE).with_suffix("").as_posix()
        if any(inside == d or (d.endswith("/") and inside.startswith(d)) for d in doors):
            continue
        roots = {module.split(".")[0] for module in imports_of(path)}
        assert library not in roots, f"{inside} imports {library}"


@pytest.mark.slow
def test_every_module_can_be_imported_first() -> None:
    program = (
        "import importlib, sys\n"
        f"for name in {MODULES!r}:\n"
        "    for loaded in [m for m in sys.modules if m.split('.')[0] == 'virtplay']:\n"
        "        del sys.modules[loaded]\n"
        "    importlib.import_module(name)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("virtplay.cli", {"sanic", "ansible_runner", "ansible"}),
        ("virtplay.play", {"sanic", "tortoise", "ansible_runner", "pydantic"}),
        ("virtplay.app", {"ansible_runner", "ansible"}),
    ],
)
def test_what_is_heavy_is_not_loaded_before_it_is_needed(module: str, heavy: set[str]) -> None:
    program = f"import sys, {module}\nprint(*{{m.split('.')[0] for m in sys.modules}})"
    output = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    assert not heavy & set(output.split())
