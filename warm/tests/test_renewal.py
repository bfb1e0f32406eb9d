"""Tests: a server is replaced when what it has loaded changes on disk, and serves until then."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import pytest
from running import CLIENT, LOCAL, WAIT_SECONDS, Warm, is_running, wait_for, warm, write_play

pytestmark = pytest.mark.slow

MODULE = """
from ansible.module_utils.basic import AnsibleModule
from ansible_collections.one.two.plugins.module_utils.words import WORD
AnsibleModule(argument_spec={}).exit_json(word=WORD, own="one")
"""
ACTION = """
from ansible.plugins.action import ActionBase
class ActionModule(ActionBase):
    def run(self, tmp=None, task_vars=None):
        return {"changed": False, "word": "one"}
"""
FILES = {
    "galaxy.yml": "namespace: one\nname: two\nversion: 1.0.0\n",
    "meta/runtime.yml": "requires_ansible: '>=2.9'\n",
    "plugins/modules/both.py": MODULE,
    "plugins/module_utils/words.py": "WORD = 'one'\n",
    "plugins/action/act.py": ACTION,
    "plugins/filter/note.txt": "one",
}


def prepare(place_directory: Path) -> tuple[Path, dict[str, str]]:
    collection = place_directory / "collections/ansible_collections/one/two"
    for name, text in FILES.items():
        path = collection / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    # Without its caches, which would be files that are added.
    return collection, {
        "ANSIBLE_COLLECTIONS_PATH": f"{place_directory}/collections",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def words(place: Warm) -> str:
    """Return what the collection's plugins say."""
    playbook = write_play(
        place.project / "words.yml",
        {"one.two.both": None, "register": "module"},
        {"one.two.act": None, "register": "action"},
        {"ansible.builtin.debug": {"msg": "{{ module.word }} {{ module.own }} {{ action.word }}."}},
    )
    done = place.serve(*LOCAL, playbook)
    assert done.code == 0, done.out + done.err
    return done.out.partition('"msg": "')[2].partition('."')[0]


def _says(place: Warm, expected: str) -> bool:
    return words(place) == expected


def test_changes_of_a_collection_are_seen(tmp_path: Path) -> None:
    collection, environment = prepare(tmp_path)
    none = ("action:one.two.none", "filter:one.two.none", "filter:none.none.none")
    options = [f"--load={plugin}" for plugin in ("action:one.two.act", *none)]
    with warm(tmp_path, *options, **environment) as place:
        assert words(place) == "one one one"
        for plugin in none:
            assert f"cannot load plugin {plugin}: there is none" in place.log.read_text()
        waits, goes = place.project / "waits", place.project / "goes"
        task = {"ansible.builtin.shell": f"touch {waits}; while ! [ -e {goes} ]; do sleep 1; done"}
        long = place.start(
            CLIENT,
            *LOCAL,
            write_play(place.project / "long.yml", task, {"one.two.act": None}),
        )
        wait_for(waits.exists, "task")
        old = place.server()
        changes = {
            "plugins/modules/both.py": (MODULE.replace('"one"', '"two"'), "one two one"),
            "plugins/module_utils/words.py": ("WORD = 'two'\n", "two two one"),
            "plugins/action/act.py": (ACTION.replace('"one"', '"two"'), "two two two"),
        }
        for name, (text, expected) in changes.items():
            (collection / name).write_text(text)
            # The old one serves until the new one is warm; each answer is whole.
            wait_for(partial(_says, place, expected), f"change of {name}")
        assert is_running(old), "the long run has ended its server"
        goes.touch()
        out, _ = long.communicate(timeout=WAIT_SECONDS)
        assert long.returncode == 0, out
        wait_for(lambda: not is_running(old), "end of the old server")


def test_added_deleted_and_upgraded_files_renew_the_server(tmp_path: Path) -> None:
    collection, environment = prepare(tmp_path)
    packages = tmp_path / "packages"
    packages.mkdir()
    # Two at once: each renewal costs the start of Ansible.
    with warm(tmp_path, **environment, PYTHONPATH=str(packages)) as place:
        server = place.server()
        (packages / "new-1.0.dist-info").mkdir()
        server = place.renewed(server)
        (collection / "plugins/filter/note.txt").unlink()
        (collection / "plugins/filter/more.py").write_text("class FilterModule: filters = dict\n")
        server = place.renewed(server)
        place.configuration.write_text("[defaults]\nforks = 9\n")
        place.renewed(server)
        task = {"ansible.builtin.debug": {"msg": "{{ ansible_forks }}."}}
        assert '"9."' in place.serve(*LOCAL, write_play(place.project / "forks.yml", task)).out


def test_collections_that_break_the_warm_up_leave_the_old_server(tmp_path: Path) -> None:
    _, environment = prepare(tmp_path)
    with warm(tmp_path, **environment) as place:
        server = place.server()
        place.configuration.write_text("[defaults\n")
        wait_for(lambda: "defaults" in place.log.read_text(), "message of the new server")
        assert is_running(server)
        assert words(place) == "one one one"
        began = len(place.log.read_text())
        until = time.monotonic() + 3
        wait_for(lambda: time.monotonic() > until)
        assert place.log.read_text()[began:] == "", "it says so twice"
        place.configuration.write_text("")
        place.renewed(server)
