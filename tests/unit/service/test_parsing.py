"""Unit tests: bodies and query strings that are hostile or merely wrong."""

from typing import Any

import pytest
from pydantic import Field
from virtplay.api.http.parsing import parse_body, parse_query
from virtplay.api.schemas.fields import Query, Strict
from virtplay.api.schemas.vms import VmQuery
from virtplay.errors import ValidationFailed

JSON = "application/json"


class Probe(Strict):
    """A body with a field of every kind."""

    text: str | None = None
    whole: int | None = Field(None, ge=1, le=9)
    flag: bool | None = None
    more: dict[str, Any] | None = None
    items: list[Any] | None = None


class Wanting(Strict):
    """A body with required fields."""

    name: str = Field(max_length=3)
    cpu: int


def faults(raw: bytes, model: type[Strict] = Probe, content_type: str = JSON) -> dict[str, str]:
    """Field → fault of a body that must be refused."""
    with pytest.raises(ValidationFailed) as caught:
        parse_body(raw, content_type, model)
    assert caught.value.status == 400
    assert caught.value.message.startswith("cannot ")
    return {entry["field"]: entry["message"] for entry in caught.value.details["fields"]}


@pytest.mark.parametrize("raw", [b"", b"  \n", b"{}", b" { } "])
def test_no_body_counts_as_an_empty_object(raw: bytes) -> None:
    assert parse_body(raw, JSON, Probe) == Probe()


def test_no_body_needs_no_content_type() -> None:
    assert parse_body(b"", "", Probe) == Probe()


@pytest.mark.parametrize("content_type", [JSON, "Application/JSON; charset=utf-8", JSON + " "])
def test_content_types_of_json(content_type: str) -> None:
    assert parse_body(b'{"whole": 3}', content_type, Probe).whole == 3


@pytest.mark.parametrize(
    "content_type",
    ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "text/json",
     "application/json2", "application/yaml", "application/jsonp; application/json"],
)  # fmt: skip
def test_other_content_types_are_refused(content_type: str) -> None:
    assert faults(b"{}", content_type=content_type) == {
        "body": "must be sent with the content type application/json"
    }


BODY_FAULTS: list[tuple[bytes, str]] = [
    (b"[]", "object"),
    (b"null", "object"),
    (b"1", "object"),
    (b'"text"', "object"),
    (b"true", "object"),
    (b"[{}]", "object"),
    (b"NaN", "object"),
    (b'{"more": {"x": NaN}}', "NaN"),
    (b'{"more": {"x": -1e400}}', "too large"),
    (b'{"items": [' + b"1" * 100_000 + b"]}", "too large"),
    (b'{"whole": 1, "whole": 2}', "'whole' twice"),
    (b'{"more": {"a": 1, "a": 2}}', "'a' twice"),
    (b'{"whole": 1, "wh\\u006fle": 2}', "'whole' twice"),
    (b'{"text": "a\\u0000b"}', "NUL"),
    (b'{"more": {"a\\u0000": 1}}', "NUL"),
    (b'{"text": "\\ud800"}', "lone surrogate"),
    (b'{"text": "\\udc00\\ud800"}', "lone surrogate"),
    (b'{"more": {"\\udfff": 1}}', "lone surrogate"),
    (b'{"items": ["x", ["\\ud83d"]]}', "lone surrogate"),
    (b'{"text": "\xff\xfe"}', "UTF-8"),
    (b'{"text": "\xed\xa0\x80"}', "UTF-8"),
    ('{"text": "x"}'.encode("utf-16"), "UTF-8"),
    (b"\xef\xbb\xbf{}", "JSON"),
    (b'{"text": "a\nb"}', "JSON"),
    (b'{"text": "a\tb"}', "JSON"),
    (b"{'text': 'x'}", "JSON"),
    (b'{"text": "x",}', "JSON"),
    (b'{"text": "x"', "JSON"),
    (b'{"text": "x"} {}', "JSON"),
    (b'{"text": "\\x41"}', "JSON"),
    (b"/* c */ {}", "JSON"),
    (b'{"whole": 01}', "JSON"),
    (b'{"whole": +1}', "JSON"),
    (b'{"whole": 0x10}', "JSON"),
    (b"\x00", "JSON"),
    (b"text=x&whole=1", "JSON"),
    (b"[" * 40 + b"]" * 40, "deeper"),
    (b'{"items": ' + b"[" * 33 + b"]" * 33 + b"}", "deeper"),
    (b"[" * 100_000, "deeper"),
    (b'{"a":' * 100_000, "deeper"),
    (b'{"more": ' + b'{"a":' * 500 + b"1" + b"}" * 500 + b"}", "deeper"),
]


@pytest.mark.parametrize(("raw", "words"), BODY_FAULTS, ids=[repr(r[:24]) for r, _ in BODY_FAULTS])
def test_body_that_json_or_the_service_does_not_take(raw: bytes, words: str) -> None:
    found = faults(raw)
    assert list(found) == ["body"]
    assert words in found["body"]
    assert len(found["body"]) < 300


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity", b"1e999", b"9" * 400])
def test_number_that_is_none_is_named_with_its_field_and_all_other_faults(number: bytes) -> None:
    found = faults(b'{"whole": ' + number + b', "text": 1, "x": 2}')
    assert found.keys() == {"whole", "text", "x"}
    assert "integer" in found["whole"]


def test_many_faults_are_named_up_to_a_limit() -> None:
    body = b"{" + b",".join(b'"%05d%s": 1' % (n, b"k" * 200) for n in range(3000)) + b"}"
    with pytest.raises(ValidationFailed) as caught:
        parse_body(body, JSON, Probe)
    assert len(caught.value.details["fields"]) == 100
    assert caught.value.message.endswith("and 2900 more")
    assert len(caught.value.message) < 12_000


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        (b'{"text": 1}', "text"),
        (b'{"text": true}', "text"),
        (b'{"text": ["x"]}', "text"),
        (b'{"text": {"__ansible_unsafe": "x"}}', "text"),
        (b'{"text": {"__ansible_vault": "x"}}', "text"),
        (b'{"whole": "1"}', "whole"),
        (b'{"whole": 1.0}', "whole"),
        (b'{"whole": 1.5}', "whole"),
        (b'{"whole": 1e0}', "whole"),
        (b'{"whole": true}', "whole"),
        (b'{"whole": 0}', "whole"),
        (b'{"whole": -1}', "whole"),
        (b'{"whole": 10}', "whole"),
        (b'{"whole": 99999999999999999999999999999999}', "whole"),
        (b'{"whole": [1]}', "whole"),
        (b'{"flag": 1}', "flag"),
        (b'{"flag": 0}', "flag"),
        (b'{"flag": "true"}', "flag"),
        (b'{"flag": "yes"}', "flag"),
        (b'{"more": []}', "more"),
        (b'{"items": {}}', "items"),
        (b'{"unknown": 1}', "unknown"),
        (b'{"__class__": 1}', "__class__"),
        (b'{"ansible_host": "evil"}', "ansible_host"),
        (b'{"": 1}', ""),
        (b'{"Text": "x"}', "Text"),
    ],
)
def test_wrong_type_range_or_unknown_field_is_named(raw: bytes, field: str) -> None:
    assert list(faults(raw)) == [field or "body"]


def test_every_fault_is_named_at_once() -> None:
    found = faults(b'{"name": "long", "cpu": "2", "extra": 1, "other": null}', Wanting)
    assert set(found) == {"name", "cpu", "extra", "other"}
    assert found["extra"] == "is not a known field"
    assert set(faults(b"{}", Wanting)) == {"name", "cpu"}
    assert faults(b"{}", Wanting)["cpu"] == "is required"


@pytest.mark.parametrize(
    ("word", "meant"),
    [("vcpus", "cpu"), ("nmae", "name"), ("ram", ""), ("zzzz", "")],
)
def test_unknown_field_comes_with_the_one_that_was_meant(word: str, meant: str) -> None:
    (message,) = faults(f'{{"{word}": 1, "name": "a", "cpu": 1}}'.encode(), Wanting).values()
    assert message == "is not a known field" + (f"; did you mean {meant}?" if meant else "")


@pytest.mark.parametrize(
    "text",
    ["\u202eevil", "a\u2066b", "right-to-left \u200f mark", "emoji 👩‍💻", "café", "e\u0301",
     "{{ 7*7 }}", "</x>", "\u2028"],
)  # fmt: skip
def test_odd_but_legal_text_gets_to_the_schema_unchanged(text: str) -> None:
    body = ('{"text": "' + text + '"}').encode()
    assert parse_body(body, JSON, Probe).text == text


def test_surrogate_pairs_are_one_character() -> None:
    assert parse_body(b'{"text": "\\ud83d\\ude80"}', JSON, Probe).text == "🚀"


def test_nesting_up_to_the_limit_is_fine() -> None:
    raw = b'{"items": ' + b"[" * 30 + b"]" * 30 + b"}"
    assert parse_body(raw, JSON, Probe).items is not None


class Flags(Query):
    """A query with a flag."""

    force: bool = False


@pytest.mark.parametrize(
    ("arguments", "fields"),
    [
        ({"page": ["0"]}, {"page"}),
        ({"page": ["-1"]}, {"page"}),
        ({"page": ["1.5"]}, {"page"}),
        ({"page": [""]}, {"page"}),
        ({"page": ["x"]}, {"page"}),
        ({"page": ["1e3"]}, {"page"}),
        ({"page": ["9" * 30]}, {"page"}),
        ({"page": ["9" * 5000]}, {"page"}),
        ({"page": ["NaN"]}, {"page"}),
        ({"page": ["1\x00"]}, {"page"}),
        ({"limit": ["0"]}, {"limit"}),
        ({"limit": ["101"]}, {"limit"}),
        ({"status": ["Running"]}, {"status"}),
        ({"status": [""]}, {"status"}),
        ({"status": ["running' OR 1=1 --"]}, {"status"}),
        ({"sort": ["password"]}, {"sort"}),
        ({"sort": ["--name"]}, {"sort"}),
        ({"sort": [""]}, {"sort"}),
        ({"sort": ["id; DROP TABLE vm"]}, {"sort"}),
        ({"search": ["x" * 129]}, {"search"}),
        ({"page": ["1", "2"]}, {"page"}),
        ({"page": ["1", "1"], "limit": ["1", "2"]}, {"page", "limit"}),
        ({"pages": ["1"]}, {"pages"}),
        ({"token": ["secret"]}, {"token"}),
        ({"page": ["0"], "limit": ["x"], "status": ["?"], "odd": ["1"]},
         {"page", "limit", "status", "odd"}),
    ],
)  # fmt: skip
def test_wrong_query_names_every_parameter(
    arguments: dict[str, list[str]], fields: set[str]
) -> None:
    with pytest.raises(ValidationFailed) as caught:
        parse_query(arguments, VmQuery)
    assert {entry["field"] for entry in caught.value.details["fields"]} == fields


@pytest.mark.parametrize(("text", "value"), [("true", True), ("false", False)])
def test_flags_of_the_query(text: str, value: bool) -> None:
    assert parse_query({"force": [text]}, Flags).force is value


@pytest.mark.parametrize("text", ["", "maybe", "2", "truefalse", "null"])
def test_other_flags_of_the_query_are_refused(text: str) -> None:
    with pytest.raises(ValidationFailed):
        parse_query({"force": [text]}, Flags)
