"""Command line: its errors, and how they are printed: in its own words, or as JSON."""

import json
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import typer

from virtplay.cli.ages import age_text
from virtplay.cli.screen import plain
from virtplay.cli.sizes import write_size
from virtplay.errors import DatabaseNotAvailable, VirtplayError, VmAmbiguous
from virtplay.texts import did_you_mean
from virtplay.vm_fields import WORDS

FAILED = 1
WRONG_USAGE = 2
JOB_FAILED = 3

OPTIONS = {
    "autoStart": "--auto-start",
    "atOnce": "--at-once",
    "expiresAt": "--expires",
    "keepDisks": "--keep-disks",
    "labels": "--label",
    "network.network": "--network",
    "network.bridge": "--bridge",
    "network.model": "--model",
    "network.mac": "--mac",
    "network.ip": "--ip",
    "keep.hourly": "--keep-hourly",
    "keep.daily": "--keep-daily",
    "keep.weekly": "--keep-weekly",
    "keep.monthly": "--keep-monthly",
    "sshKeys": "--ssh-key",
    "userData": "--user-data",
}
"""Field of a request → the option that sets it, where that is not --FIELD."""
ARGUMENTS = {"name": "NAME", "vms": "VM", "vm": "VM"}
"""Field of a request → the argument that sets it, in commands without an option --FIELD."""

UNITS = {"memory": "M", "disk": "G"}
"""Field of a request that is a size → its unit."""


class ClientError(VirtplayError):
    """An error that the command line noticed; its code is none of the API's."""

    code = "CLIENT_ERROR"
    exit_status: ClassVar[int] = FAILED


class CannotReach(ClientError):
    """The service sent no response, or none of this API."""

    code = "SERVICE_NOT_REACHABLE"


class NotSent(CannotReach):
    """The service got no request, because no connection could be opened."""


class OtherVersion(ClientError):
    """A response lacks a field, as those of an older service may."""

    code = "OTHER_VERSION"


class CannotChoose(ClientError):
    """An object named on the command line does not exist, or is ambiguous.

    `candidates`: a line about each object that could be meant.
    """

    code = "CANNOT_CHOOSE"

    def __init__(self, message: str, candidates: Sequence[str] = ()) -> None:
        super().__init__(message, candidates=list(candidates))
        self.candidates = list(candidates)


class WrongValue(ClientError):
    """A value on the command line cannot be used."""

    code = "WRONG_USAGE"
    exit_status = WRONG_USAGE


class NoConfirmation(ClientError):
    """A command that asks before it acts has no terminal to ask on."""

    code = "NO_CONFIRMATION"
    exit_status = WRONG_USAGE


class Refused(VirtplayError):
    """The API returned an error; `refusal` is its code, and `words` its message without it.

    `candidates`: a line about each VM that could be meant.
    """

    def __init__(
        self, refusal: str, message: str, details: Mapping[str, Any] | None = None
    ) -> None:
        given = details or {}
        self.words = _in_options(refusal, message, given)
        self.candidates: list[str] = []
        if refusal == VmAmbiguous.code and (vms := given.get("vms")):
            self.words = self.words.partition(f": {vms[0]['id']} (")[0] + "; use an id:"
            self.candidates = [describe_vm(vm) for vm in vms]
        wrong = refusal == "VALIDATION_ERROR"
        super().__init__(self.words if wrong or self.candidates else f"{self.words} ({refusal})")
        self.details = dict(given)
        self.refusal = refusal
        self.exit_status = WRONG_USAGE if wrong else FAILED


def is_away(error: CannotReach | Refused) -> bool:
    """Whether the service or its database does not respond, which may pass."""
    return isinstance(error, CannotReach) or error.refusal == DatabaseNotAvailable.code


def print_fault(error: Exception) -> int:
    """Print an error on standard error, with --json as the API's envelope; return the status."""
    if isinstance(error, typer.TyperException):
        return _print_usage(error)
    if not isinstance(error, VirtplayError):
        print("Aborted!", file=sys.stderr)
        return FAILED
    if wants_json():
        if isinstance(error, Refused):
            print_json_fault(error.refusal, error.words, error.details)
        else:
            print_json_fault(error.code, error.message, error.details)
    else:
        print_error(error)
    return getattr(error, "exit_status", FAILED)


def print_error(error: VirtplayError) -> None:
    """Print an error on standard error: a line, and one for each object that could be meant."""
    lines = [f"virtplay: {plain(error.message)}"]
    if isinstance(error, CannotChoose | Refused):
        lines += [f"  {plain(line)}" for line in error.candidates]
    print("\n".join(lines), file=sys.stderr)


def print_json_fault(code: str, message: str, details: Mapping[str, Any] | None = None) -> None:
    """Print an error on standard error as the API would return it."""
    error = {"code": code, "message": message, "details": details or {}}
    print(json.dumps({"success": False, "error": error}), file=sys.stderr)


def wants_json() -> bool:
    """Whether the command line asks for JSON, also one that is wrong elsewhere."""
    words = sys.argv[1:]
    return "--json" in words[: words.index("--")] if "--" in words else "--json" in words


def describe_vm(vm: Mapping[str, Any]) -> str:
    """Return what tells a VM from others of its name: id, host, status and age."""
    age = age_text(vm["createdAt"])
    return f"{vm['id']} on {vm['host'] or 'no host'}, {vm['status']}, created {age}"


WORDS_OF_TYPER = {
    r" is not a valid int( range)?\.$": " is not a whole number",
    r" is not a valid float( range)?\.$": " is not a number",
    r" is not in the range ([^<=>]+)<=x<=([^<=>]+)\.$": r" is not between \1 and \2",
    r" is not in the range x>=([^<=>]+)\.$": r" is less than \1",
}
"""What Typer says of a wrong value → the same as a sentence for people."""


def _print_usage(error: typer.TyperException) -> int:
    """Print the error of a wrong command line, with its usage."""
    for typers, ours in WORDS_OF_TYPER.items():
        error.message = re.sub(typers, ours, error.message)
    _suggest_option(error)
    found = re.fullmatch(r"'(.*)' is not one of (.*)\.", error.message, re.DOTALL)
    if found:
        choices = re.findall(r"'([^']*)'", found[2])
        close = did_you_mean(found[1], choices)
        error.message = f"'{plain(found[1])}' is not one of {', '.join(choices)}{close}"
    if wants_json() and error.exit_code:
        print_json_fault("WRONG_USAGE", error.format_message())
    else:
        show: Any = error
        show.show()
    return error.exit_code


def _suggest_option(error: Any) -> None:
    """Let the error of an unknown option name the one that has another word, as --ram for memory.

    Typer suggests only what is spelled alike.
    """
    given, context = getattr(error, "option_name", None), getattr(error, "ctx", None)
    if given is None or context is None:
        return
    known = {option for each in context.command.params for option in each.opts}
    for words in WORDS:
        options = [OPTIONS.get(word) or _kebab(word) for word in words]
        same = [option for option in options if option in known]
        if same and given in {*options, *map(_kebab, words)}:
            error.possibilities = same[:1]


def _kebab(word: str) -> str:
    return "--" + re.sub(r"([A-Z])", r"-\1", word).lower().replace("_", "-")


def _in_options(refusal: str, message: str, details: Mapping[str, Any]) -> str:
    """Return the service's message with options in place of JSON fields and query parameters."""
    fields = details.get("fields")
    if refusal == "VALIDATION_ERROR" and isinstance(fields, list) and fields:
        return "; ".join(_in_option(str(one["field"]), str(one["message"])) for one in fields)
    return re.sub(r"\b([a-z][a-zA-Z]*)=true\b", lambda found: _option(found[1]), message)


def _in_option(field: str, message: str) -> str:
    """Return what is wrong with a field as said of its option; a limit of a size has its unit."""
    letter = UNITS.get(field)
    if letter:
        message = re.sub(r"[0-9]+$", lambda found: write_size(int(found[0]), letter), message)
    return f"{_option(field)} {message}"


def _option(field: str) -> str:
    """Return the option or argument that sets a field of a request."""
    if field == "body":
        return "the request"
    name = re.sub(r"\.[0-9]+$", "", field)
    name = name if name in OPTIONS else name.partition(".")[0]
    option = OPTIONS.get(name) or _kebab(name)
    given = any(word.partition("=")[0] == option for word in sys.argv[1:])
    return ARGUMENTS[name] if name in ARGUMENTS and not given else option
