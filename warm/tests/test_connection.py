"""Tests: sockets, locks and settings, without Ansible."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from ansible_warm import connection, forks, manager, own_servers


@pytest.mark.parametrize("length", [2, 106, 200, 3900])
def test_socket_may_have_a_path_of_any_length(
    length: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path
    while len(str(directory)) + 2 < length:
        directory /= "d" * min(100, max(1, length - len(str(directory)) - 3))
        directory.mkdir()
    with forks.listen(directory / "s"):
        connection.connect(str(directory / "s")).close()
        monkeypatch.chdir(directory)
        connection.connect("./s").close()


def test_socket_without_a_server_is_none(tmp_path: Path) -> None:
    with pytest.raises(connection.NoServer, match="No such file"):
        connection.connect(str(tmp_path / "missing"))
    forks.listen(tmp_path / "left").close()
    with pytest.raises(connection.NoServer, match="Connection refused"):
        connection.connect(str(tmp_path / "left"))


def test_listener_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with forks.listen(path) as old, forks.listen(path) as new:
        connection.connect(str(path)).close()
        new.settimeout(0)
        new.accept()[0].close()
        old.settimeout(0)
        with pytest.raises(BlockingIOError):
            old.accept()
        assert os.listdir(tmp_path) == ["socket"]


def test_full_queue_of_a_server_is_waited_for_only_so_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "ANSWER_SECONDS", 1)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen(0)
        waiting = connection.connect(str(tmp_path / "socket"))
        with pytest.raises(connection.Unavailable, match="temporarily unavailable"):
            connection.connect(str(tmp_path / "socket"))
        waiting.close()


def test_lock_of_a_manager_is_held_by_one(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    lock = manager.take_lock(path)
    assert lock is not None
    assert manager.take_lock(path) is None
    manager.remove(path, lock)
    assert os.listdir(tmp_path) == []
    lock = manager.take_lock(path)
    assert lock is not None
    manager.remove(path, lock)


BASE = {"HOME": "/home/one", "ANSIBLE_CONFIG": "/etc/one.cfg", "PATH": "/bin"}


@pytest.mark.parametrize(
    ("changes", "directory", "is_same"),
    [
        ({}, "/two", True),
        ({"PATH": "/usr/bin", "WORD": "two"}, "/one", True),
        ({"ANSIBLE_WARM_IDLE": "1"}, "/one", True),
        ({"ANSIBLE_CACHE_PLUGIN_CONNECTION": "/of/one/run"}, "/one", True),
        ({"HOME": "/home/two"}, "/one", False),
        ({"LC_ALL": "C.UTF-8"}, "/one", False),
        ({"NO_COLOR": ""}, "/one", False),
        ({"ANSIBLE_FORKS": "9"}, "/one", False),
    ],
)
def test_settings_are_the_same(changes: dict[str, str], directory: str, is_same: bool) -> None:
    found = own_servers.settings({**BASE, **changes}, directory)
    assert (found == own_servers.settings(BASE, "/one")) is is_same


@pytest.mark.parametrize(
    ("changes", "depends"),
    [
        ({"ANSIBLE_STDOUT_CALLBACK": "json"}, False),
        ({"ANSIBLE_ROLES_PATH": "/roles:~/roles"}, False),
        ({"ANSIBLE_ROLES_PATH": "/roles:roles"}, True),
        ({"ANSIBLE_INVENTORY": "hosts"}, True),
        ({"ANSIBLE_CONFIG": "one.cfg"}, True),
        ({"ANSIBLE_CONFIG": ""}, True),
        ({"PYTHONPATH": "/lib"}, False),
        ({"PYTHONPATH": "/lib:lib"}, True),
    ],
)
def test_relative_settings_depend_on_the_directory(changes: dict[str, str], depends: bool) -> None:
    environment = {**BASE, **changes}
    first, second = (own_servers.settings(environment, each) for each in ("/one", "/two"))
    assert (first != second) is depends


@pytest.mark.parametrize(
    ("text", "changes", "is_same"),
    [
        ("roles_path = $PROJECT/roles:${OTHER}/roles", {"PROJECT": "/two"}, False),
        ("roles_path = $PROJECT/roles:${OTHER}/roles", {"OTHER": "/two"}, False),
        ("roles_path = $PROJECT/roles", {"OTHER": "/two"}, True),
        ("roles_path = /roles", {"PROJECT": "/two"}, True),
    ],
)
def test_variables_of_the_configuration_are_settings(
    text: str, changes: dict[str, str], is_same: bool, tmp_path: Path
) -> None:
    configuration = tmp_path / "ansible.cfg"
    configuration.write_text(f"[defaults]\n{text}\n")
    base = {**BASE, "ANSIBLE_CONFIG": str(configuration), "PROJECT": "/one"}
    first = own_servers.settings(base, "/one")
    assert (own_servers.settings({**base, **changes}, "/one") == first) is is_same


def test_a_path_in_the_working_directory_depends_on_it(tmp_path: Path) -> None:
    configuration = tmp_path / "ansible.cfg"
    configuration.write_text("[defaults]\nlog_path = {{CWD}}/log\n")
    environment = {**BASE, "ANSIBLE_CONFIG": str(configuration)}
    first, second = (own_servers.settings(environment, each) for each in ("/one", "/two"))
    assert first != second


def test_changes_of_files_are_told_by_their_signature(tmp_path: Path) -> None:
    file, missing = tmp_path / "file", tmp_path / "missing"
    file.write_text("one")
    paths = [str(tmp_path), str(file), str(missing)]
    before = manager.signature(paths)
    assert manager.signature(paths) == before
    os.utime(file, ns=(1, 1))
    assert manager.signature(paths) != before
    before = manager.signature(paths)
    missing.touch()
    assert manager.signature(paths) != before
