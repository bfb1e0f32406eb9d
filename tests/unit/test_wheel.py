"""The wheel: what is in it, what it requires, and that it runs without a checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import zipfile
from email.parser import BytesParser
from pathlib import Path

import pytest
import virtplay
import yaml
from packaging.requirements import Requirement

from hatch_build import load_packer, read_pins
from scripts.release import build_wheel

ROOT = Path(__file__).parents[2]
SHARE = "virtplay/share/"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, unpacked."""
    site = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    return site


def run(site: Path, *words: str) -> str:
    """Run the unpacked `virtplay` in a directory of its own; what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "virtplay.cli", *words],
        cwd=site.parent,
        env={
            "PATH": os.defpath,
            "HOME": str(site.parent),
            "PYTHONPATH": str(site),
            "ANSIBLE_WARM": "0",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_has_what_a_checkout_installs(wheel: Path, site: Path) -> None:
    packer = load_packer(ROOT)
    checkout, packed = packer.read_directory(ROOT), packer.read_wheel(wheel)
    assert packed.keys() == checkout.keys()
    assert packer.name_release(packed) == packer.name_release(checkout)
    assert packer.read_source(site / SHARE).keys() == checkout.keys()
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("playbooks", "inventory", "prometheus/rules", "grafana/dashboards"):
        wanted = {f"{SHARE}{folder}/{path.name}" for path in (ROOT / folder).iterdir()}
        assert wanted
        assert wanted <= names
    for role in (ROOT / "roles").iterdir():
        assert f"{SHARE}roles/{role.name}/meta/argument_specs.yml" in names
    assert f"{SHARE}collections/ansible_collections/virtplay/libvirt/galaxy.yml" in names
    packages = {"ansible_warm/manager.py", "virtplay/machine/first_vm.yml"}
    assert packages | {"virtplay/web/console.html"} <= names
    tests = ("/tests/", "/molecule/", "__pycache__", "/var/", "/.git")
    assert [name for name in names if any(part in f"/{name}" for part in tests)] == []


def test_the_same_files_are_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    assert build_wheel(tmp_path).read_bytes() == wheel.read_bytes()


def test_the_wheel_requires_the_versions_that_were_tried(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        [name] = [each for each in archive.namelist() if each.endswith(".dist-info/METADATA")]
        about = BytesParser().parsebytes(archive.read(name))
    assert about["Version"] == virtplay.__version__
    required = [Requirement(text) for text in about.get_all("Requires-Dist", [])]
    assert not [each for each in required if each.url or each.name == "ansible-warm"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    given = {str(each) for each in required}
    assert {str(Requirement(text)) for text in project["dependencies"]} <= given
    pins = {str(Requirement(text)) for text in read_pins(ROOT)}
    assert pins
    assert pins <= given
    named = {Requirement(text).name for text in project["dependencies"]}
    assert named <= {Requirement(text).name for text in read_pins(ROOT)}


def test_without_a_checkout_it_finds_its_own_files(site: Path) -> None:
    assert run(site, "version") == f"virtplay {virtplay.__version__}\n"
    assert run(site, "files") == f"{site / SHARE.rstrip('/')}\n"
    listed = run(site, "playbook", "--list").splitlines()[1:]
    assert [line.split()[0] for line in listed] == sorted(
        path.stem for path in (ROOT / "playbooks").glob("*.yml")
    )


@pytest.mark.slow
def test_without_a_checkout_a_playbook_finds_roles_and_collection(site: Path) -> None:
    shown = run(site, "playbook", "vm_create", "--list-tasks")
    assert str(site / SHARE / "playbooks/vm_create.yml") in shown
    assert "libvirt_domain : Create the VM" in shown


def test_wheel_and_collection_have_one_version() -> None:
    galaxy = ROOT / "collections/ansible_collections/virtplay/libvirt/galaxy.yml"
    assert yaml.safe_load(galaxy.read_text())["version"] == virtplay.__version__
