"""Builds and tests the collection as it is published on Galaxy, with its roles and playbooks.

`python -m scripts.collection build|sanity|integration|changelog [argument …]`. All but the last
use a copy under build/, as ansible-galaxy and ansible-test require roles and playbooks inside.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from configparser import ConfigParser
from pathlib import Path

import yaml

from lab import Lab

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "collections/ansible_collections/virtplay/libvirt"
BUILD = ROOT / "build"
ANSIBLE_TEST = BUILD / "ansible-test"
BIN = Path(sys.executable).parent
HOST_PYTHON = "/usr/bin/python3"
OUR_PYTHON = f"3.{sys.version_info.minor}"
# Not published: files of other tools, and the scenarios that test the roles.
LEFT_OUT = shutil.ignore_patterns(
    "__pycache__", "*.pyc", ".mypy_cache", ".ruff_cache", ".ansible", "molecule", "output"
)


def stage(target: Path) -> Path:
    """Copy collection, roles, playbooks and licence to target/ansible_collections/virtplay/libvirt.

    Replaces an earlier copy. Returns that path.
    """
    copy = target / "ansible_collections/virtplay/libvirt"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(SOURCE, copy, ignore=LEFT_OUT)
    for directory in ("roles", "playbooks"):
        shutil.copytree(ROOT / directory, copy / directory, ignore=LEFT_OUT)
    shutil.copy(ROOT / "LICENSE", copy)
    return copy


def build(output: Path = BUILD) -> Path:
    """Build the tarball into output and return its path."""
    copy = stage(output / "collection")
    about = yaml.safe_load((copy / "galaxy.yml").read_text())
    _run(
        "ansible-galaxy", "collection", "build", "--force", str(copy), "--output-path", str(output)
    )
    return output / f"{about['namespace']}-{about['name']}-{about['version']}.tar.gz"


def ansible_test(*arguments: str) -> None:
    """Run ansible-test on a copy of the collection, with a home of its own under build/.

    The home keeps its virtual environments. ansible-test would download pip from a server of the
    Ansible project; with the pip that Python contains, a package index is enough.
    """
    cache = ANSIBLE_TEST / ".ansible/test/cache"
    cache.mkdir(parents=True, exist_ok=True)
    (cache / "get_pip_24_2.py").write_text("import ensurepip\n\nensurepip.bootstrap()\n")
    _write_pip_settings(ANSIBLE_TEST / ".config/pip/pip.conf")
    copy = stage(ANSIBLE_TEST)
    # ansible-test lists the files with git, and this repository ignores build/.
    subprocess.run(["git", "init", "-q", str(copy)], check=True)
    (copy / ".gitignore").write_text("/tests/output/\n")
    _run("ansible-test", *arguments, cwd=copy, env={"HOME": str(ANSIBLE_TEST), "LC_ALL": "C.UTF-8"})


def sanity(*arguments: str) -> None:
    """Run every sanity test, and those of modules with every Python on this machine."""
    ansible_test("sanity", "--python", OUR_PYTHON, *arguments)
    for version in [] if arguments else other_pythons():
        ansible_test("sanity", "--python", version, "--test", "compile", "--test", "import")


def other_pythons() -> list[str]:
    """Return the other Python versions on this machine, from the oldest supported on hosts."""
    found = []
    for minor in sorted(set(range(9, 14)) - {sys.version_info.minor}):
        program = shutil.which(f"python3.{minor}")
        # A shim may exist for a Python that is not installed.
        if (
            program
            and subprocess.run([program, "-c", ""], capture_output=True, check=False).returncode
            == 0
        ):
            found.append(f"3.{minor}")
    return found


def integration(*arguments: str) -> None:
    """Run the integration targets on a host of a lab, or with --local on this machine, as root."""
    # Only the system's Python has the libvirt bindings; lab hosts share it with this machine.
    version = "import sys; print('%d.%d' % sys.version_info[:2])"
    asked = subprocess.run([HOST_PYTHON, "-c", version], stdout=subprocess.PIPE, check=True)
    python = f"python={asked.stdout.decode().strip()}@{HOST_PYTHON}"

    def run(target: str) -> None:
        others = [argument for argument in arguments if argument != "--local"]
        where = ("--controller", f"origin:python={OUR_PYTHON}", "--target", f"{target}{python}")
        ansible_test("integration", *where, "--allow-root", "--allow-destructive", *others)

    if "--local" in arguments:
        run("controller:")
        return
    with Lab(hosts=1) as lab:
        # ansible-test logs in with this key.
        keys = ANSIBLE_TEST / ".ansible/test"
        keys.mkdir(parents=True, exist_ok=True)
        for suffix in ("", ".pub"):
            shutil.copy(lab.directory / f"id_ed25519{suffix}", keys / f"id_rsa{suffix}")
        run(f"ssh:root@{lab.hosts[0].address},")


def changelog(*arguments: str) -> None:
    """Run antsibull-changelog in the collection, e.g. `lint` or `release`."""
    _run("antsibull-changelog", *arguments, cwd=SOURCE)
    (SOURCE / "changelogs/.plugin-cache.yaml").unlink(missing_ok=True)


def _write_pip_settings(path: Path) -> None:
    """Write the user's pip settings to a file, as ansible-test passes no variable on to pip."""
    shown = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    )
    settings = ConfigParser(interpolation=None)
    for line in shown.stdout.splitlines():
        name, _sign, value = line.partition("=")
        section, _dot, option = name.rpartition(".")
        section = "global" if section == ":env:" else section
        if not settings.has_section(section):
            settings.add_section(section)
        settings[section][option] = value.strip("'\"").replace("\\n", "\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    # The address of an index may contain a password.
    path.touch(mode=0o600)
    path.chmod(0o600)
    with path.open("w") as file:
        settings.write(file)


def _run(
    program: str, *arguments: str, cwd: Path = ROOT, env: Mapping[str, str] | None = None
) -> None:
    environment = dict(os.environ)
    if str(BIN) not in environment["PATH"].split(os.pathsep):
        environment["PATH"] = f"{BIN}{os.pathsep}{environment['PATH']}"
    environment |= env or {}
    subprocess.run(
        [str(BIN / program), *arguments],
        cwd=cwd,
        env=environment,
        check=True,
    )


def main(command: str, *arguments: str) -> None:
    """Run the command that the first argument names."""
    match command:
        case "build":
            print(build())
        case "sanity":
            sanity(*arguments)
        case "integration":
            integration(*arguments)
        case "changelog":
            changelog(*arguments)
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:] or ["help"])
    except subprocess.CalledProcessError as error:
        raise SystemExit(error.returncode) from None
