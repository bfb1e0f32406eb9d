"""Writes the variable tables of the roles' READMEs from their argument_specs: `make role-tables`.

A test checks that the committed tables are current. The table is between two marks; a README
without marks gets a section at its end.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROLES = Path(__file__).parents[1] / "roles"
BEGIN = "<!-- variables: `make role-tables` writes them from meta/argument_specs.yml -->\n"
END = "<!-- end of variables -->\n"
LONGEST_DEFAULT = 40
"""Characters; a longer default is replaced by a link."""
MAIN = "main"

Options = Mapping[str, Mapping[str, Any]]


def main() -> None:
    """Write the table of every role."""
    for role in described_roles():
        readme = role / "README.md"
        readme.write_text(with_table(readme.read_text(), role))


def described_roles() -> list[Path]:
    """Return the directories of the roles that have argument_specs."""
    return sorted(path.parents[1] for path in ROLES.glob("*/meta/argument_specs.yml"))


def read_specs(role: Path) -> dict[str, Options]:
    """Return entry point → options of a role."""
    document = yaml.safe_load((role / "meta/argument_specs.yml").read_text())
    return {entry: spec.get("options", {}) for entry, spec in document["argument_specs"].items()}


def with_table(readme: str, role: Path) -> str:
    """Return a README's text with the role's current table between the marks."""
    block = f"{BEGIN}\n{table(read_specs(role))}\n{END}"
    if BEGIN not in readme:
        return f"{readme.rstrip()}\n\n## Variables\n\n{block}"
    before, rest = readme.split(BEGIN, 1)
    return before + block + rest.split(END, 1)[1]


def table(specs: Mapping[str, Options]) -> str:
    """Return the Markdown table of all entry points' variables, each once."""
    # Leave out `main` if it is an alias of another entry point.
    named = {e: o for e, o in specs.items() if e != MAIN or o not in _others(specs)} or dict(specs)
    several = len(named) > 1
    head = ["variable", "type", "default", *(["`tasks_from`"] if several else []), "meaning"]
    lines = [head, ["---"] * len(head)]
    listed: dict[str, Options] = {}
    for name, entries in _entries_of(named).items():
        options = [named[entry][name] for entry in entries]
        where = "all" if len(entries) == len(named) else ", ".join(f"`{e}`" for e in entries)
        required = [entry for entry in entries if named[entry][name].get("required")]
        default = _default(options[0], "" if len(required) == len(entries) else ", ".join(required))
        row = [f"`{name}`", _type(options[0]), default, *([where] if several else [])]
        keys = options[0].get("options") or {}
        # Keys that a variable above has too are not listed again.
        like = next((n for n, o in listed.items() if keys and keys.items() <= o.items()), None)
        listed[name] = keys
        lines.append([*row, _text(options[0]) + (_like(like, keys, listed[like]) if like else "")])
        for key, option in () if like else keys.items():
            cells = [f"– `{key}`", _type(option), _default(option, "")]
            lines.append([*cells, *([""] if several else []), _text(option)])
    return "".join(re.sub(r"\|  (?=\|)", "| ", f"| {' | '.join(cells)} |\n") for cells in lines)


def _others(specs: Mapping[str, Options]) -> list[Options]:
    return [options for entry, options in specs.items() if entry != MAIN]


def _entries_of(specs: Mapping[str, Options]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for entry, options in specs.items():
        for name in options:
            found.setdefault(name, []).append(entry)
    return found


def _like(other: str, keys: Options, its: Options) -> str:
    missing = [f"`{key}`" for key in its if key not in keys]
    return f"; the keys of `{other}`" + (f" but {', '.join(missing)}" if missing else "")


def _type(option: Mapping[str, Any]) -> str:
    elements = option.get("elements")
    return f"{option['type']} of {elements}" if elements else str(option["type"])


def _default(option: Mapping[str, Any], only_for: str) -> str:
    if option.get("required"):
        return f"required by `{only_for}`" if only_for else "required"
    if "default" not in option:
        return ""
    default = option["default"]
    text = default if isinstance(default, str) and default else json.dumps(default)
    return f"`{text}`" if len(text) <= LONGEST_DEFAULT else "[long](defaults/main.yml)"


def _text(option: Mapping[str, Any]) -> str:
    described = option["description"]
    text = " ".join(described) if isinstance(described, list) else str(described)
    text = re.sub(r"\b[CVO]\(([^)]*)\)", r"`\1`", " ".join(text.split())).replace("|", "\\|")
    choices = option.get("choices")
    if choices and not all(f"`{choice}`" in text for choice in choices):
        text = f"{text.rstrip('.')}: {', '.join(f'`{choice}`' for choice in choices)}."
    return text.removesuffix(".")


if __name__ == "__main__":
    main()
