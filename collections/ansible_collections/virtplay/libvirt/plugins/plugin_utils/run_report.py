# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Decides what the report of a run contains and what it never contains; pure, no I/O."""

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

# Extra variables that say what a run does, and can hold no secret; all others are left out.
_PLAIN_VARIABLES = re.compile(
    r"libvirt_(domain|snapshot|console|image)_(name|uuid|domain|state|template|vcpus|memory|disk|"
    r"clone|force|freeze|guard|keep_disks|timeout|lock_timeout|type|title)"
)
_SECRET_NAMES = re.compile(r"pass(word|wd|phrase)?|secret|token|credential|private|key|user_data")
_SHORTEST_SECRET = 4
_CODE = re.compile(r"[A-Z][A-Z_]{0,63}")
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_BANNER = 79


class Meter:
    """How far a run is, by the tasks of its plays; whole percent, and never less than before."""

    def __init__(self, tasks: Sequence[int]) -> None:
        """Expect plays with these numbers of tasks, one after the other."""
        self._tasks = tasks
        self._total = sum(tasks) or 1
        self._play = -1
        self._done = 0.0
        self._share = 1.0
        self._percent = 0

    def begin_play(self, number: int, share: float) -> None:
        """Enter a play (from 0 on), or its next batch of hosts, which are this share of all."""
        if number != self._play:
            self._play, self._done = number, 0.0
        self._share = share

    def begin_task(self) -> int:
        """Return how far the run is when the play's next task begins."""
        before = sum(self._tasks[: self._play]) if self._play > 0 else 0
        here = self._tasks[self._play] if 0 <= self._play < len(self._tasks) else 0
        percent = int(100 * (before + min(self._done, here)) / self._total)
        # Tasks that are included as the play goes are not known before.
        self._done += self._share
        self._percent = max(self._percent, min(99, percent))
        return self._percent


class Domains:
    """The domains that a run is about: those of its results, before that the one it names."""

    def __init__(self, variables: Mapping[str, Any]) -> None:
        """Begin with the domain that the run's extra variables name, if any."""
        self._named = _named_domain(variables)
        self._seen: dict[Any, dict[str, str]] = {}

    def see(self, answer: Mapping[str, Any], host: str) -> bool:
        """Take note of the domains in a task's answer; say whether there is a new one.

        Of a fleet those count that were changed, or were to be.
        """
        before = len(self._seen)
        domain = answer.get("domain")
        if isinstance(domain, Mapping) and domain.get("uuid"):
            identity = str(domain["uuid"])
            self._note(identity, {"uuid": identity, "name": domain.get("name"), "host": host})
        fleet = answer.get("vms")
        for vm in fleet if isinstance(fleet, list) else ():
            name = vm.get("name") if isinstance(vm, Mapping) else None
            if name and vm.get("outcome", "unchanged") != "unchanged":
                self._note((host, name), {"name": name, "host": host})
        return len(self._seen) > before

    def _note(self, key: Any, domain: Mapping[str, Any]) -> None:
        if len(self._seen) < DOMAINS_LIMIT:
            told = {name: _line(value)[:NAME_LIMIT] for name, value in domain.items() if value}
            self._seen.setdefault(key, told)

    def listed(self) -> list[dict[str, str]]:
        """Return them as the service takes them."""
        return list(self._seen.values()) or self._named


class Redactor:
    """Takes secrets out of texts, and out of what a service or a terminal stumbles over."""

    def __init__(self, variables: Mapping[str, Any], secrets: Iterable[str]) -> None:
        """Hide these secrets, and the values of variables whose names sound like secrets."""
        found = {*secrets, *_secrets_in(variables, hidden=False)}
        usable = sorted((s for s in found if len(s) >= _SHORTEST_SECRET), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, usable))) if usable else None

    def text(self, value: Any, limit: int = TEXT_LIMIT) -> str:
        """Return the value as text without secrets, NUL, lone surrogates and colours, cut off."""
        text = _ANSI.sub("", str(value)).replace("\x00", "\ufffd")
        text = text.encode("utf-8", "replace").decode()
        if self._pattern is not None:
            text = self._pattern.sub(HIDDEN, text)
        return text if len(text) <= limit else text[: limit - len(CUT)] + CUT

    def line(self, value: Any, limit: int = NAME_LIMIT) -> str:
        """Return the value as one printable line."""
        return self.text(_line(value), limit)

    def data(self, value: Any, depth: int = 0) -> Any:
        """Return plain JSON data of the same shape."""
        if value is None or isinstance(value, (bool, int, float)):
            return value
        if depth < DEPTH_LIMIT:
            if isinstance(value, Mapping):
                return {self.line(k): self.data(v, depth + 1) for k, v in value.items()}
            if isinstance(value, (list, tuple)):
                return [self.data(item, depth + 1) for item in value]
        return self.text(value, MESSAGE_LIMIT)


def banner(text: str) -> str:
    """Return a heading of the log, as Ansible writes them."""
    return f"\n{text} " + "*" * max(3, _BANNER - len(text))


def result_line(word: str, host: str, *, item: Any = None, told: str = "") -> str:
    """Return the log's line of one result: changed: [kvm1] => (item=a) => text."""
    label = f" => (item={str(item)[:NAME_LIMIT]})" if item is not None else ""
    return f"{word}: [{host}]{label}" + (f" => {told}" if told else "")


def reason_of(answer: Mapping[str, Any]) -> str:
    """Return why a task failed: its message, and what a command printed on its error stream."""
    parts = [answer.get("msg") or answer.get("module_stderr"), answer.get("stderr")]
    return "\n".join(str(part).strip() for part in parts if part) or "it said nothing"


def result_of(answer: Mapping[str, Any], redactor: Redactor) -> dict[str, Any]:
    """Return what the job shows of a task's answer."""
    result: dict[str, Any] = {"changed": bool(answer.get("changed"))}
    if "domain" in answer and "changes" in answer:
        # That there is one makes it the job's result, also of a domain that is gone.
        result["domain"] = {}
        if isinstance(answer["changes"], list) and len(answer["changes"]) <= CHANGES_LIMIT:
            changes = [entry for entry in answer["changes"] if isinstance(entry, Mapping)]
            result["changes"] = redactor.data(changes)
        if answer.get("applies_at"):
            result["applies_at"] = redactor.line(answer["applies_at"], 16)
    return result


def failure_of(answer: Mapping[str, Any], redactor: Redactor) -> dict[str, Any]:
    """Return what the job shows of a task's failure."""
    result = {**result_of(answer, redactor), "msg": redactor.text(reason_of(answer), MESSAGE_LIMIT)}
    code = str(answer.get("code") or "")
    return {**result, "code": code} if _CODE.fullmatch(code) else result


def command_of(arguments: Mapping[str, Any], variables: Mapping[str, Any], program: str) -> str:
    """Return the command line of the same run, without all that could be a secret."""
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
    """Return how many tasks of these blocks a run goes through when nothing fails."""
    count = 0
    for entry in blocks:
        if hasattr(entry, "block"):
            count += total_tasks(entry.block) + total_tasks(entry.always)
        elif not getattr(entry, "implicit", False):
            count += 1
    return count


def _named_domain(variables: Mapping[str, Any]) -> list[dict[str, str]]:
    named: dict[str, str] = {}
    for key, names in (
        ("uuid", ("libvirt_domain_uuid", "libvirt_snapshot_uuid", "libvirt_console_uuid")),
        ("name", ("libvirt_domain_name", "libvirt_snapshot_domain", "libvirt_console_name")),
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
    """Find the texts of a structure that stand under a name which sounds like a secret."""
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
