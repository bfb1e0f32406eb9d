# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Builds the report of a run, without its secrets; pure, no I/O."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

TEXT_LIMIT = 20_000
MESSAGE_LIMIT = 4_000
NAME_LIMIT = 255
COMMAND_LIMIT = 4_096
CHANGES_LIMIT = 200
DOMAINS_LIMIT = 1000
DEPTH_LIMIT = 12
HIDDEN = "********"
CUT = " […]"

# Extra variables that describe a run and cannot contain secrets; all others are left out.
_PLAIN_VARIABLES = re.compile(
    r"libvirt_(domain|snapshot|console|image)_(name|uuid|domain|state|template|vcpus|memory|disk|"
    r"clone|force|freeze|guard|keep_disks|timeout|lock_timeout|type|title)"
)
_SECRET_NAMES = re.compile(r"pass(word|wd|phrase)?|secret|token|credential|private|key|user_?data")
_SHORTEST_SECRET = 4
_CODE = re.compile(r"[A-Z][A-Z_]{0,63}")
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_BANNER = 79


class Meter:
    """The progress of a run, by the tasks of its plays; whole percent, never decreasing."""

    def __init__(self, tasks: Sequence[int]) -> None:
        """Expect plays with these numbers of tasks, in this order."""
        self._tasks = tasks
        self._total = sum(tasks) or 1
        self._play = -1
        self._done = 0.0
        self._share = 1.0
        self._percent = 0

    def begin_play(self, number: int, share: float) -> None:
        """Begin a play (from 0 on), or its next batch of hosts; share is its part of all hosts."""
        if number != self._play:
            self._play, self._done = number, 0.0
        self._share = share

    def begin_task(self) -> int:
        """Return the progress in percent at the start of the play's next task."""
        before = sum(self._tasks[: self._play]) if self._play > 0 else 0
        here = self._tasks[self._play] if 0 <= self._play < len(self._tasks) else 0
        percent = int(100 * (before + min(self._done, here)) / self._total)
        # Dynamically included tasks are not in the expected numbers.
        self._done += self._share
        self._percent = max(self._percent, min(99, percent))
        return self._percent


class Domains:
    """The domains of a run: those in its results; before any result, the one in its variables."""

    def __init__(self, variables: Mapping[str, Any]) -> None:
        """Start with the domain in the run's extra variables, if any."""
        self._named = _named_domain(variables)
        self._found: dict[Any, dict[str, str]] = {}

    def add(self, result: Mapping[str, Any], host: str) -> bool:
        """Add the domains in a task's result; returns whether any is new.

        Of a host's declared VMs, only those with changes (real or planned) count.
        """
        before = len(self._found)
        self._add_domain(result.get("domain"), host)
        outcomes = result.get("domains")
        for outcome in outcomes if isinstance(outcomes, list) else ():
            if isinstance(outcome, Mapping) and "failed" in outcome:  # of the module power
                # One that has failed has no domain, and is known by what the task was given.
                self._add_domain(outcome.get("domain") or outcome, host)
        vms = result.get("vms")
        for vm in vms if isinstance(vms, list) else ():
            name = vm.get("name") if isinstance(vm, Mapping) else None
            if name and vm.get("outcome", "unchanged") != "unchanged":
                self._note((host, name), {"name": name, "host": host})
        return len(self._found) > before

    def _add_domain(self, domain: Any, host: str) -> None:
        if not isinstance(domain, Mapping):
            return
        if domain.get("uuid"):
            identity = str(domain["uuid"])
            self._note(identity, {"uuid": identity, "name": domain.get("name"), "host": host})
        elif domain.get("name") and "failed" in domain:
            self._note((host, domain["name"]), {"name": domain["name"], "host": host})

    def _note(self, key: Any, domain: Mapping[str, Any]) -> None:
        if len(self._found) < DOMAINS_LIMIT:
            entry = {name: _line(value)[:NAME_LIMIT] for name, value in domain.items() if value}
            self._found.setdefault(key, entry)

    def listed(self) -> list[dict[str, str]]:
        """Return the domains in the format of the service's API."""
        return list(self._found.values()) or self._named


class Redactor:
    """Removes secrets, and characters that break JSON or terminals, from texts and data."""

    def __init__(self, variables: Mapping[str, Any], secrets: Iterable[str]) -> None:
        """Hide these secrets, and the values of variables whose names look like secrets."""
        found = {*secrets, *_secrets_in(variables, hidden=False)}
        usable = sorted((s for s in found if len(s) >= _SHORTEST_SECRET), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, usable))) if usable else None

    def text(self, value: Any, limit: int = TEXT_LIMIT) -> str:
        """Return the value as text of limited length, without secrets, NUL, surrogates, colours."""
        text = _ANSI.sub("", str(value)).replace("\x00", "\ufffd")
        text = text.encode("utf-8", "replace").decode()
        if self._pattern is not None:
            text = self._pattern.sub(HIDDEN, text)
        return text if len(text) <= limit else text[: limit - len(CUT)] + CUT

    def line(self, value: Any, limit: int = NAME_LIMIT) -> str:
        """Return the value as one printable line."""
        return self.text(_line(value), limit)

    def data(self, value: Any, depth: int = 0) -> Any:
        """Return the value as JSON data of the same shape, with redacted texts."""
        if value is None or isinstance(value, (bool, int, float)):
            return value
        if depth < DEPTH_LIMIT:
            if isinstance(value, Mapping):
                return {self.line(k): self.data(v, depth + 1) for k, v in value.items()}
            if isinstance(value, (list, tuple)):
                return [self.data(item, depth + 1) for item in value]
        return self.text(value, MESSAGE_LIMIT)


def banner(text: str) -> str:
    """Return a heading of the log in Ansible's format."""
    return f"\n{text} " + "*" * max(3, _BANNER - len(text))


def result_line(word: str, host: str, *, item: Any = None, text: str = "") -> str:
    """Return the log line of one result: changed: [kvm1] => (item=a) => text."""
    label = f" => (item={str(item)[:NAME_LIMIT]})" if item is not None else ""
    return f"{word}: [{host}]{label}" + (f" => {text}" if text else "")


def reason_of(result: Mapping[str, Any]) -> str:
    """Return why a task failed: its message, and what its command printed on standard error."""
    parts = [result.get("msg") or result.get("module_stderr"), result.get("stderr")]
    return "\n".join(str(part).strip() for part in parts if part) or "the task gave no reason"


def result_of(result: Mapping[str, Any], redactor: Redactor) -> dict[str, Any]:
    """Return the part of a task's result that the job shows."""
    shown: dict[str, Any] = {"changed": bool(result.get("changed"))}
    if "domain" in result and "changes" in result:
        # The service takes a result with this key as the job's, also if the domain was deleted.
        shown["domain"] = {}
        if isinstance(result["changes"], list) and len(result["changes"]) <= CHANGES_LIMIT:
            changes = [entry for entry in result["changes"] if isinstance(entry, Mapping)]
            shown["changes"] = redactor.data(changes)
        if result.get("applies_at"):
            shown["applies_at"] = redactor.line(result["applies_at"], 16)
    return shown


def failure_of(result: Mapping[str, Any], redactor: Redactor) -> dict[str, Any]:
    """Return the part of a failed task's result that the job shows."""
    shown = {**result_of(result, redactor), "msg": redactor.text(reason_of(result), MESSAGE_LIMIT)}
    code = str(result.get("code") or "")
    return {**shown, "code": code} if _CODE.fullmatch(code) else shown


def command_of(arguments: Mapping[str, Any], variables: Mapping[str, Any], program: str) -> str:
    """Return the command line of the run, without everything that could be a secret."""
    words = [program, *map(str, arguments.get("args") or ())]
    for source in arguments.get("inventory") or ():
        words += ["-i", str(source)]
    for option, key in (("--limit", "subset"), ("--start-at-task", "start_at_task")):
        if arguments.get(key):
            words += [option, str(arguments[key])]
    for option, key in (("--tags", "tags"), ("--skip-tags", "skip_tags")):
        given = [str(tag) for tag in arguments.get(key) or ()]
        if given and given != ["all"]:
            words += [option, ",".join(given)]
    words += [f"--{key}" for key in ("check", "diff") if arguments.get(key)]
    for name, value in variables.items():
        if _PLAIN_VARIABLES.fullmatch(name) and isinstance(value, (str, bool, int, float)):
            words += ["-e", f"{name}={value}"]
    return shlex.join(words)


def total_tasks(blocks: Iterable[Any]) -> int:
    """Return how many tasks of these blocks a run without failures and tags executes."""
    count = 0
    for entry in blocks:
        if hasattr(entry, "block"):
            count += total_tasks(entry.block) + total_tasks(entry.always)
        elif not getattr(entry, "implicit", False) and "never" not in getattr(entry, "tags", ()):
            count += 1
    return count


# The variables that name the VM; that of a role goes before the one of all playbooks.
_NAMES = (
    "libvirt_snapshot_domain",
    "libvirt_console_domain",
    "libvirt_console_name",
    "libvirt_domain_name",
)


def _named_domain(variables: Mapping[str, Any]) -> list[dict[str, str]]:
    named: dict[str, str] = {}
    for key, names in (
        ("uuid", ("libvirt_snapshot_uuid", "libvirt_console_uuid", "libvirt_domain_uuid")),
        ("name", _NAMES),
    ):
        for name in names:
            value = variables.get(name)
            if isinstance(value, str) and value and "{" not in value:
                named[key] = _line(value)[:NAME_LIMIT]
                break
    if not re.fullmatch(r"[0-9a-fA-F-]{32,36}", named.get("uuid", "0" * 32)):
        del named["uuid"]
    return [named] if named else []


def _line(value: Any) -> str:
    return "".join(c if c.isprintable() else " " for c in " ".join(str(value).split()))


def _secrets_in(value: Any, *, hidden: bool) -> Iterable[str]:
    """Yield the texts in a structure whose names look like secrets."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            plain = _PLAIN_VARIABLES.fullmatch(str(name))
            sounds = not plain and bool(_SECRET_NAMES.search(str(name).lower()))
            yield from _secrets_in(item, hidden=hidden or sounds)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _secrets_in(item, hidden=hidden)
    elif hidden and isinstance(value, str):
        yield value
