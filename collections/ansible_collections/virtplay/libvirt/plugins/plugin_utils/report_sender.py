# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Sends the report of a run from a thread of its own, so that the run never waits for it."""

from __future__ import annotations

import json
import ssl
import threading
from collections import deque
from collections.abc import Callable
from typing import Any
from urllib.error import HTTPError
from urllib.request import (
    BaseHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    Request,
    build_opener,
)

SEND_SECONDS = 0.5
HEARTBEAT_SECONDS = 15.0
RETRY_SECONDS = (1.0, 2.0, 5.0, 15.0)
REQUEST_TIMEOUT = 5.0
# How long the end of a run waits for the last batch: for a service that answers, and for one that
# does not.
PATIENCE = 5.0
NO_PATIENCE = 1.0
MOST_WAITING = 5_000
MOST_AT_ONCE = 500
MOST_BYTES = 400_000
# These may pass: the service is being started anew, or its database is.
_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})

Post = Callable[[str, dict[str, Any]], dict[str, Any]]


class Refused(Exception):
    """The service will not have this report, however often it is sent."""


class Unreachable(Exception):
    """The service gave no answer, or none that means anything; a later one may."""


class Sender:
    """The report of one run, and the thread that brings it to the service."""

    def __init__(self, post: Post, begin: dict[str, Any]) -> None:
        """Send to the service by post; begin is what makes the job. Call start, then close."""
        self._post = post
        self._begin = begin
        self._job: str | None = None
        self._events: deque[dict[str, Any]] = deque()
        self._dropped = 0
        self._next = 1
        self._batch: list[dict[str, Any]] = []
        self._news: dict[str, Any] = {}
        self._sent: dict[str, Any] = {}
        self._end: dict[str, Any] | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="virtplay report", daemon=True)
        self._answers = False
        self._done = False
        self.problem: str | None = None

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def add(self, event: dict[str, Any]) -> None:
        """Put an event in the queue; of too many the oldest go, and the log says so."""
        with self._changed:
            if not self._thread.is_alive():
                return
            if len(self._events) >= MOST_WAITING:
                self._events.popleft()
                self._dropped += 1
            self._events.append(event)
            self._changed.notify()

    def tell(self, **news: Any) -> None:
        """Say what holds from now on: hosts, domains."""
        with self._changed:
            self._news.update(news)

    def close(self, **end: Any) -> None:
        """End the report (outcome, error) and wait a little until it has arrived."""
        with self._changed:
            self._end = end
            self._changed.notify()
        self._thread.join(PATIENCE if self._answers else NO_PATIENCE)
        if not self._done and self.problem is None:
            self.problem = "the service does not answer"

    def _run(self) -> None:
        tries = 0
        while True:
            ends = self._wait(RETRY_SECONDS[min(tries, len(RETRY_SECONDS)) - 1] if tries else 0.0)
            try:
                while self._send(ends):
                    pass
            except Unreachable as error:
                tries += 1
                self._answers = False
                self.problem = str(error)
                if ends:
                    return
            except Exception as error:
                # Refused, or a fault of ours, which must not become the run's.
                self.problem = str(error) or type(error).__name__
                return
            else:
                tries = 0
                if ends:
                    return

    def _wait(self, pause: float) -> bool:
        """Wait until something is to be sent; say whether the run has ended."""
        with self._changed:
            if pause:
                self._changed.wait_for(lambda: self._end is not None, pause)
            elif self._job is not None:
                self._changed.wait_for(lambda: self._events or self._end, HEARTBEAT_SECONDS)
                # What comes in quick succession goes in one batch.
                self._changed.wait_for(lambda: self._end is not None, SEND_SECONDS)
            return self._end is not None

    def _send(self, ends: bool) -> bool:
        """Send one batch; say whether more is waiting."""
        if self._job is None:
            self._job = str(self._ask("/jobs", self._begin)["id"])
        with self._changed:
            self._fill()
            more = bool(self._events)
            news = {key: value for key, value in self._news.items() if self._sent.get(key) != value}
            end = self._end if ends and not more else None
        body = {"first": self._next, "events": self._batch, **news, **(end or {})}
        self._ask(f"/jobs/{self._job}/events", body)
        self._next += len(self._batch)
        self._batch = []
        self._sent.update(news)
        self._done = end is not None
        return more

    def _fill(self) -> None:
        """Take as many events out of the queue as go into one request; a batch stays until sent."""
        if self._batch:
            return
        if self._dropped:
            text = f"[{self._dropped} lines are missing: the service did not answer]"
            self._batch.append({"event": "output", "text": text})
            self._dropped = 0
        size = 0
        while self._events and len(self._batch) < MOST_AT_ONCE and size < MOST_BYTES:
            event = self._events.popleft()
            size += len(json.dumps(event))
            self._batch.append(event)

    def _ask(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        data = self._post(path, body)
        self._answers = True
        self.problem = None
        return data


class _NoRedirects(HTTPRedirectHandler):
    """Follows none: it would carry the token elsewhere."""

    def redirect_request(self, *_request: Any) -> None:
        """Leave the redirect an error."""


def make_post(url: str, token: str, validate_certs: bool) -> Post:
    """Return what posts to the API of the service at url; it raises Refused or Unreachable."""
    base = url.rstrip("/")
    base = base if base.endswith("/api/v1") else f"{base}/api/v1"
    headers = {
        "Authorization": f"Bearer {token}",
        "Content-Type": "application/json",
        "Accept": "application/json",
    }
    handlers: list[BaseHandler] = [_NoRedirects()]
    # Made once, and not as Ansible's open_url does for each request: it reads all authorities,
    # which takes longer than all the rest.
    if base.startswith("https:"):
        trust = ssl.create_default_context()
        if not validate_certs:
            trust.check_hostname = False
            trust.verify_mode = ssl.CERT_NONE
        handlers.append(HTTPSHandler(context=trust))
    opener = build_opener(*handlers)

    def post(path: str, body: dict[str, Any]) -> dict[str, Any]:
        try:
            request = Request(base + path, json.dumps(body).encode(), headers, method="POST")
            with opener.open(request, timeout=REQUEST_TIMEOUT) as answer:
                text = answer.read()
        except HTTPError as error:
            said = f"{_message(error)} (HTTP {error.code})"
            raise (Unreachable if error.code in _TRANSIENT else Refused)(said) from error
        except Exception as error:
            # Whatever it is, the run must not feel it.
            reason = getattr(error, "reason", None) or error
            raise Unreachable(f"cannot reach it: {reason}") from error
        try:
            return dict(json.loads(text)["data"])
        except (ValueError, KeyError, TypeError) as error:
            raise Refused("what answers there is not Virtplay") from error

    return post


def _message(error: HTTPError) -> str:
    try:
        return str(json.loads(error.read(100_000))["error"]["message"])[:500]
    except Exception:
        return str(error.reason)
