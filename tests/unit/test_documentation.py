"""The documentation names what there is: settings, codes, routes, playbooks."""

import re
from configparser import ConfigParser
from pathlib import Path
from types import NoneType
from typing import Any, get_args

import pytest
import yaml
from ansible_collections.virtplay.libvirt.plugins.module_utils.failure import Code
from pydantic.fields import FieldInfo
from virtplay import errors
from virtplay.actions import Action, playbook
from virtplay.api.openapi import error_classes
from virtplay.api.routes import ROUTES
from virtplay.settings import Settings, default_state_dir

from benchmarks.tables import results, tables, with_figures
from tests.unit.pages import anchors

ROOT = Path(__file__).parents[2]
READMES = ["README.md", "README.zh-CN.md"]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("roles/*/README.md")]
SHORT = (
    ROOT,
    ROOT / "service/virtplay",
    ROOT / "collections/ansible_collections/virtplay/libvirt/plugins",
)
"""The folders to which paths in docs/architecture.md are relative."""


def rows(path: str, prefix: str) -> dict[str, list[str]]:
    """The table rows of a document whose first cell is `PREFIX…`: name → the other cells."""
    found = {}
    for line in (ROOT / path).read_text().splitlines():
        match = re.fullmatch(rf"\| `({prefix}\w+)` \|(.*)\|", line)
        if match:
            found[match[1]] = [cell.strip() for cell in match[2].split("|")]
    return found


def test_settings_page_lists_every_setting() -> None:
    names = {f"VIRTPLAY_{name.upper()}" for name in Settings.model_fields}
    assert rows("docs/settings.md", "VIRTPLAY_").keys() == names


@pytest.mark.parametrize(("name", "field"), Settings.model_fields.items())
def test_settings_page_gives_type_and_default(name: str, field: FieldInfo) -> None:
    type_, default, meaning = rows("docs/settings.md", "VIRTPLAY_")[f"VIRTPLAY_{name.upper()}"]
    kinds: dict[Any, str] = {
        bool: "boolean",
        int: "integer",
        float: "seconds|days",
        str: "text",
        Path: "path",
    }
    annotated = [kind for kind in get_args(field.annotation) if kind is not NoneType]
    kind = annotated[0] if annotated else field.annotation
    assert re.match(kinds.get(kind, "text") + r"\b", type_)
    bounds = {key: getattr(rule, key) for rule in field.metadata for key in ("ge", "le")
              if getattr(rule, key, None) is not None}  # fmt: skip
    assert {float(number) for number in re.findall(r"\d+", type_)} >= set(bounds.values())
    match field.default:
        case bool():
            assert default == str(field.default).lower()
        case int() | float():
            assert float(default) == field.default
        case "" | None:
            assert not default
        case Path() if name == "project_dir":
            assert default == "the checkout, or the wheel's"
        case _ if name == "state_dir":
            assert default == str(default_state_dir())
        case _:
            assert default == str(field.default)
    assert meaning


@pytest.mark.parametrize("page", [*READMES, "docs/settings.md"])
def test_settings_that_are_named_exist(page: str) -> None:
    clients = {"URL", "TOKEN", "VALIDATE_CERTS"}
    names = {name.upper() for name in Settings.model_fields} | clients
    assert set(re.findall(r"VIRTPLAY_(\w+)", (ROOT / page).read_text())) <= names


def test_settings_page_lists_every_host_variable() -> None:
    source = (ROOT / "service/virtplay/hosts/inventory.py").read_text()
    read = set(re.findall(r'"(virtplay_\w+)"', source))
    assert read
    assert read == rows("docs/settings.md", "virtplay_").keys()


def test_api_page_names_every_code_with_its_status() -> None:
    page = (ROOT / "docs/api.md").read_text()
    listed: dict[str, int] = {}
    for codes, status in re.findall(r"^\| ((?:`[A-Z_]+`(?:, )?)+) \| (\d{3}) \|", page, re.M):
        listed |= dict.fromkeys(re.findall(r"`([A-Z_]+)`", codes), int(status))
    assert listed == {code: error.status for code, error in error_classes().items()}
    assert errors.VirtplayError.code == "INTERNAL_ERROR"


def test_api_page_names_every_code_of_a_failed_job() -> None:
    page = (ROOT / "docs/api.md").read_text()
    paragraph = re.search(r"^The `error` of a job has a code too:.*?^$", page + "\n", re.M | re.S)
    assert paragraph
    by_service = {"PLAYBOOK_FAILED", "TIMEOUT", "RUN_LOST", "RUN_INTERRUPTED"}
    listed = set(re.findall(r"`([A-Z_]+)`", paragraph[0])) - error_classes().keys()
    assert listed == (set(get_args(Code)) | by_service) - error_classes().keys()


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
    for page in PAGES:
        for target, anchor in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", page.read_text()):
            if "://" not in target:
                path = page.parent / target if target else page
                assert path.exists(), f"{page.name}: {target}"
                assert not anchor or anchor in anchors(path), f"{page.name}: {target}#{anchor}"


def test_decisions_are_listed_at_their_top() -> None:
    top, *sections = re.split(r"^(?=## )", (ROOT / "docs/decisions.md").read_text(), flags=re.M)
    listed = re.findall(r"^ *- \[(.*)\]\(#", top, re.M)
    assert listed == re.findall(r"^###? (.*)$", "".join(sections), re.M)


def test_every_page_is_linked() -> None:
    linked = {
        (page.parent / target).resolve()
        for page in PAGES
        for target in re.findall(r"\]\(([^)#]+\.md)", page.read_text())
        if "://" not in target
    }
    assert {page.resolve() for page in ROOT.glob("docs/*.md")} <= linked


@pytest.mark.parametrize(
    "shown",
    [*READMES, "docs/start.md", "docs/zh-CN/start.md", "scripts/demo.py",
     "service/virtplay/machine/prepare.py", "service/virtplay/web/console.html"],
)  # fmt: skip
def test_the_start_names_no_id_of_a_vm(shown: str) -> None:
    """On a machine that has VMs, vm-001 is somebody else's."""
    assert not re.search(r"\bvm-\d{3}", (ROOT / shown).read_text())


def test_requests_that_pages_show_name_no_id() -> None:
    for page in PAGES:
        for command in re.findall(r"^ *curl .*(?:\\\n.*)*", page.read_text(), re.M):
            assert not re.search(r"/vms/vm-\d", command), command


def test_a_vm_in_a_playbook_is_named_as_a_domain_not_by_an_id() -> None:
    modules = ROOT.glob("collections/ansible_collections/virtplay/libvirt/plugins/modules/*.py")
    for page in [*PAGES, *ROOT.glob("playbooks/*.yml"), *modules]:
        found = re.findall(r"(?:_name|_domain|\bname)\"?[=:] ?\"?vm-\d{3}", page.read_text())
        assert found == [], page.name


def test_index_lists_every_page() -> None:
    index = (ROOT / "docs/README.md").read_text()
    for page in ROOT.glob("docs/**/*.md"):
        name = str(page.relative_to(ROOT / "docs"))
        assert name == "README.md" or f"({name})" in index, name


def test_uninstalling_names_what_the_preparation_of_a_host_adds() -> None:
    page = (ROOT / "docs/uninstall.md").read_text()
    role = ROOT / "roles/libvirt_host"
    tasks = "".join(
        path.read_text() for path in [*role.glob("tasks/*.yml"), *role.glob("vars/*.yml")]
    )
    added = set(re.findall(r"/(?:etc|var/lib|run)/[\w./-]*virtplay[\w./-]*\w", tasks))
    assert len(added) >= 5
    for path in added:
        assert path in page or str(Path(path).parent) in page, path
    defaults = yaml.safe_load((role / "defaults/main.yml").read_text())
    for pool in defaults["libvirt_host_pools"]:
        assert f"pool-undefine {pool['name']}" in page
    for network in defaults["libvirt_host_networks"]:
        assert f"net-undefine {network['name']}" in page


def test_architecture_names_what_there_is() -> None:
    page = (ROOT / "docs/architecture.md").read_text()
    tests = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page)
    assert tests
    for file, test in tests:
        assert re.search(rf"^(async )?def {test}\(", (ROOT / file).read_text(), re.M), test
    # A word in capitals stands for a name that the reader chooses.
    for path in re.findall(r"`([a-z][\w./-]*/[\w./-]*|\w+\.py)`", page):
        if not re.search(r"\b[A-Z]{3,}\b", path):
            assert any((root / path).exists() for root in SHORT), path


def test_architecture_has_the_layers_that_are_checked() -> None:
    page = " ".join((ROOT / "docs/architecture.md").read_text().split())
    for file in ".importlinter", "collections/.importlinter":
        contracts = ConfigParser()
        contracts.read(ROOT / file)
        layers = contracts["importlinter:contract:rooms"]["layers"].split("\n")
        assert " > ".join(layer for layer in layers if layer) in page, file


def test_architecture_has_every_room() -> None:
    tree = (ROOT / "docs/architecture.md").read_text().split("## The tree", 1)[1]
    for above in SHORT[1], SHORT[2] / "module_utils":
        for folder in above.iterdir():
            if list(folder.glob("*.py")):
                assert f" {folder.name}/ " in tree, folder.name


def test_architecture_has_every_pure_file() -> None:
    page = (ROOT / "docs/architecture.md").read_text()
    listed = re.search(r"\*\*Pure files\*\* \((.*?)\)", page, re.S)
    contracts = ConfigParser()
    contracts.read(ROOT / ".importlinter")
    checked = contracts["importlinter:contract:pure"]["source_modules"].split()
    assert listed
    assert {f"virtplay.{name}" for name in re.findall(r"`([\w.]+)`", listed[1])} == set(checked)


def test_performance_page_has_the_figures_that_were_kept() -> None:
    page = (ROOT / "docs/performance.md").read_text()
    assert page == with_figures(page)
    assert results().keys() & {"vm_create", "vm_pause", "snapshot_create"}


def test_every_ratio_follows_from_its_row() -> None:
    page = (ROOT / "docs/performance.md").read_text()
    rows = re.findall(r"\| ([\d.]+) s \|[^|]+\| ([\d.]+) s \| ([\d.]+) \|", page)
    assert len(rows) >= 3
    for left, right, ratio in rows:
        assert float(ratio) == pytest.approx(float(left) / float(right), abs=0.005)


def test_figures_of_a_row_divide_to_its_ratio() -> None:
    kept = {"vm_pause": {"measured": "2026-11-28", "api_s": 1.7449, "playbook_s": 0.9999}}
    assert "| 1.74 s | the same playbook by hand | 1 s | 1.74 | 2026-11-28 |" in tables(kept)
