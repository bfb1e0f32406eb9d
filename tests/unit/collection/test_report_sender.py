"""Tests of the thread that sends a run's report: the run never waits, and nothing is lost."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from ansible_collections.virtplay.libvirt.plugins.plugin_utils import report_sender
from ansible_collections.virtplay.libvirt.plugins.plugin_utils.report_sender import (
    Refused,
    Sender,
    Unreachable,
    make_post,
)


class Service:
    """Takes batches as the real one does, and fails when told to."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        self.failures: list[Exception] = []
        self.gate = threading.Event()
        self.gate.set()
        self.lose_answers = 0
        self.outcome: str | None = None

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        self.gate.wait()
        if self.failures:
            raise self.failures.pop(0)
        if path == "/jobs":
            return {"id": "job-000001"}
        assert path == "/jobs/job-000001/events"
        self.bodies.append(body)
        self.log += [e["text"] for e in body["events"][max(0, len(self.log) + 1 - body["first"]) :]]
        self.outcome = body.get("outcome", self.outcome)
        if self.lose_answers:
            self.lose_answers -= 1
            raise Unreachable("the answer was lost")
        return {"next": len(self.log) + 1}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (
        *(("SEND_SECONDS", 0.02), ("HEARTBEAT_SECONDS", 0.1)),
        *(("PATIENCE", 60.0), ("NO_PATIENCE", 60.0)),
    ):
        monkeypatch.setattr(report_sender, name, seconds)
    monkeypatch.setattr(report_sender, "RETRY_SECONDS", (0.02, 0.05))


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def sender(service: Service) -> Sender:
    """A report that has not begun: a test may make the service fail before that."""
    return Sender(service.post, {"runId": "x"})


def lines(sender: Sender, first: int, last: int) -> list[str]:
    """Add the lines first to last, and return them."""
    texts = [f"line {number}" for number in range(first, last + 1)]
    for text in texts:
        sender.add({"event": "output", "text": text})
    return texts


def until(condition: Any, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_everything_arrives_once_and_in_order(service: Service, sender: Sender) -> None:
    sender.start()
    sender.update(hosts=["kvm1"])
    wanted = lines(sender, 1, 1200)
    until(lambda: service.log)
    wanted += lines(sender, 1201, 1300)
    sender.close(outcome="succeeded")
    assert service.log == wanted
    assert max(len(body["events"]) for body in service.bodies) <= 500
    assert (service.outcome, sender.problem) == ("succeeded", None)
    # What has not changed is not said again.
    assert [body.get("hosts") for body in service.bodies].count(["kvm1"]) == 1


def test_quiet_run_shows_that_it_is_still_there(service: Service, sender: Sender) -> None:
    sender.start()
    until(lambda: [body["events"] for body in service.bodies].count([]) >= 3)
    sender.close(outcome="succeeded")


def test_answer_that_is_lost_doubles_nothing(service: Service, sender: Sender) -> None:
    service.lose_answers = 2
    sender.start()
    wanted = lines(sender, 1, 10)
    until(lambda: not service.lose_answers)
    wanted += lines(sender, 11, 12)
    until(lambda: len(service.log) == 12)
    sender.close(outcome="succeeded")
    assert service.log == wanted
    assert sender.problem is None


def test_service_that_was_away_for_a_while_gets_all_of_it(service: Service, sender: Sender) -> None:
    service.failures = [Unreachable("away")] * 4
    sender.start()
    wanted = lines(sender, 1, 20)
    until(lambda: service.log)
    sender.close(outcome="failed", error={"code": "X"})
    assert (service.log, service.outcome, sender.problem) == (wanted, "failed", None)
    assert service.bodies[-1]["error"] == {"code": "X"}


def test_service_that_is_away_costs_a_run_next_to_nothing(service: Service, sender: Sender) -> None:
    service.failures = [Unreachable("cannot reach it")] * 1000
    sender.start()
    lines(sender, 1, 10_000)
    sender.close(outcome="succeeded")
    assert service.failures, "it was tried again and again"
    assert sender.problem == "cannot reach it"
    assert len(sender._events) <= report_sender.MOST_WAITING


def test_service_that_hangs_does_not_hold_up_the_end(
    service: Service, sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_sender, "NO_PATIENCE", 0.3)
    service.gate.clear()
    sender.start()
    sender.close(outcome="succeeded")
    service.gate.set()
    assert sender.problem == "the service does not respond"


def test_oldest_lines_go_when_too_many_wait_and_the_log_says_so(
    service: Service, sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_sender, "MOST_WAITING", 10)
    gate = threading.Event()
    post = service.post

    def held(path: str, body: dict[str, Any]) -> dict[str, Any]:
        gate.wait()
        return post(path, body)

    sender._post = held
    sender.start()
    wanted = lines(sender, 1, 30)[-10:]
    gate.set()
    sender.close(outcome="succeeded")
    assert service.log[-10:] == wanted
    missing = [text for text in service.log if "lines are missing" in text]
    assert len(missing) == 1
    assert len(service.log) < 30


def test_refused_report_is_not_sent_again(service: Service, sender: Sender) -> None:
    service.failures = [Refused("the token is wrong")]
    sender.start()
    until(lambda: not sender._thread.is_alive())
    lines(sender, 1, 5)
    sender.close(outcome="succeeded")
    assert (sender.problem, service.bodies) == ("the token is wrong", [])
    assert not sender._events


def test_fault_of_ours_is_told_and_not_raised(service: Service, sender: Sender) -> None:
    service.failures = [RuntimeError("odd")]
    sender.start()
    until(lambda: sender.problem)
    sender.close(outcome="succeeded")
    assert sender.problem == "odd"


@pytest.fixture
def answers() -> Iterator[tuple[str, dict[str, Any]]]:
    """The URL of an HTTP server, and what it answers (`code`, `text`) and was asked (`asked`)."""
    script: dict[str, Any] = {"code": 200, "text": '{"data": {"id": "x"}}', "asked": []}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            script["asked"].append((self.path, self.headers["Authorization"], json.loads(body)))
            self.send_response(script["code"])
            self.send_header("Location", "/elsewhere")
            self.end_headers()
            self.wfile.write(script["text"].encode())

        def do_GET(self) -> None:
            script["asked"].append(("followed", self.path))

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", script
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("ending", ["", "/", "/api/v1", "/api/v1/"])
def test_api_is_found_however_its_url_is_written(
    answers: tuple[str, dict[str, Any]], ending: str
) -> None:
    url, script = answers
    post = make_post(url + ending, "token-of-the-tests", validate_certs=True)
    assert post("/jobs", {"runId": "é"}) == {"id": "x"}
    assert script["asked"] == [("/api/v1/jobs", "Bearer token-of-the-tests", {"runId": "é"})]


@pytest.mark.parametrize(
    ("code", "text", "kind", "reason"),
    [
        (
            401,
            '{"error": {"message": "cannot accept it"}}',
            Refused,
            r"cannot accept it \(HTTP 401\)",
        ),
        (404, "<html>", Refused, r"Not Found \(HTTP 404\)"),
        (302, "", Refused, r"HTTP 302"),
        (200, "<html>", Refused, "the response is not from Virtplay"),
        (200, "[]", Refused, "the response is not from Virtplay"),
        (503, "", Unreachable, "HTTP 503"),
        (429, '{"error": {"message": "too many"}}', Unreachable, "too many"),
    ],
)
def test_answers_are_taken_for_what_they_are(
    answers: tuple[str, dict[str, Any]], code: int, text: str, kind: type[Exception], reason: str
) -> None:
    url, script = answers
    script.update(code=code, text=text)
    with pytest.raises(kind, match=reason):
        make_post(url, "token-of-the-tests", validate_certs=True)("/jobs", {})
    assert len(script["asked"]) == 1  # no redirect was followed with the token
