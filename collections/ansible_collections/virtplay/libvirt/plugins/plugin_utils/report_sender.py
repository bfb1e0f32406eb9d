# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Sends the report of a run from its own thread, so that the run does not wait for it."""

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
# How long the end of a run waits for the last batch: if the service responds, and if it does not.
PATIENCE = 5.0
NO_PATIENCE = 1.0
MOST_WAITING = 5_000
MOST_AT_ONCE = 500
MOST_BYTES = 400_000
# Temporary errors: the service or its database is restarting.
_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})

Post = Callable[[str, dict[str, Any]], dict[str, Any]]


class Refused(Exception):
    """The service rejects this report; sending it again does not help."""


class Unreachable(Exception):
    """The service did not respond, or with a temporary error; sending it again may help."""


class Sender:
    """The report of one run, and the thread that sends it to the service."""

    def __init__(self, post: Post, begin: dict[str, Any]) -> None:
        """Send with post; begin is the body that creates the job. Call start, later close."""
        self._post = post
        self._begin = begin
        self._job: str | None = None
        self._events: deque[dict[str, Any]] = deque()
        self._dropped = 0
        self._next = 1
        self._batch: list[dict[str, Any]] = []
        self._values: dict[str, Any] = {}
        self._sent: dict[str, Any] = {}
        self._end: dict[str, Any] | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="virtplay report", daemon=True)
        self._responds = False
        self._done = False
        self.problem: str | None = None

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def add(self, event: dict[str, Any]) -> None:
        """Put an event in the queue; a full queue drops its oldest, and the log shows how many."""
        with self._changed:
            if not self._thread.is_alive():
                return
            if len(self._events) >= MOST_WAITING:
                self._events.popleft()
                self._dropped += 1
            self._events.append(event)
            self._changed.notify()

    def update(self, **values: Any) -> None:
        """Set values of the whole run: hosts, domains."""
        with self._changed:
            self._values.update(values)

    def close(self, **end: Any) -> None:
        """End the report (outcome, error) and wait a short time until it has been sent."""
        with self._changed:
            self._end = end
            self._changed.notify()
        self._thread.join(PATIENCE if self._responds else NO_PATIENCE)
        if not self._done and self.problem is None:
            self.problem = "the service does not respond"

    def _run(self) -> None:
        tries = 0
        while True:
            ends = self._wait(RETRY_SECONDS[min(tries, len(RETRY_SECONDS)) - 1] if tries else 0.0)
            try:
                while self._send(ends):
                    pass
            except Unreachable as error:
                tries += 1
                self._responds = False
                self.problem = str(error)
                if ends:
                    return
            except Exception as error:
                # Refused, or a fault in our own code, which must not fail the run.
                self.problem = str(error) or type(error).__name__
                return
            else:
                tries = 0
                if ends:
                    return

    def _wait(self, pause: float) -> bool:
        """Wait until there is something to send; returns whether the run has ended."""
        with self._changed:
            if pause:
                self._changed.wait_for(lambda: self._end is not None, pause)
            elif self._job is not None:
                self._changed.wait_for(lambda: self._events or self._end, HEARTBEAT_SECONDS)
                # Events in quick succession go into one batch.
                self._changed.wait_for(lambda: self._end is not None, SEND_SECONDS)
            return self._end is not None

    def _send(self, ends: bool) -> bool:
        """Send one batch; returns whether more events are waiting."""
        if self._job is None:
            self._job = str(self._request("/jobs", self._begin)["id"])
        with self._changed:
            self._fill()
            more = bool(self._events)
            new = {
                key: value for key, value in self._values.items() if self._sent.get(key) != value
            }
            end = self._end if ends and not more else None
        body = {"first": self._next, "events": self._batch, **new, **(end or {})}
        self._request(f"/jobs/{self._job}/events", body)
        self._next += len(self._batch)
        self._batch = []
        self._sent.update(new)
        self._done = end is not None
        return more

    def _fill(self) -> None:
        """Take events for one request from the queue; a batch stays until it has been sent."""
        if self._batch:
            return
        if self._dropped:
            text = f"[{self._dropped} lines are missing: the service did not respond]"
            self._batch.append({"event": "output", "text": text})
            self._dropped = 0
        size = 0
        while self._events and len(self._batch) < MOST_AT_ONCE and size < MOST_BYTES:
            event = self._events.popleft()
            size += len(json.dumps(event))
            self._batch.append(event)

    def _request(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        data = self._post(path, body)
        self._responds = True
        self.problem = None
        return data


class _NoRedirects(HTTPRedirectHandler):
    """Follows no redirect: it would send the token to another server."""

    def redirect_request(self, *_request: Any) -> None:
        """Return None, so that the redirect is an error."""


def make_post(url: str, token: str, validate_certs: bool) -> Post:
    """Return a function that posts to the API at url; it raises Refused or Unreachable."""
    base = url.rstrip("/")
    base = base if base.endswith("/api/v1") else f"{base}/api/v1"
    headers = {
        "Authorization": f"Bearer {token}",
        "Content-Type": "application/json",
        "Accept": "application/json",
    }
    handlers: list[BaseHandler] = [_NoRedirects()]
    # The TLS context is created once, not per request as by Ansible's open_url: reading all
    # certificate authorities takes longer than everything else.
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
            with opener.open(request, timeout=REQUEST_TIMEOUT) as response:
                text = response.read()
        except HTTPError as error:
            message = f"{_message(error)} (HTTP {error.code})"
            raise (Unreachable if error.code in _TRANSIENT else Refused)(message) from error
        except Exception as error:
            # No error of any kind may affect the run.
            reason = getattr(error, "reason", None) or error
            raise Unreachable(f"cannot connect to the service: {reason}") from error
        try:
            return dict(json.loads(text)["data"])
        except (ValueError, KeyError, TypeError) as error:
            raise Refused("the response is not from Virtplay") from error

    return post


def _message(error: HTTPError) -> str:
    try:
        return str(json.loads(error.read(100_000))["error"]["message"])[:500]
    except Exception:
        return str(error.reason)
