"""The documentation names what there is: settings, codes, routes, playbooks."""

import re
from pathlib import Path

import pytest
from virtplay import errors
from virtplay.actions import Action, playbook
from virtplay.api.openapi import error_classes
from virtplay.api.routes import ROUTES
from virtplay.settings import Settings

ROOT = Path(__file__).parents[2]
READMES = ["README.md", "README.zh-CN.md"]


def rows(path: str, prefix: str) -> dict[str, list[str]]:
    """The table rows of a document whose first cell is `PREFIX…`: name → the other cells."""
    found = {}
    for line in (ROOT / path).read_text().splitlines():
        match = re.fullmatch(rf"\| `({prefix}\w+)` \|(.*)\|", line)
        if match:
            found[match[1]] = [cell.strip() for cell in match[2].split("|")]
    return found


@pytest.mark.parametrize("readme", READMES)
def test_readme_lists_every_setting(readme: str) -> None:
    names = {f"VIRTPLAY_{name.upper()}" for name in Settings.model_fields}
    assert rows(readme, "VIRTPLAY_").keys() == names


@pytest.mark.parametrize("readme", READMES)
def test_readme_gives_the_default_of_every_number_and_switch(readme: str) -> None:
    listed = rows(readme, "VIRTPLAY_")
    for name, field in Settings.model_fields.items():
        given = listed[f"VIRTPLAY_{name.upper()}"][0]
        if isinstance(field.default, bool):
            assert given == str(field.default).lower(), name
        elif isinstance(field.default, int | float):
            assert float(given) == field.default, name


@pytest.mark.parametrize("readme", READMES)
def test_readme_lists_every_host_variable(readme: str) -> None:
    source = (ROOT / "service/virtplay/hosts/inventory.py").read_text()
    read = set(re.findall(r'"(virtplay_\w+)"', source))
    assert read
    assert read == rows(readme, "virtplay_").keys()


def test_both_readmes_have_the_same_commands() -> None:
    blocks = [re.findall(r"```\w*\n(.*?)```", (ROOT / name).read_text(), re.S) for name in READMES]
    assert blocks[0]
    without_comments = [re.sub(r"\s*#.*", "", "".join(found)) for found in blocks]
    assert without_comments[0] == without_comments[1]


def test_api_page_names_every_code_with_its_status() -> None:
    page = (ROOT / "docs/api.md").read_text()
    listed: dict[str, int] = {}
    for codes, status in re.findall(r"^\| ((?:`[A-Z_]+`(?:, )?)+) \| (\d{3}) \|", page, re.M):
        listed |= dict.fromkeys(re.findall(r"`([A-Z_]+)`", codes), int(status))
    assert listed == {code: error.status for code, error in error_classes().items()}
    assert errors.VirtplayError.code == "INTERNAL_ERROR"


def test_api_page_names_every_route() -> None:
    page = (ROOT / "docs/api.md").read_text()
    for route in ROUTES:
        last = route.path.rsplit("/", 1)[-1]
        assert route.path in page or f"…/{last}`" in page, route.path


@pytest.mark.parametrize("action", list(Action))
def test_every_action_is_a_playbook_with_an_example(action: Action) -> None:
    assert (ROOT / playbook(action)).is_file()
    assert playbook(action) in (ROOT / "docs/playbooks.md").read_text()


def test_every_role_has_a_default_scenario_and_every_scenario_its_row() -> None:
    listed, role = set(), ""
    for line in (ROOT / "docs/molecule.md").read_text().splitlines():
        if row := re.match(r"\|(?: `(\w+)`)? \| `(\w+)` \|", line):
            role = row[1] or role
            listed.add((role, row[2]))
    found = {path.parts[-4:-1:2] for path in ROOT.glob("roles/*/molecule/*/molecule.yml")}
    assert listed == found
    assert {(path.name, "default") for path in ROOT.glob("roles/*")} <= found


def test_every_link_leads_somewhere() -> None:
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("roles/*/README.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("readme", READMES)
def test_performance_section_has_figures(readme: str) -> None:
    section = (ROOT / readme).read_text().split("make bench", 1)[1]
    assert len(re.findall(r"\d+\.\d+ s", section)) >= 4
