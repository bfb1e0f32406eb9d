"""File systems of releases: made once a day, kept while in use, an older one in need."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from lab import releases
from lab.releases import Recipe, ReleaseError, find_root, lab_recipe, use_root

RECIPE = Recipe("trixie", ("python3",))
# A mmdebstrap that makes a file system of one file, in which its arguments are.
PROGRAM = """#!/bin/sh
for last; do :; done
mkdir -p "$last" && printf '%s\\n' "$@" > "$last/made-by"
"""


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(releases, "CACHE", tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Put a program of the given text in the place of mmdebstrap."""

    def write(text: str) -> None:
        program = tmp_path / "bin/mmdebstrap"
        program.parent.mkdir(exist_ok=True)
        program.write_text(text)
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(program.parent), prepend=":")

    write(PROGRAM)
    return write


@pytest.fixture
def day(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    return lambda text: monkeypatch.setattr(releases, "_today", lambda: text)


@pytest.mark.usefixtures("install")
def test_made_once_a_day_and_the_older_one_goes(day: Callable[[str], None], cache: Path) -> None:
    day("2026-03-01")
    assert find_root(RECIPE) is None
    with use_root(RECIPE) as root:
        assert root.from_today
        assert "trixie" in (root.path / "made-by").read_text().split()
        made = (root.path / "made-by").stat().st_ino
    with use_root(RECIPE) as again:
        assert (again.path / "made-by").stat().st_ino == made
    day("2026-03-02")
    found = find_root(RECIPE)
    assert found
    assert not found.from_today
    with use_root(RECIPE) as newer:
        assert newer.from_today
    assert [path.name for path in cache.glob("*/2026*")] == ["2026-03-02"]


@pytest.mark.usefixtures("install")
def test_file_system_in_use_stays(day: Callable[[str], None], cache: Path) -> None:
    day("2026-03-01")
    with use_root(RECIPE) as older:
        day("2026-03-02")
        with use_root(RECIPE) as newer:
            assert newer.directory != older.directory
            assert (older.path / "made-by").exists()
    day("2026-03-03")
    with use_root(RECIPE):
        assert [path.name for path in cache.glob("*/2026*")] == ["2026-03-03"]


@pytest.mark.usefixtures("install")
def test_one_of_another_recipe_stays_a_week(day: Callable[[str], None], cache: Path) -> None:
    day("2026-03-01")
    with use_root(Recipe("forky", ("python3",))):
        pass
    day("2026-03-08")
    with use_root(RECIPE):
        assert len(list(cache.glob("*/2026*"))) == 2
    day("2026-03-09")
    with use_root(RECIPE):
        assert [path.parent.name[:6] for path in cache.glob("*/2026*")] == ["trixie"]


def test_older_one_is_used_when_none_can_be_made(
    day: Callable[[str], None],
    install: Callable[[str], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    day("2026-03-01")
    with use_root(RECIPE) as older:
        pass
    day("2026-03-02")
    install("#!/bin/sh\necho 'no route to the archive' >&2\nexit 1\n")
    with use_root(RECIPE) as used:
        assert used == older
    said = capsys.readouterr().err
    assert "no route to the archive\nthe one of 2026-03-01 is used" in said
    other = Recipe("forky", ("python3",))
    with pytest.raises(ReleaseError, match="file system of forky: no route"), use_root(other):
        pass
    assert find_root(other) is None


@pytest.mark.usefixtures("install")
def test_recipe_with_other_packages_or_hooks_has_a_place_of_its_own(tmp_path: Path) -> None:
    hook = tmp_path / "hook.sh"
    hook.write_text("one")
    recipes = [RECIPE, Recipe("trixie", ("perl",)), Recipe("trixie", ("python3",), ("true",))]
    recipes.append(Recipe("trixie", ("python3",), ("true",), (hook,)))
    places = set()
    for recipe in recipes:
        with use_root(recipe) as root:
            places.add(root.directory)
    hook.write_text("two")
    assert find_root(recipes[-1]) is None
    assert len(places) == 4


def test_lab_host_has_what_the_role_would_install() -> None:
    tasks = Path(__file__).parents[2] / "roles/libvirt_host/vars/Debian.yml"
    packages = set(re.findall(r"^  - (\S+)$", tasks.read_text(), re.M))
    assert "libvirt-daemon-system" in packages
    assert packages < set(lab_recipe("trixie").installed)


def test_setup_installs_what_hosts_of_this_machine_would_install() -> None:
    """Hosts of the lab reach no server: without it, the role would have to fetch a package."""
    listed = (releases.PROJECT / "scripts/packages.txt").read_text()
    groups = dict(line.split(": ", 1) for line in listed.splitlines())
    assert set(releases.wanted_by_role()) - set(groups["lab"].split()) == set()
