"""Builds a release into dist/: the wheel, the collection's tarball and the changelog.

`make release`. dist/ is emptied first. The same files give the same wheel.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from scripts import changelog, collection

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"


def build(output: Path = DIST) -> list[Path]:
    """Build everything into a directory, which is emptied first; return the files."""
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    wheel = build_wheel(output)
    tarball = shutil.copy(collection.build(), output)
    notes = output / "CHANGELOG.md"
    notes.write_text(changelog.write_notes(collection=True))
    return [wheel, Path(tarball), notes]


def build_wheel(output: Path, root: Path = ROOT) -> Path:
    """Build the wheel of a checkout into a directory, in which it is the only one; return it."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(output)],
        cwd=root,
        stdout=subprocess.DEVNULL,
        check=True,
    )
    (wheel,) = output.glob("*.whl")
    return wheel


def main() -> None:
    """Build a release and print its files."""
    for path in build():
        print(path.relative_to(ROOT))
    if not (ROOT / "service/web/node_modules/.complete").exists():
        print("without the console page's packages: npm is not installed", file=sys.stderr)


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        raise SystemExit(error.returncode) from None
