"""Unit tests: what importing a part of the service loads; .importlinter has who may import what."""

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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("virtplay.cli", {"sanic", "ansible_runner", "ansible"}),
        ("virtplay.jobs.play", {"sanic", "tortoise", "ansible_runner", "pydantic", "asyncio"}),
        ("virtplay.app", {"ansible_runner", "ansible"}),
    ],
)
def test_what_is_heavy_is_not_loaded_before_it_is_needed(module: str, heavy: set[str]) -> None:
    program = f"import sys, {module}\nprint(*{{m.split('.')[0] for m in sys.modules}})"
    output = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    assert not heavy & set(output.split())
