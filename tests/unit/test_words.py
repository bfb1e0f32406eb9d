"""The words for a VM's fields: one table in the docs, and each place knows those of the others."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.virtplay.libvirt.plugins.module_utils.declared import ALIASES
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain.arguments import ARGUMENTS
from ansible_collections.virtplay.libvirt.plugins.plugin_utils.role_variables import (
    check_options,
    unknown_variables,
)
from ansible_collections.virtplay.libvirt.plugins.plugin_utils.words import explain_parameters
from virtplay.api.http.parsing import parse_body
from virtplay.api.schemas.vms import VmCreate
from virtplay.errors import ValidationFailed
from virtplay.vm_fields import FIELDS, ROLE, Asked, Field

from scripts.role_tables import ROLES, read_specs

PAGE = Path(__file__).parents[2] / "docs/playbooks.md"
SPECS = read_specs(ROLES / ROLE)
ENTRIES = SPECS["vms"][f"{ROLE}_vms"]["options"]


def rows() -> dict[str, tuple[str, str]]:
    """The table of the docs: API's word → those of role and module, with where they belong."""
    section = PAGE.read_text().split("## Words\n", 1)[1].split("\n## ", 1)[0]
    found = re.findall(r"^\| `(\w+)` \| `(\w+)`.*? \| `([\w.]+)`.*? \| .* \|$", section, re.M)
    return {api: (role, module) for api, role, module in found}


TABLE = rows()


def foreign_words(field: Field) -> Iterator[tuple[Field, str]]:
    """Each word for the field in any of the vocabularies."""
    for word in dict.fromkeys((field.api_name, field.name, field.variable)):
        yield field, word


WORDS = [pair for field in FIELDS for pair in foreign_words(field)]


def test_the_table_of_the_docs_is_that_of_the_code() -> None:
    assert {field.api_name: field.variable for field in FIELDS} | {"domain": "name"} == {
        api: role for api, (role, _module) in TABLE.items()
    }
    for _role, module in TABLE.values():
        first, _dot, second = module.partition(".")
        assert first in ARGUMENTS
        assert not second or second in ARGUMENTS[first]["options"]


@pytest.mark.parametrize(("field", "word"), WORDS)
def test_role_knows_each_word(field: Field, word: str) -> None:
    described = {entry: {"options": options} for entry, options in SPECS.items()}
    # A name is libvirt's there.
    if f"{ROLE}_{word}" not in SPECS["create"]:
        (message,) = unknown_variables(ROLE, described, [f"{ROLE}_{word}"])
        assert message.endswith(f", did you mean {field.role_variable}?")


@pytest.mark.parametrize(("field", "word"), WORDS)
def test_declared_vm_takes_each_word(field: Field, word: str) -> None:
    assert word in ENTRIES
    assert ENTRIES[word]["type"] == ENTRIES[field.variable]["type"] or word == "name"


@pytest.mark.parametrize(("field", "word"), WORDS)
def test_module_knows_each_word(field: Field, word: str) -> None:
    module = TABLE[field.api_name][1]
    if word in ARGUMENTS or ALIASES.get(word) in ARGUMENTS:
        return
    supported = ", ".join(sorted(ARGUMENTS))
    message = explain_parameters(
        f"Unsupported parameters for (virtplay.libvirt.domain) module: {word}. Supported "
        f"parameters include: {supported}."
    )
    assert f"module: {word} (did you mean {module}?). Supported" in message


@pytest.mark.parametrize(("field", "word"), WORDS)
def test_api_knows_each_word(field: Field, word: str) -> None:
    if word in VmCreate.model_fields or field.asked is Asked.NEVER:
        return
    with pytest.raises(ValidationFailed) as caught:
        parse_body(f'{{"{word}": 1}}'.encode(), "application/json", VmCreate)
    assert f"{word} is not a known field; did you mean {field.api_name}?" in str(caught.value)


@pytest.mark.parametrize(("word", "meant"), [("ram", "memory"), ("cores", "vcpus"), ("sise", "")])
def test_declared_vm_that_has_a_common_word_is_told_ours(word: str, meant: str) -> None:
    options = SPECS["vms"]
    faults, _typed = check_options(options, {f"{ROLE}_vms": [{"name": "a", word: 1}]})
    assert (f", did you mean {meant}?" in faults[0]) if meant else "there are" in faults[0]


def test_words_of_modules_that_cannot_be_meant_are_left_alone() -> None:
    plain = "cannot find domain web-1"
    assert explain_parameters(plain) == plain
    other = (
        "Unsupported parameters for (virtplay.libvirt.image) module: ssh_keys, nmae. Supported "
        "parameters include: force, name (title), url."
    )
    assert explain_parameters(other) == (
        "Unsupported parameters for (virtplay.libvirt.image) module: ssh_keys, nmae (did you mean "
        "name?). Supported parameters include: force, name (title), url."
    )
