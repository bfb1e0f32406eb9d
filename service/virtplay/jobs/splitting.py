"""Pure: splits the events of a play of several jobs, so that each job has events of its own."""

from collections.abc import Iterable, Mapping
from typing import Any

from virtplay.jobs.progress import EVENT_KEYS


def split(event: Mapping[str, Any], hosts: Mapping[str, str]) -> dict[str, Mapping[str, Any]]:
    """Return job id → its own event, for the jobs that an event of the play is about.

    `hosts` has job id → host. What is about the play or a task is about all jobs. What is about a
    host is about its jobs; if it is the result of the module power, each has its domain's part.
    """
    host = event.get("host")
    if not host:
        return dict.fromkeys(hosts, event)
    concerned = [ref for ref, of_job in hosts.items() if of_job == host]
    outcomes = (event.get("res") or {}).get("domains")
    if outcomes is None:
        return dict.fromkeys(concerned, event)
    parts = {outcome["job"]: outcome for outcome in outcomes}
    return {ref: _part(event, parts[ref]) for ref in concerned if ref in parts}


def _part(event: Mapping[str, Any], outcome: Mapping[str, Any]) -> dict[str, Any]:
    """Return the event of a domain, as the module domain would have caused it."""
    return {
        **event,
        "event": "runner_on_failed" if outcome["failed"] else "runner_on_ok",
        "text": "\n".join(_lines(str(event["host"]), outcome)),
        "res": {key: outcome[key] for key in EVENT_KEYS if key in outcome},
    }


def _lines(host: str, outcome: Mapping[str, Any]) -> Iterable[str]:
    yield from (f"[WARNING]: {warning}" for warning in outcome["warnings"])
    if outcome["failed"]:
        yield f"fatal: [{host}]: FAILED! => {outcome['msg']} ({outcome['code']})"
        return
    changes = ", ".join(
        f"{change['field']}: {change['before']} → {change['after']}"
        for change in outcome["changes"]
    )
    word = "changed" if outcome["changed"] else "ok"
    yield f"{word}: [{host}] => {outcome['name']}{f' ({changes})' * bool(changes)}"
