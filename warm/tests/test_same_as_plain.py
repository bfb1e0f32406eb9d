"""Tests: a run through a server prints and returns what the plain ansible-playbook does."""

from __future__ import annotations

from pathlib import Path

import pytest
from running import LOCAL, PLAIN, Warm, both, comparable, copy_place, warm, write_play

pytestmark = pytest.mark.slow

SHOW = {
    "name": "Show what depends on the options",
    "ansible.builtin.debug": {
        "msg": {
            "check": "{{ ansible_check_mode }}",
            "diff": "{{ ansible_diff_mode }}",
            "forks": "{{ ansible_forks }}",
            "limit": "{{ ansible_limit | default('') }}",
            "tags": "{{ ansible_run_tags }}",
            "skip": "{{ ansible_skip_tags }}",
            "verbosity": "{{ ansible_verbosity }}",
            "given": "{{ given | default('') }}",
        }
    },
    "tags": ["one"],
}
FAIL = {"name": "Fail", "ansible.builtin.fail": {"msg": "on purpose"}}


@pytest.mark.parametrize(
    ("code", "tasks", "options"),
    [
        (0, [SHOW], ["-v", "--check", "--diff", "--tags", "one", "--limit", "localhost"]),
        (2, [SHOW, FAIL], ["--skip-tags", "two", "-e", "given=there", "--forks", "7"]),
        (4, [{"ansible.builtin.ping": {}}], ["-c", "ssh", "-e", "ansible_port=1"]),
        (4, [{"no_such_module": {}}], []),
        (1, [{"ansible.builtin.include_role": {"name": "no_such_role"}}], ["--syntax-check"]),
        (4, [SHOW], ["-e", "{bad"]),
        (2, [SHOW], ["--no-such-option"]),
        (0, [SHOW], ["--version"]),
        (0, [SHOW], ["--list-tasks", "--list-tags"]),
    ],
)
def test_status_and_output_are_the_same(
    code: int, tasks: list[object], options: list[str], served: Warm
) -> None:
    playbook = write_play(copy_place(served, "status") / "play.yml", *tasks)  # type: ignore[arg-type]
    plain, run = both(served, *LOCAL, *options, playbook)
    assert run == plain
    if options != ["--syntax-check"]:
        assert run.code == code
    again = write_play(playbook, SHOW)
    shown = served.serve(*LOCAL, again).out
    assert '"check": false' in shown
    assert '"verbosity": "0"' in shown or '"verbosity": 0' in shown
    assert '"given": ""' in shown
    assert '"limit": ""' in shown


@pytest.mark.parametrize(
    ("content", "code"),
    [(None, 1), ("- hosts: [", 4), ("- hosts: localhost\n  roles: [no_such_role]\n", 1)],
)
def test_playbook_that_cannot_be_loaded_fails_the_same_way(
    content: str | None, code: int, served: Warm
) -> None:
    playbook = copy_place(served, "broken") / "play.yml"
    if content:
        playbook.write_text(content)
    plain, run = both(served, *LOCAL, playbook)
    assert run == plain
    assert run.code == code


def test_output_that_cannot_be_written_is_the_same_failure(served: Warm) -> None:
    playbook = write_play(copy_place(served, "full") / "play.yml", SHOW)
    with Path("/dev/full").open("w") as full:
        plain, run = both(served, *LOCAL, playbook, stdout=full)
    assert run.code == plain.code
    assert "No space left on device" in run.err
    assert run.err.splitlines() == plain.err.splitlines()[: len(run.err.splitlines())]


def test_settings_and_callbacks_are_those_of_the_server(tmp_path: Path) -> None:
    configuration = tmp_path / "ansible.cfg"
    configuration.write_text(
        "[defaults]\ndisplay_skipped_hosts = no\nno_such_option_but_harmless = 1\n"
        "allow_world_readable_tmpfiles = yes\nansible_managed = mine\n"
        f"log_path = {tmp_path}/log.txt\ncallbacks_enabled = ansible.posix.timer\n"
        "callback_result_format = yaml\n"
    )
    with warm(tmp_path, ANSIBLE_FORCE_COLOR="1", ANSIBLE_SHOW_CUSTOM_STATS="1") as place:
        assert not (tmp_path / "log.txt").exists(), "the warm-up is logged"
        playbook = write_play(place.project / "play.yml", SHOW, {**SHOW, "when": False}, FAIL)
        plain = comparable(place.run(PLAIN, *LOCAL, playbook))
        logged = (tmp_path / "log.txt").read_text()
        (tmp_path / "log.txt").rename(tmp_path / "log.old")
        run = comparable(place.serve(*LOCAL, playbook))
        assert run == plain
        assert "\x1b[" in run.out
        assert "WARNING" in run.err
        assert (tmp_path / "log.txt").read_text().count("\n") == logged.count("\n")
        assert logged.count("\n") > 5


@pytest.mark.parametrize("callback", ["minimal", "ansible.posix.json", "no_such_callback"])
def test_callback_for_standard_output_is_the_same(callback: str, tmp_path: Path) -> None:
    with warm(tmp_path, ANSIBLE_STDOUT_CALLBACK=callback) as place:
        plain, run = both(place, *LOCAL, write_play(place.project / "play.yml", SHOW, FAIL))
        assert _without_ids(run.out) == _without_ids(plain.out)
        assert (run.code, run.err) == (plain.code, plain.err)


def _without_ids(text: str) -> list[str]:
    return [line for line in text.splitlines() if '"id": "' not in line]
