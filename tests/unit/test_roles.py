"""The roles' argument_specs, defaults, tasks and READMEs say the same."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.role_tables import BEGIN, END, described_roles, read_specs, table, with_table

ROLES = described_roles()
ENTRIES = [(role, entry) for role in ROLES for entry in read_specs(role)]
BOUND = ("register", "loop_var", "index_var")
"""Keywords whose value is a name that the tasks give themselves."""
PLAY_ONLY = {"vms": {"libvirt_domain_vms_serial"}}
"""Variables that are for the play around the role, as serial is: entry point → names."""


def by_name(value: Any) -> str:
    """The id of a parameter: a role's or an entry point's name."""
    return value.name if isinstance(value, Path) else str(value)


def tasks_of(role: Path, file: str) -> str:
    """The text of an entry point's tasks and of all that they import or include."""
    texts: dict[str, str] = {}
    waiting = [file]
    while waiting:
        name = waiting.pop()
        if name in texts:
            continue
        texts[name] = text = (role / "tasks" / name).read_text()
        waiting += re.findall(r"(?:import|include)_tasks:\s*(?:file:\s*)?\"?([^\s\"{]+\.yml)", text)
        for made in re.findall(r"include_tasks:(?:\s+file:)?\s*\"([^\"]*\{[^\"]*)\"", text):
            # A name that is made when it runs, as in `install_{{ … }}.yml`.
            pattern = re.sub(r"\{\{.*?\}\}", "*", made)
            waiting += [p.name for p in (role / "tasks").glob(pattern) if p.name != file]
    return "".join(texts.values())


def internal_variables(role: Path) -> dict[str, str]:
    """The variables of vars/, name → text; a name in several files has the text of all."""
    found: dict[str, str] = {}
    for path in sorted((role / "vars").glob("*.yml")):
        for name, value in (yaml.safe_load(path.read_text()) or {}).items():
            found[name] = f"{found.get(name, '')} {value}"
    return found


def bound_names(text: str) -> set[str]:
    """The names that tasks give to results, items and facts."""
    names = set(re.findall(rf"(?:{'|'.join(BOUND)}): (\w+)", text))
    return names | {
        n
        for block in re.findall(r"set_fact:\n((?:\s+\w+:.*\n)+)", text)
        for n in re.findall(r"^\s+(\w+):", block, re.M)
    }


def used_variables(role: Path, entry: str) -> set[str]:
    """The public variables that an entry point reads, also by way of internal ones."""
    text = tasks_of(role, f"{entry}.yml")
    templates = role / "templates"
    if templates.is_dir():
        text += "".join(path.read_text() for path in templates.iterdir())
    internal = internal_variables(role)
    seen: set[str] = set()
    while new := {n for n in re.findall(r"__\w+", text) if n in internal} - seen:
        seen |= new
        text += " ".join(internal[name] for name in new)
    without_comments = re.sub(r"^\s*#.*$", "", text, flags=re.M)
    # Not where another role is given a value of ours, nor names of results and of items.
    names = set(re.findall(rf"(?<!\w){role.name}_\w+", without_comments))
    return names - bound_names(text)


def options_with_defaults(role: Path) -> Iterator[tuple[str, str, Any]]:
    """Entry point, variable and default of each option that has one."""
    for entry, options in read_specs(role).items():
        for name, option in options.items():
            if "default" in option:
                yield entry, name, option["default"]


@pytest.mark.parametrize("role", ROLES, ids=by_name)
def test_defaults_are_those_of_the_specs(role: Path) -> None:
    defaults = yaml.safe_load((role / "defaults/main.yml").read_text()) or {}
    described: dict[str, Any] = {}
    for entry, name, default in options_with_defaults(role):
        assert described.setdefault(name, default) == default, f"{entry}: {name}"
    # What is only known when it runs has no value for the specs to show.
    made = {name for name, value in defaults.items() if "{{" in str(value)} - described.keys()
    assert {name: value for name, value in defaults.items() if name not in made} == described


@pytest.mark.parametrize(("role", "entry"), ENTRIES, ids=by_name)
def test_specs_have_the_variables_that_tasks_use_and_no_others(role: Path, entry: str) -> None:
    described = set(read_specs(role)[entry]) - PLAY_ONLY.get(entry, set())
    assert used_variables(role, entry) == described


@pytest.mark.parametrize(("role", "entry"), ENTRIES, ids=by_name)
def test_every_option_has_type_and_description(role: Path, entry: str) -> None:
    def check(options: Any, where: str) -> None:
        for name, option in options.items():
            assert option.get("type"), f"{where}: {name}"
            assert option.get("description"), f"{where}: {name}"
            check(option.get("options") or {}, name)

    check(read_specs(role)[entry], entry)


@pytest.mark.parametrize("role", ROLES, ids=by_name)
def test_every_task_file_that_playbooks_name_has_specs(role: Path) -> None:
    playbooks = (role.parents[1] / "playbooks").glob("*.yml")
    text = "".join(path.read_text() for path in playbooks)
    named = re.findall(rf"name: {role.name}\n\s+tasks_from: (\w+)", text)
    assert set(named) <= read_specs(role).keys()


@pytest.mark.parametrize("role", ROLES, ids=by_name)
def test_readme_has_the_present_table_and_an_example(role: Path) -> None:
    readme = (role / "README.md").read_text()
    assert readme == with_table(readme, role), "run make role-tables"
    assert "```yaml\n- hosts:" in readme


def test_table_says_where_a_variable_is_needed() -> None:
    name: dict[str, Any] = {"type": "str", "description": "Its name."}
    options = {"vm_name": {**name, "required": True}, "vm_size": {"type": "int", **SIZE}}
    specs = {"main": options, "make": options, "end": {"vm_name": name}}
    assert table(specs) == (
        "| variable | type | default | `tasks_from` | meaning |\n"
        "| --- | --- | --- | --- | --- |\n"
        "| `vm_name` | str | required by `make` | all | Its name |\n"
        "| `vm_size` | int | `5` | `make` | Size: `5`, `7` |\n"
    )


def test_keys_that_a_variable_above_has_too_are_not_told_twice() -> None:
    name = {"type": "str", "description": "Its name."}
    size = {"type": "int", "description": "Its size."}
    vms = {
        "type": "list",
        "elements": "dict",
        "description": "VMs.",
        "options": {"n": name, "s": size},
    }
    usual = {"type": "dict", "description": "What is usual.", "options": {"s": size}}
    assert table({"main": {"vms": vms, "usual": usual}}) == (
        "| variable | type | default | meaning |\n"
        "| --- | --- | --- | --- |\n"
        "| `vms` | list of dict | | VMs |\n"
        "| – `n` | str | | Its name |\n"
        "| – `s` | int | | Its size |\n"
        "| `usual` | dict | | What is usual; the keys of `vms` but `n` |\n"
    )


SIZE = {"description": ["Size."], "default": 5, "choices": [5, 7]}


def test_stale_table_is_replaced_and_the_rest_kept() -> None:
    role = ROLES[0]
    stale = f"# Title\n\n{BEGIN}\nstale row\n{END}\n## After\n"
    fresh = with_table(stale, role)
    assert fresh.startswith(f"# Title\n\n{BEGIN}\n| variable")
    assert fresh.endswith(f"{END}\n## After\n")
    assert "stale row" not in fresh
