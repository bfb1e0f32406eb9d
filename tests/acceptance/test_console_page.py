"""Acceptance tests: the console in the browser, and through clients that are not ours."""

from __future__ import annotations

import base64
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest
from PIL import Image, ImageChops, ImageStat
from selenium.webdriver.common.keys import Keys

from lab import Lab, LabError
from lab.lab import Host
from tests.acceptance.browser import Browser, lit, missing_programs, open_browser
from tests.acceptance.forwarding import forward
from tests.acceptance.guests import booted, in_guest, own_file
from tests.acceptance.service import TOKEN, Api, Service, wait_for

TEXT_SCREEN = (720, 400)
"""A VGA in text mode, which is what micro stays in."""
BIN = Path(sys.executable).parent
HOLD_TICKETS = """
const real = window.fetch;
window.fetch = (...words) => (String(words[0]).includes('/console?')
  ? new Promise((done) => {
    window.letTicketGo = () => { window.letTicketGo = null; done(real(...words)); };
  })
  : real(...words));
"""
"""Makes the page wait for each ticket until it calls `window.letTicketGo`.

Not `release`: the page has an element with that id, which `window.release` is until it is set.
"""


@pytest.fixture
def browser(lab_machine: None, tmp_path: Path) -> Iterator[Browser]:
    if missing := missing_programs():
        pytest.fail(f"the page needs {', '.join(missing)}: run make setup-lab", pytrace=False)
    with open_browser(tmp_path / "profile") as running:
        yield running


def address(service: Service, ref: str, query: str = "") -> str:
    return f"http://127.0.0.1:{service.port}/vms/{ref}/console{query}"


def give_token(browser: Browser, token: str = TOKEN) -> None:
    browser.shows("login", "API token")
    browser.element("token").send_keys(token + Keys.ENTER)


def type_keys(browser: Browser, keys: str) -> None:
    """Type where the focus is, with Shift where a person would press it."""
    browser.driver.switch_to.active_element.send_keys(keys)


def type_early(browser: Browser, keys: str) -> None:
    """Type while the page waits for its ticket, and then let it have the ticket."""
    browser.shows("connecting", "Keys that you press now are sent")
    wait_for("the request", lambda: browser.run("return Boolean(window.letTicketGo)"), 30)
    type_keys(browser, keys)
    browser.run("window.letTicketGo()")


def paste(browser: Browser, text: str) -> None:
    browser.click("paste")
    browser.run("document.getElementById('paste-text').value = arguments[0]", text)
    browser.click("paste-send")


def canvas(browser: Browser) -> Image.Image:
    """Return what noVNC has drawn, in the guest's own pixels."""
    url = browser.run("return document.querySelector('#stage canvas').toDataURL()")
    return Image.open(io.BytesIO(base64.b64decode(url.split(",", 1)[1]))).convert("RGB")


def shown_width(browser: Browser) -> float:
    script = "return document.querySelector('#stage canvas').getBoundingClientRect().width"
    return float(browser.run(script))


def hypervisors_picture(lab: Lab, host: Host, ref: str) -> Image.Image:
    """Return the guest's screen as libvirt takes it."""
    host.run("virsh", "-q", "screenshot", ref, f"/var/lib/libvirt/{ref}.picture")
    file = own_file(lab.directory, host, f"/var/lib/libvirt/{ref}.picture")
    picture = Image.open(io.BytesIO(file.read_bytes())).convert("RGB")
    file.unlink()
    return picture


def difference(one: Image.Image, other: Image.Image) -> float:
    """Return how much two pictures of one size differ, from 0 to 1; a cursor is 0.0005."""
    assert one.size == other.size
    return sum(ImageStat.Stat(ImageChops.difference(one, other)).mean) / 3 / 255


def until_in_guest(host: Host, ref: str, file: str, words: str) -> None:
    """Wait until a file of the guest holds exactly these words and a line end."""
    last = [""]

    def look() -> bool:
        last[0] = in_guest(host, ref, "/bin/cat", file)
        return last[0] == words + "\n"

    try:
        wait_for(f"{words!r} in {file}", look, 20)
    except AssertionError as error:
        raise AssertionError(f"{error}; it has {last[0]!r}") from None


def test_vncdotool_and_the_command_line_see_the_guest(
    lab: Lab, service: Service, api: Api, one: Host, tmp_path: Path
) -> None:
    ref = api.create(host=one.name, autoStart=True)["domain"]
    booted(one, ref)
    file = tmp_path / "screen.png"

    def vncdo(*words: str) -> None:
        ticket = api.get(f"/vms/{ref}/console?type=vnc")
        with forward(ticket["url"], f"http://127.0.0.1:{service.port}") as port:
            subprocess.run(
                [BIN / "vncdo", "-s", f"127.0.0.1::{port}", "-p", ticket["password"], "-t", "20",
                 *words],
                check=True, timeout=1200, capture_output=True,
            )  # fmt: skip

    def same_picture() -> bool:
        # The guest may still be drawing what was typed.
        vncdo("capture", str(file))
        drawn = Image.open(file).convert("RGB")
        assert drawn.size == TEXT_SCREEN
        return difference(drawn, hypervisors_picture(lab, one, ref)) < 0.002

    vncdo("type", "echo", "key", "space", "type", "vncdotool", "key", "enter")
    wait_for("the picture of the hypervisor", same_picture, 60)
    assert 0.005 < lit(Image.open(file).convert("RGB")) < 0.5

    environment = {
        **os.environ,
        "VIRTPLAY_URL": f"http://127.0.0.1:{service.port}",
        "VIRTPLAY_TOKEN": TOKEN,
    }
    terminal = pexpect.spawn(
        str(BIN / "virtplay"), ["vm", "console", ref], env=environment, timeout=120
    )
    try:
        terminal.expect("press Ctrl-] to disconnect")
        terminal.send("\recho $((6 * 7))-there\r")
        terminal.expect("42-there")
        terminal.send("\x1d")
        terminal.expect("Disconnected.")
        terminal.expect(pexpect.EOF)
        assert terminal.wait() == 0
    finally:
        terminal.close(force=True)


def test_page_shows_the_guest_and_types_into_it(
    lab: Lab, service: Service, api: Api, one: Host, browser: Browser, tmp_path: Path
) -> None:
    name = "<b>web</b> & $(id)"
    vm = api.create(host=one.name, name=name, autoStart=True)
    ref = vm["domain"]
    booted(one, ref)
    browser.open(address(service, ref, "?type=serial"))
    browser.run(HOLD_TICKETS)
    give_token(browser)
    type_early(browser, "\necho early > /tmp/early\n")
    browser.shows("status", "Connected to the serial console")
    until_in_guest(one, ref, "/tmp/early", "early")
    type_keys(browser, "\nprintf 'sum-%d \\303\\251\\n' $((40 + 2))\n")
    browser.shows("stage", "sum-42 é")
    browser.picture(tmp_path / "serial.png")
    paste(browser, "echo serial äöü 漢 > /tmp/serial\n")
    until_in_guest(one, ref, "/tmp/serial", "serial äöü 漢")

    browser.click("screen")
    type_early(browser, "echo Early > /tmp/earlier\n")
    browser.shows("status", "Connected to the screen")
    until_in_guest(one, ref, "/tmp/earlier", "Early")
    assert browser.driver.current_url.endswith("/console")
    assert browser.text("name") == f"{name} ({vm['id']})"

    def same_picture() -> bool:
        drawn = canvas(browser)
        return drawn.size == TEXT_SCREEN and (
            difference(drawn, hypervisors_picture(lab, one, ref)) < 0.002
        )

    wait_for("the guest's picture on the page", same_picture, 10)
    assert 0.005 < lit(canvas(browser)) < 0.5
    # What a person sees: the text of the guest, made as large as the window.
    assert shown_width(browser) > TEXT_SCREEN[0]
    assert lit(browser.picture(tmp_path / "screen.png")) > 0.05

    type_keys(browser, "echo Typed > /tmp/typed\n")
    until_in_guest(one, ref, "/tmp/typed", "Typed")
    line = 'pasted ~!@#$%^&*()_+{}|:"<>?`-=[]\\;,./ AZ az 09'
    paste(browser, f"cat > /tmp/pasted\n{line}é\n")
    browser.shows("status", "except for characters that a US keyboard lacks: é")
    type_keys(browser, Keys.CONTROL + "d")
    until_in_guest(one, ref, "/tmp/pasted", line)

    browser.click("scale")
    wait_for("the screen 1:1", lambda: shown_width(browser) == TEXT_SCREEN[0], 5)
    browser.click("scale")
    wait_for("the screen fitted", lambda: shown_width(browser) > TEXT_SCREEN[0], 5)

    boot = in_guest(one, ref, "/bin/cat", "/proc/sys/kernel/random/boot_id")
    browser.click("keys")

    def restarted() -> bool:
        try:
            now = in_guest(one, ref, "/bin/cat", "/proc/sys/kernel/random/boot_id")
        except (LabError, AssertionError):
            return False
        return now not in ("", boot)

    wait_for("the restart by Ctrl-Alt-Del", restarted, 60)
    # Whatever the guest does, its screen stays.
    assert browser.text("status").startswith("Sent Ctrl-Alt-Del")
    assert browser.faults() == []


def test_page_says_what_is_the_matter(
    service: Service, api: Api, one: Host, browser: Browser, tmp_path: Path
) -> None:
    ref = api.create(host=one.name, template="blank")["domain"]
    browser.open(address(service, "vm-999999"))
    browser.shows("login-why", "requires an API token")
    give_token(browser, "not-a-token")
    browser.shows("login-why", "invalid, expired or revoked")
    give_token(browser)
    browser.shows("notice", "VM vm-999999 does not exist")

    browser.open(address(service, ref))
    browser.shows("notice", "The VM is stopped")
    browser.picture(tmp_path / "stopped.png")
    # The page follows the VM by itself, there and back.
    browser.keep_texts("job")
    browser.click("notice-start")
    browser.shows("status", "Connected to the screen")
    browser.has_shown("job", "Starting")  # queued, or its step, which may have passed
    api.run("POST", f"/vms/{ref}/stop", {"force": True})
    browser.shows("notice", "The VM is stopped")
    browser.click("forget")
    give_token(browser, make_token(service, "viewer"))
    browser.shows("notice", "The VM is stopped")
    browser.click("notice-start")
    browser.shows("notice", "The role of this token is viewer. Starting")
    operator = make_token(service, "operator")
    api.run("POST", f"/vms/{ref}/start")
    browser.shows("login-why", "The role of this token is viewer")

    give_token(browser, operator)
    browser.shows("status", "Connected to the screen")
    run_virtplay(service, "token", "revoke", "page-operator")
    browser.shows("login-why", "invalid, expired or revoked")

    # A websocket that is refused: one without its ticket.
    browser.run(
        "const W = WebSocket;"
        "window.WebSocket = class { constructor(u) { return new W(String(u).split('?')[0]); } };"
        "window.WebSocket.OPEN = W.OPEN;"
    )
    give_token(browser)
    browser.shows("notice", "The service rejected the ticket")
    assert browser.element("notice-again").is_displayed()


def make_token(service: Service, role: str) -> str:
    """Return a new token of this role; it is called page-ROLE."""
    return run_virtplay(service, "token", "create", f"page-{role}", "--role", role).split()[-1]


def run_virtplay(service: Service, *words: str) -> str:
    """Return what a command on the service's own machine prints."""
    return subprocess.run(
        [BIN / "virtplay", *words],
        env={**os.environ, "VIRTPLAY_STATE_DIR": str(service.state)},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
