"""Tests: a run through a server inherits from its client what the plain program inherits."""

from __future__ import annotations

import fcntl
import json
import os
import re
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from running import (
    CLIENT,
    LOCAL,
    PLAIN,
    WAIT_SECONDS,
    Warm,
    both,
    comparable,
    copy_place,
    write_play,
)

pytestmark = pytest.mark.slow

DATA = Path(__file__).with_name("data")


def inspected(place: Warm, directory: Path, program: list[str], **options: Any) -> dict[str, Any]:
    """Run a playbook and return what its process has inherited."""
    (directory / "callback_plugins").mkdir(exist_ok=True)
    shutil.copy(DATA / "inspect_run.py", directory / "callback_plugins")
    playbook = write_play(directory / "play.yml", {"ansible.builtin.meta": "noop"})
    result = directory / "inspected"
    result.unlink(missing_ok=True)
    options["more"] = {"INSPECTED": str(result), **options.get("more", {})}
    done = place.run(program, *LOCAL, playbook, **options)
    assert done.code == 0, done.err
    found: dict[str, Any] = json.loads(result.read_text())
    if program == PLAIN and len(PLAIN) > 1:  # started by the name of Python, not by its own
        assert found["name"] == "\tpython"
        found["name"] = "\tansible-playboo"
    # A pipe has another number in each run.
    text = json.dumps(found)
    return dict(json.loads(re.sub(r"(pipe|socket):\[\d+\]|#\d+", r"\1", text)))


def assert_same(place: Warm, name: str, **options: Any) -> dict[str, Any]:
    directory = copy_place(place, name)
    plain = inspected(place, directory, PLAIN, **options)
    run = inspected(place, directory, CLIENT, **options)
    assert place.reasons() == [], place.log.read_text()
    for found in (plain, run):
        # The client's own variables, and what a shell sets for the program that it starts.
        for each in ("environment", "shown environment"):
            assert found[each]
    assert sorted(run) == sorted(plain)
    for key, value in plain.items():
        assert (key, run[key]) == (key, value)
    return run


def set_up(*changes: Callable[[], object]) -> Callable[[], None]:
    def change() -> None:
        for each in changes:
            each()

    return change


def test_unusual_properties_are_handed_over(served: Warm) -> None:
    change = set_up(
        lambda: os.umask(0o027),
        lambda: os.nice(3),
        lambda: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}),
        lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (300, 400)),
        lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)),
        lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
        lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
        lambda: signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2]),
    )
    elsewhere = copy_place(served, "else where")
    found = assert_same(
        served,
        "unusual",
        preexec_fn=change,
        cwd=elsewhere,
        more={"TMPDIR": str(elsewhere), "TZ": "Asia/Tokyo", "WORDS": "ü \udcff ü", "EMPTY": ""},
        restore_signals=False,
    )
    assert found["umask"] == 0o027
    assert found["directory"] == str(elsewhere)
    assert found["limits"]["RLIMIT_NOFILE"] == [300, 400]
    assert found["zone"] == ["JST", "JST"]


def test_the_next_run_inherits_nothing_of_the_one_before(served: Warm) -> None:
    found = assert_same(served, "usual")
    assert found["umask"] == 0o022
    assert "WORDS" not in found["environment"]


def test_descriptors_are_handed_over(served: Warm, tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file:
        numbers = [fcntl.fcntl(file, fcntl.F_DUPFD, above) for above in (3, 63, 200)]
        try:
            found = assert_same(served, "descriptors", pass_fds=numbers)
        finally:
            for number in numbers:
                os.close(number)
    assert [found["descriptors"][str(each)] for each in numbers] == [file.name] * 3


def test_closed_input_stays_closed(served: Warm) -> None:
    found = assert_same(served, "closed", preexec_fn=lambda: os.close(0))
    assert found["streams"][0] is None


@pytest.mark.parametrize("closed", [1, 2])
def test_closed_output_is_the_same_failure(closed: int, served: Warm) -> None:
    playbook = write_play(
        copy_place(served, "closed") / "play.yml", {"ansible.builtin.meta": "noop"}
    )
    plain, run = (
        comparable(served.run(program, *LOCAL, playbook, preexec_fn=lambda: os.close(closed)))
        for program in (PLAIN, CLIENT)
    )
    assert run == plain
    assert served.reasons() == ["standard output or error is closed"]


def test_standard_input_is_read_by_the_run(served: Warm, tmp_path: Path) -> None:
    (tmp_path / "words").write_text("of a file")
    directory = copy_place(served, "input")
    more = {"READ_INPUT": "1"}
    found = inspected(served, directory, CLIENT, stdin=-1, input="of a pipe", more=more)
    assert found["input"] == "of a pipe"
    with (tmp_path / "words").open() as file:
        found = inspected(served, directory, CLIENT, stdin=file, more=more)
    assert found["input"] == "of a file"
    assert served.reasons() == []


def test_non_blocking_output_is_refused_as_without_a_server(served: Warm) -> None:
    playbook = write_play(copy_place(served, "blocking") / "play.yml")
    change = set_up(lambda: os.set_blocking(1, False))
    plain, run = both(served, *LOCAL, playbook, preexec_fn=change)
    assert run == plain
    assert run.code == 1


MODULE = """
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.words import WORD
AnsibleModule(argument_spec={}).exit_json(word=WORD, own="OWN")
"""
FILTER = """
class FilterModule:
    def filters(self):
        return {"own": lambda value: "OWN"}
"""
TEST = """
class TestModule:
    def tests(self):
        return {"own": lambda value: value == "OWN"}
"""
COLLECTION_MODULE = """
from ansible.module_utils.basic import AnsibleModule
AnsibleModule(argument_spec={}).exit_json(own="OWN")
"""


def write_project(directory: Path, own: str) -> Path:
    """Write a playbook with a module, a filter, a test, a collection and a role beside it."""
    role = directory / "roles/role_of_both"
    collection = directory / "collections/ansible_collections/one/both"
    files = {
        "library/both.py": MODULE,
        "library/ping.py": COLLECTION_MODULE,
        "module_utils/words.py": f"WORD = {own!r}",
        "filter_plugins/both.py": FILTER,
        "test_plugins/both.py": TEST,
        "roles/role_of_both/tasks/main.yml": "- both_of_role:\n  register: of_role\n",
        "roles/role_of_both/library/both_of_role.py": COLLECTION_MODULE,
        f"{collection.relative_to(directory)}/plugins/modules/both.py": COLLECTION_MODULE,
        f"{collection.relative_to(directory)}/plugins/filter/both.py": FILTER,
        f"{collection.relative_to(directory)}/galaxy.yml": "namespace: one\nname: both\n",
    }
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("OWN", own))
    assert role.is_dir()
    return write_play(
        directory / "play.yml",
        {"both": None, "register": "of_library"},
        {"ping": None, "register": "of_ping"},
        {"one.both.both": None, "register": "of_collection"},
        {
            "ansible.builtin.debug": {
                "msg": "{{ [of_library.word, of_library.own, of_ping.own, of_collection.own, "
                "of_role.own, '' | own, '' | one.both.own, of_ping.own if of_ping.own is own] "
                "| join(' ') }}"
            }
        },
        roles=["role_of_both"],
    )


def test_projects_with_the_same_names_see_their_own_code(served: Warm) -> None:
    directory = copy_place(served, "projects")
    first = write_project(directory / "first", "one")
    second = write_project(directory / "second", "two")
    for playbook, own in ((first, "one"), (second, "two"), (first, "one")):
        done = served.serve(*LOCAL, playbook)
        assert f'"msg": "{" ".join([own] * 8)}"' in done.out, done.out + done.err
    write_project(directory / "second", "three")
    done = served.serve(*LOCAL, second)
    assert f'"msg": "{" ".join(["three"] * 8)}"' in done.out, done.out + done.err
    plain = write_play(directory / "plain" / "play.yml", {"ping": None, "register": "of_ping"})
    assert served.serve(*LOCAL, plain).code == 0


def test_request_of_three_megabytes_is_taken(served: Warm) -> None:
    playbook = write_play(
        copy_place(served, "large") / "play.yml",
        {
            "ansible.builtin.debug": {
                "msg": "{{ lookup('ansible.builtin.env', 'LARGE29') | length }}"
            }
        },
    )
    done = served.serve(*LOCAL, playbook, more={f"LARGE{n}": "x" * 100_000 for n in range(20)})
    assert done.code == 0, done.err
    large = {f"LARGE{n}": "x" * 100_000 for n in range(30)}
    limit = resource.RLIMIT_STACK  # a quarter of it may be arguments and environment

    def raise_limit() -> None:
        resource.setrlimit(limit, (64 << 20, resource.getrlimit(limit)[1]))

    done = served.serve(*LOCAL, playbook, more=large, preexec_fn=raise_limit)
    assert '"msg": 100000' in done.out, done.err


def test_deleted_working_directory_is_none_for_both(served: Warm) -> None:
    gone = copy_place(served, "gone")
    playbook = write_play(served.project / "play.yml", {"ansible.builtin.meta": "noop"})
    script = f'cd "{gone}" && rmdir "{gone}" && exec "$@"'
    codes = []
    for program in (PLAIN, CLIENT):
        copy_place(served, "gone")
        codes.append(served.run(["sh", "-c", script, "sh", *program], *LOCAL, playbook).code)
    assert codes[1] == codes[0]
    assert ["cannot name the working directory" in each for each in served.reasons()] == [True]


def test_process_is_found_by_its_shown_arguments_and_environment(served: Warm) -> None:
    playbook = write_play(
        copy_place(served, "shown") / "play.yml", {"ansible.builtin.pause": {"seconds": 600}}
    )
    process = served.start(CLIENT, *LOCAL, playbook, more={"SHOWN": "yes"})
    directory = Path(f"/proc/{served.run_in(playbook.parent)}")
    assert str(playbook).encode() in (directory / "cmdline").read_bytes()
    assert b"SHOWN=yes" in (directory / "environ").read_bytes()
    assert (directory / "comm").read_text() == "ansible-playboo\n"
    process.terminate()
    process.wait(WAIT_SECONDS)
    assert process.returncode == -signal.SIGTERM
    assert process.stdout
    assert process.stderr
    process.stdout.close()
    process.stderr.close()
