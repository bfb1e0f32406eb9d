"""Distributions: hosts of several releases in one lab, each with a file system of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab import Lab, LabError
from lab.releases import PROJECT, find_root, lab_recipe
from tests.distributions.hosts import OLD
from tests.distributions.report import Row


@pytest.mark.usefixtures("lab_machine")
def test_hosts_take_the_releases_in_turn_and_change_their_own_files_only(
    release: str, row: Row
) -> None:
    if release == OLD:
        pytest.skip("there is nothing older")
    names = [OLD, release, OLD]
    with (
        Lab(hosts=3, prepare=False, releases=[OLD, release]) as lab,
        row("a lab with hosts of Debian 12 and of the release"),
    ):
        assert [host.release for host in lab.hosts] == names
        for host, name in zip(lab.hosts, names, strict=True):
            assert f"VERSION_CODENAME={name}" in host.ssh("cat /etc/os-release").stdout
            assert host.uuid in host.run("virsh", "capabilities").stdout
            assert host.run("test", "-e", "/dev/kvm", check=False).returncode == 1
            assert host.run("dpkg-query", "-Wf", "${Version}", "libvirt-daemon").stdout
            for path in ("/usr/bin/mark", "/etc/mark", "/root/mark"):
                host.run("test", "!", "-e", path)
                host.run("touch", path)
                root = find_root(lab_recipe(name))
                assert root
                assert not (root.path / path[1:]).exists()
                assert not Path(path).exists()
            with pytest.raises(LabError, match="Read-only file system"):
                host.run("touch", str(PROJECT / "mark"))
