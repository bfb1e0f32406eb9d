"""Pure: reads a job's percent, step and outcome from the events of its play."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from virtplay.jobs.steps import NO_STEP, Step, step_of

FAILURES = ("runner_on_failed", "runner_on_unreachable")
RESULT_KEYS = {
    "domain": False,
    "changes": True,
    "applies_at": True,
    "snapshots": False,
    "console": True,
}
"""Key of a module's result about a domain → whether the job's row stores it."""
EVENT_KEYS = (
    *("changed", "msg", "code", "seen_generation", "module_stderr", "unreachable"),
    *("host_info", "host_info_compressed", "domains"),
    *RESULT_KEYS,
)
"""Keys of a task's result that an event keeps."""
MESSAGE_LENGTH = 1000
"""Longer messages of a failure are cut: the whole is in the job's log."""
RESULTS = ("runner_on_ok", "runner_on_failed", "runner_on_unreachable")


@dataclass
class Progress:
    """What the events of one play have reported so far."""

    tasks: int
    """Number of tasks that the play is expected to start."""
    action: str = ""
    variables: Mapping[str, Any] = field(default_factory=dict)
    """The job's action and variables, which decide about the words of a step."""
    started: int = 0
    percent: int = 0
    """0 to 99; only the success of the job sets 100. It never decreases."""
    task: str = ""
    """The name of the task under way."""
    step: Step = NO_STEP
    step_started_at: datetime | None = None
    changed: bool = False
    result: dict[str, Any] | None = None
    """The last module result that has a domain, with its RESULT_KEYS only."""
    error: dict[str, Any] | None = None
    """code, message, task, host of the first failure that was not ignored."""
    seen_generation: int | None = None
    """The generation that the host has seen, if it has refused the job as outdated."""
    stats_seen: bool = False
    item_error: dict[str, Any] | None = None
    """The first failure among the loop items of the current task."""

    def take(self, event: Mapping[str, Any]) -> bool:
        """Apply one event of the runner; return True if it changed percent or step."""
        kind = event["event"]
        if kind == "playbook_on_task_start":
            self.started += 1
            self.item_error = None
            # A reported run sends its own percent; only the actions have a known number of tasks.
            done = event.get("percent")
            if done is None:
                done = 100 * (self.started - 1) // max(self.tasks, self.started)
            self.percent = max(self.percent, min(99, max(1, done)))
            self._take_step(event)
            return True
        if kind == "playbook_on_stats":
            self.stats_seen = True
        elif kind == "runner_item_on_failed":
            self.item_error = self.item_error or failure_of(event)
        elif kind in RESULTS:
            self._take_result(kind, event)
        return False

    def row_result(self) -> dict[str, Any]:
        """Return the part of the result that the job's row stores."""
        result = self.result or {}
        return {key: result[key] for key, kept in RESULT_KEYS.items() if kept and key in result}

    def _take_step(self, event: Mapping[str, Any]) -> None:
        self.task = str(event.get("task") or "")
        step = step_of(self.task, self.action, self.variables)
        if step != self.step or self.step_started_at is None:
            at = event.get("at")
            self.step_started_at = datetime.fromtimestamp(at, UTC) if at else datetime.now(UTC)
        self.step = step

    def _take_result(self, kind: str, event: Mapping[str, Any]) -> None:
        res = event.get("res") or {}
        if kind == "runner_on_ok":
            self.changed = self.changed or bool(res.get("changed"))
        if "domain" in res:
            self.result = {key: res[key] for key in RESULT_KEYS if key in res}
        if kind in FAILURES and not event.get("ignore_errors") and self.error is None:
            # The result of a loop reports only that an item failed, not which one and why.
            item_error = self.item_error if kind == "runner_on_failed" else None
            self.error = item_error or failure_of(event)
            if self.error["code"] == "STALE_GENERATION":
                self.seen_generation = res.get("seen_generation")


def failure_of(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return the job error {code, message, task, host} of a failure event."""
    res = event.get("res") or {}
    # The last line of a traceback has the error.
    printed = str(res.get("module_stderr") or "").strip().rpartition("\n")[2]
    message = str(res.get("msg") or printed or "the task failed without a message")
    if event["event"] == "runner_on_unreachable":
        code = "HOST_UNREACHABLE"
        message = f"cannot reach host {event.get('host')}: {message}"
    else:
        code = str(res.get("code") or "PLAYBOOK_FAILED")
    return {
        "code": code,
        "message": shorten(message),
        "task": event.get("task") or "",
        "host": event.get("host") or "",
    }


def shorten(message: str) -> str:
    """Return a message of a failure, cut if it is longer than MESSAGE_LENGTH."""
    if len(message) <= MESSAGE_LENGTH:
        return message
    return f"{message[:MESSAGE_LENGTH]} …; read the job's log"
