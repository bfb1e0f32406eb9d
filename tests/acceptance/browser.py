"""Acceptance tests: controls headless Chromium and examines its screenshots."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image, ImageStat
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service as Driver
from selenium.webdriver.common.by import By

from tests.acceptance.service import wait_for

PROGRAMS = ("chromium", "chromedriver")
SWITCHES = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-dev-shm-usage", "--window-size=1100,800"),
)


def missing_programs() -> list[str]:
    """Return the programs that are not installed."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


KEEP_TEXTS = """
const element = document.getElementById(arguments[0]);
const texts = [element.textContent];
(window.keptTexts ??= {})[arguments[0]] = texts;
new MutationObserver(() => texts.push(element.textContent))
  .observe(element, { characterData: true, childList: true, subtree: true });
"""


class Browser:
    """A browser tab."""

    def __init__(self, driver: Chrome) -> None:
        self.driver = driver

    def open(self, url: str) -> None:
        """Open a page."""
        self.driver.get(url)

    def element(self, name: str) -> Any:
        """Return the element with this id."""
        return self.driver.find_element(By.ID, name)

    def click(self, name: str) -> None:
        """Click an element."""
        self.element(name).click()

    def run(self, script: str, *values: Any) -> Any:
        """Run a script in the page and return its value."""
        return self.driver.execute_script(script, *values)

    def text(self, name: str) -> str:
        """Return the visible text of an element, "" if it is hidden."""
        return str(self.element(name).text)

    def shows(self, name: str, words: str, seconds: float = 30) -> str:
        """Wait until the visible text of an element contains `words`, and return the text."""
        last = [""]

        def look() -> str | None:
            last[0] = self.text(name)
            return last[0] if words in last[0] else None

        try:
            return wait_for(f"{words!r} in {name}", look, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}; it has {last[0]!r}; {self.faults()}") from None

    def keep_texts(self, name: str) -> None:
        """Keep every text that an element has from now on, until the page is left."""
        self.run(KEEP_TEXTS, name)

    def has_shown(self, name: str, words: str, seconds: float = 30) -> None:
        """Wait until one of the texts that are kept of an element contains `words`."""
        script = "return window.keptTexts[arguments[0]].some((text) => text.includes(arguments[1]))"
        wait_for(f"{words!r} in {name}", lambda: self.run(script, name, words), seconds)

    def picture(self, file: Path | None = None) -> Image.Image:
        """Return a screenshot of the tab; also write it to `file`."""
        content = self.driver.get_screenshot_as_png()
        if file is not None:
            file.write_bytes(content)
        return Image.open(io.BytesIO(content)).convert("RGB")

    def faults(self) -> list[str]:
        """Return the errors that the browser has logged since the last call, except the API's.

        They include scripts, policies, and responses with an error status.
        """
        entries = self.driver.get_log("browser")  # type: ignore[no-untyped-call]
        return [
            entry["message"]
            for entry in entries
            if entry["level"] == "SEVERE" and "/api/v1/" not in entry["message"]
        ]


@contextmanager
def open_browser(profile: Path) -> Iterator[Browser]:
    """Run Chromium with an empty profile."""
    options = ChromeOptions()
    options.binary_location = shutil.which("chromium") or "chromium"
    for switch in (*SWITCHES, f"--user-data-dir={profile}"):
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options=options, service=Driver(shutil.which("chromedriver")))
    try:
        yield Browser(driver)
    finally:
        driver.quit()


def lit(picture: Image.Image) -> float:
    """Return the share of a picture's pixels that are not nearly black, from 0 to 1."""
    grey = picture.convert("L").point(lambda value: 255 if value > 40 else 0)
    return ImageStat.Stat(grey).mean[0] / 255
