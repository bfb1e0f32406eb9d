"""Parses bodies and query strings strictly, and reports all faults together."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from virtplay.errors import ValidationFailed
from virtplay.texts import did_you_mean
from virtplay.vm_fields import WORDS

Model = TypeVar("Model", bound=BaseModel)
DEPTH_LIMIT = 32
DIGITS_LIMIT = 32
FAULTS_LIMIT = 100
NAME_LIMIT = 64


class _Refused(ValueError):
    """The body is JSON that the standard library accepts and we do not."""


def parse_body(raw: bytes, content_type: str, model: type[Model]) -> Model:
    """Return the JSON object of the body as `model`; ValidationFailed lists every wrong field.

    An empty body counts as {}. NaN, infinities, duplicate keys, lone surrogates, NUL characters,
    overlong numbers and deep nesting are refused.
    """
    if not raw.strip():
        return _validate({}, model, "body")
    if content_type.split(";", 1)[0].strip().lower() != "application/json":
        raise _body_fault("must be sent with the content type application/json")
    try:
        document = json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=_object,
            parse_constant=_constant,
            parse_int=_int,
        )
        _refuse_odd_text(document, 0)
    except UnicodeDecodeError:
        raise _body_fault("must be UTF-8") from None
    except RecursionError:
        raise _body_fault(f"is nested deeper than {DEPTH_LIMIT} levels") from None
    except json.JSONDecodeError as error:
        raise _body_fault(
            f"is not JSON: {error.msg} (line {error.lineno}, column {error.colno})"
        ) from None
    except _Refused as error:
        raise _body_fault(str(error)) from None
    if not isinstance(document, dict):
        raise _body_fault("must be a JSON object")
    checked = _validate(document, model, "body")
    if _holds_odd_number(document):
        raise _body_fault("contains NaN, an infinity or a number that is too large")
    return checked


def parse_query(arguments: Mapping[str, Sequence[str]], model: type[Model]) -> Model:
    """Return the query as `model`; ValidationFailed lists every wrong parameter."""
    repeated = [key for key, values in arguments.items() if len(values) > 1]
    if repeated:
        raise ValidationFailed(
            f"cannot read the query: {', '.join(repeated)} given more than once",
            [{"field": key, "message": "is given more than once"} for key in repeated],
        )
    odd = []
    for key, values in arguments.items():
        try:
            _refuse_odd_text([key, values[0]], 0)
        except _Refused as error:
            odd.append({"field": key, "message": str(error)})
    if odd:
        words = "; ".join(f"{entry['field']} {entry['message']}" for entry in odd)
        raise ValidationFailed(f"cannot read the query: {words}", odd)
    return _validate({key: values[0] for key, values in arguments.items()}, model, "query")


def _validate(document: Mapping[str, Any], model: type[Model], what: str) -> Model:
    try:
        return model.model_validate(document)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)
        fields = [_fault(entry, model) for entry in found[:FAULTS_LIMIT]]
        words = "; ".join(f"{entry['field']} {entry['message']}" for entry in fields)
        if len(found) > FAULTS_LIMIT:
            words += f"; and {len(found) - FAULTS_LIMIT} more"
        raise ValidationFailed(f"cannot read the {what}: {words}", fields) from None


def _fault(entry: Mapping[str, Any], model: type[BaseModel]) -> dict[str, str]:
    location = [
        str(part)[:NAME_LIMIT] for part in entry["loc"] if part not in ("function-after", "str")
    ]
    message = str(entry["msg"]).removeprefix("Value error, ")
    match entry["type"]:
        case "missing":
            message = "is required"
        case "extra_forbidden":
            message = "is not a known field"
            if len(location) == 1:
                message += did_you_mean(location[0], model.model_fields, WORDS)
        case _:
            message = message[:1].lower() + message[1:]
            message = message.replace("input should be", "must be")
            message = message.replace("string should", "must").replace("list should", "must")
    return {"field": ".".join(location) or "body", "message": message}


def _body_fault(message: str) -> ValidationFailed:
    return ValidationFailed(
        f"cannot read the body: it {message}", [{"field": "body", "message": message}]
    )


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _Refused(f"has the key {key!r} twice")
        found[key] = value
    return found


def _constant(name: str) -> float:
    """Return NaN or an infinity: no field accepts it, so the field is named in the error."""
    return float(name)


def _int(text: str) -> float:
    """Return a whole number; an overlong one becomes an infinity, which no field accepts."""
    return int(text) if len(text) <= DIGITS_LIMIT else math.inf


def _holds_odd_number(value: Any) -> bool:
    """Return whether NaN or an infinity is anywhere, as in a field that accepts any value."""
    if isinstance(value, dict):
        return any(_holds_odd_number(item) for item in value.values())
    if isinstance(value, list):
        return any(_holds_odd_number(item) for item in value)
    return isinstance(value, float) and not math.isfinite(value)


def _refuse_odd_text(value: Any, depth: int) -> None:
    """Refuse NUL and lone surrogates anywhere, and nesting beyond the limit."""
    if depth > DEPTH_LIMIT:
        raise _Refused(f"is nested deeper than {DEPTH_LIMIT} levels")
    if isinstance(value, str):
        if "\x00" in value:
            raise _Refused("contains a NUL character")
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise _Refused("contains a lone surrogate")
    elif isinstance(value, dict):
        for key, item in value.items():
            _refuse_odd_text(key, depth + 1)
            _refuse_odd_text(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            _refuse_odd_text(item, depth + 1)
