"""API tests: the console's page and its files, without a browser."""

import json
import posixpath
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from virtplay.actions import RULES
from virtplay.api.pages import page_headers, read_console_page
from virtplay.files import NODE_MODULES, PROJECT

from tests.api.conftest import Service, only_sqlite
from tests.api.test_envelope import failure_of

# Nothing here depends on the database.


@pytest.fixture
def packages() -> None:
    """Fail where the page's npm packages are not there."""
    if not NODE_MODULES.exists():
        pytest.fail("the page's npm packages are not there: run make setup", pytrace=False)


IMPORT = re.compile(r"""(?:^import\b[^'"]*|\bfrom\s*|\bimport\()["']([^"']+)["']""", re.M)


@only_sqlite
async def test_page_needs_no_token_and_trusts_nothing(service: Service) -> None:
    answer = await service.client.get("/vms/vm-001/console", headers={"Authorization": ""})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["x-content-type-options"] == "nosniff"
    policy = dict(
        part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; ")
    )
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["script-src"] == "'self'"
    own = f"127.0.0.1:{service.port}"
    assert policy["connect-src"] == f"'self' ws://{own} wss://{own}"
    # Of its own text: no script, no style, no handler, nothing of the address.
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\bon\w+=|javascript:", answer.text)
    assert "vm-001" not in answer.text.replace("/vms/vm-001/console", "")
    head = await service.client.head("/vms/vm-001/console")
    assert (head.status_code, head.content) == (200, b"")


@only_sqlite
async def test_any_way_to_call_a_vm_has_its_page(service: Service) -> None:
    for ref in ("vm-001", "web-1", "Web.1", "0157c680-d8f0-4d2a-855a-94a165065017",
                "Web%20Server", "B%C3%BCro", "%E7%BD%91", "a%3Cb%3E%22%3B", "DB%2F2",
                "..%2fa"):  # fmt: skip
        answer = await service.client.get(f"/vms/{ref}/console")
        assert answer.status_code == 200, ref
        assert ref not in answer.text.replace("/vms/vm-001/console", "")


@only_sqlite
async def test_what_calls_no_vm_has_no_page(service: Service) -> None:
    for ref in ("vm-001%0a", "a/b", ".", "%2e%2e", "x" * 256, "%00", "a%1b"):
        answer = await service.client.get(f"/vms/{ref}/console")
        assert answer.status_code == 404, ref
        assert failure_of(answer)["code"] == "NOT_FOUND"
    # The page finds its files relative to its own address.
    assert (await service.client.get("/vms/vm-001/console/")).status_code == 404


def in_node(folder: Path, expression: str) -> Any:
    """Return the value of an expression with what texts.js and job.js export."""
    (folder / "package.json").write_text('{"type": "module"}')
    script = ""
    for name in ("texts", "job"):
        module = folder / f"{name}.js"
        module.write_bytes(read_console_page(folder).assets[module.name].content)
        script += f"import * as {name} from {json.dumps(str(module))};"
    script += f"console.log(JSON.stringify({expression}))"
    command = ["node", "--input-type=module", "-e", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.usefixtures("packages")
def test_the_page_finds_the_vm_in_its_path(tmp_path: Path) -> None:
    names = {
        "/vms/vm-001/console": "vm-001",
        "/below/vms/Web%20Server/console": "Web Server",
        "/vms/B%C3%BCro/console": "B\u00fcro",
        "/vms/%E7%BD%91/console": "\u7f51",
        "/vms/a%3Cb%3E/console": "a<b>",
        "/vms/%E7/console": "",
        "/vms/DB%2F2/console": "DB/2",
        "/vms/a/b/console": "",
        "/vms//console": "",
    }
    assert in_node(tmp_path, f"{json.dumps([*names])}.map(texts.vmIn)") == [*names.values()]


@pytest.mark.usefixtures("packages")
def test_the_page_shows_the_step_of_the_unfinished_job(tmp_path: Path) -> None:
    queued = {"action": "vm_stop", "status": "queued", "step": "", "stepTimeoutSeconds": None}
    running = {**queued, "status": "running", "step": "Stopping the domain"}
    waits = {**running, "stepTimeoutSeconds": 90, "stepStartedAt": "2030-01-31T12:00:00Z"}
    for job, second, words in (
        (None, 0, ""),
        (queued, 0, "Stopping the VM: queued"),
        ({**queued, "status": "running"}, 0, "Stopping the VM"),
        (running, 0, "Stopping the domain"),
        (waits, 12, "Stopping the domain \u2026 12 of 90 s"),
        (waits, 99, "Stopping the domain \u2026 90 of 90 s"),
    ):
        now = f"Date.parse('2030-01-31T12:00:00Z') + {second * 1000}"
        assert in_node(tmp_path, f"texts.stepOf({json.dumps(job)}, {now})") == words


@pytest.mark.usefixtures("packages")
def test_the_page_has_words_for_every_action_that_locks_a_vm(tmp_path: Path) -> None:
    actions = [action for action in RULES if RULES[action].locks]
    jobs = [{"action": action, "status": "queued"} for action in actions]
    shown = in_node(tmp_path, f"{json.dumps(jobs)}.map((job) => texts.stepOf(job, 0))")
    assert dict(zip(actions, shown, strict=True)) == {
        "vm_create": "Creating the VM: queued",
        "vm_update": "Updating the VM: queued",
        "vm_delete": "Deleting the VM: queued",
        "vm_start": "Starting the VM: queued",
        "vm_stop": "Stopping the VM: queued",
        "vm_restart": "Restarting the VM: queued",
        "vm_pause": "Pausing the VM: queued",
        "vm_resume": "Resuming the VM: queued",
        "snapshot_create": "Creating a snapshot: queued",
        "snapshot_restore": "Restoring a snapshot: queued",
        "snapshot_delete": "Deleting a snapshot: queued",
    }


@pytest.mark.parametrize("final", ["UNAUTHORIZED", "FORBIDDEN", "VM_NOT_FOUND", "VM_AMBIGUOUS"])
@pytest.mark.usefixtures("packages")
def test_the_job_is_followed_until_its_vm_cannot_be_read(tmp_path: Path, final: str) -> None:
    """What passes is waited for, with the words and at the pace of before."""
    job = {"action": "vm_start", "status": "running", "step": "Starting"}
    responses = [None, "NETWORK", job, "RATE_LIMITED", "DATABASE_NOT_AVAILABLE", None, final, job]
    follow = """(async (responses) => {
      const seen = [];
      const request = async () => {
        const next = responses.shift();
        if (typeof next === 'string') throw Object.assign(new Error(), { code: next });
        return { job: next };
      };
      await job.followJob(request, (words) => seen.push(words), async (ms) => seen.push(ms));
      return [...seen, responses.length];
    })"""
    assert in_node(tmp_path, f"await {follow}({json.dumps(responses)})") == [
        *("", 10_000, 10_000, "Starting", 2000, 2000, 2000),
        *("", 10_000, "", 1),
    ]


@pytest.mark.parametrize(
    "host", ["", "a b", "x; script-src *", "x\nSet-Cookie: a", "*", "a/b", "[::1", "x" * 300]
)
def test_odd_hosts_do_not_reach_the_policy(host: str) -> None:
    assert "connect-src 'self';" in page_headers(host)["Content-Security-Policy"]


@pytest.mark.parametrize("host", ["localhost:3000", "virt.example.org", "[2001:db8::1]:3000"])
def test_policy_allows_websockets_of_the_own_host(host: str) -> None:
    assert f"'self' ws://{host} wss://{host};" in page_headers(host)["Content-Security-Policy"]


@only_sqlite
@pytest.mark.usefixtures("packages")
async def test_files_of_the_page_are_served_and_kept(service: Service) -> None:
    page = await service.client.get("/vms/vm-001/console")
    found = re.findall(r'(?:href|src)="\.\./\.\./(web/[^"]+)"', page.text)
    assert len(found) == 3
    for path in found:
        answer = await service.client.get(f"/{path}")
        assert answer.status_code == 200
        assert "immutable" in answer.headers["cache-control"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        kind = "text/css" if path.endswith(".css") else "text/javascript"
        assert answer.headers["content-type"].startswith(kind)


@only_sqlite
async def test_nothing_but_its_files_is_served(service: Service) -> None:
    digest = read_console_page().digest
    for path in (
        *("console.html", "../console_page.py", "%2e%2e/app.py", "..%2fapp.py", "/etc/passwd"),
        *("%2fetc%2fpasswd", "novnc/package.json", "novnc/../../.complete", "", "xterm/", "%00"),
    ):
        answer = await service.client.get(f"/web/{digest}/{path}")
        assert answer.status_code == 404, path
        failure_of(answer)
    assert (await service.client.get("/web/0000000000000000/console.js")).status_code == 404


@pytest.mark.usefixtures("packages")
def test_every_import_of_every_script_is_among_the_files() -> None:
    page = read_console_page()
    assert 'data-packages="installed"' in page.html
    named = 0
    for name, asset in page.assets.items():
        if asset.kind != "text/javascript" or name.startswith(("xterm/", "novnc/vendor/")):
            continue
        for target in IMPORT.findall(asset.content.decode()):
            assert target.startswith("."), f"{name} imports {target}"
            path = posixpath.normpath(posixpath.join(posixpath.dirname(name), target))
            assert path in page.assets, f"{name} imports {target}"
            named += 1
    assert named > 40


def test_without_the_npm_packages_the_page_says_so(tmp_path: Path) -> None:
    page = read_console_page(tmp_path)
    assert 'data-packages="missing"' in page.html
    assert {name for name in page.assets if "/" in name} == set()
    assert "make setup" in page.assets["console.js"].content.decode()


def test_other_files_have_another_address(tmp_path: Path) -> None:
    script = tmp_path / "@xterm/xterm/lib/xterm.mjs"
    script.parent.mkdir(parents=True)
    digests = {read_console_page(tmp_path).digest}
    for text in ("a", "b"):
        script.write_text(text)
        digests.add(read_console_page(tmp_path).digest)
    assert len(digests) == 3


def test_lock_file_pins_every_package_and_names_no_registry() -> None:
    folder = PROJECT / "service" / "web"
    wanted = json.loads((folder / "package.json").read_text())["dependencies"]
    locked = json.loads((folder / "package-lock.json").read_text())["packages"]
    assert locked.pop("")["dependencies"] == wanted
    assert wanted == {
        name.removeprefix("node_modules/"): p["version"] for name, p in locked.items()
    }
    assert all(entry["integrity"].startswith("sha512-") for entry in locked.values())
    assert "://" not in (folder / "package-lock.json").read_text()
