"""The versions of Python packages that `make` installs, by the Python that it finds."""

from __future__ import annotations

import sys
import tomllib
from importlib.metadata import distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name

ROOT = Path(__file__).parents[2]
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
NOT_TRIED = "3.15"


def pinned(python: str) -> dict[NormalizedName, list[str]]:
    """Return package → its versions in constraints.txt for a release of Python."""
    environment = {"python_version": python, "python_full_version": f"{python}.1"}
    found: dict[NormalizedName, list[str]] = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if not line.startswith("#"):
            each = Requirement(line)
            if each.marker is None or each.marker.evaluate(environment):
                (version,) = each.specifier
                found.setdefault(canonicalize_name(each.name), []).append(version.version)
    return found


@pytest.mark.parametrize("python", PYTHONS)
def test_each_package_has_one_version_that_the_project_accepts(python: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = pinned(python)
    assert [name for name, versions in pins.items() if len(versions) > 1] == []
    for text in project["dependencies"] + project["optional-dependencies"]["dev"]:
        wanted = Requirement(text)
        (version,) = pins.get(canonicalize_name(wanted.name), ["none"])
        assert wanted.specifier.contains(version), f"{text}: {version} is pinned; run make pins"


def test_python_that_nobody_has_tried_gets_the_newest_versions() -> None:
    assert pinned(NOT_TRIED) == {}


def test_what_the_tests_run_with_is_what_is_pinned() -> None:
    pins = pinned(f"{sys.version_info.major}.{sys.version_info.minor}")
    here = {canonicalize_name(each.metadata["Name"]): each.version for each in distributions()}
    other = {
        name: (here[name], versions)
        for name, versions in pins.items()
        if name in here and here[name] not in versions
    }
    assert other == {}, "run make setup-dev"
