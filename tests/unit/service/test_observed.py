"""Unit tests: what a host sends of an observation, as one text."""

import base64
import json
import zlib
from typing import Any

import pytest
from virtplay.hosts import observed
from virtplay.hosts.observed import decompress


def compressed(info: Any) -> str:
    """The text as the module host_info makes it."""
    return base64.b64encode(zlib.compress(json.dumps(info).encode())).decode()


def test_an_observation_is_what_the_module_has_compressed() -> None:
    info = {"host": {"hostname": "kvm1"}, "domains": [{"name": "vm-001", "title": "Köln 東京"}]}
    assert decompress(compressed(info)) == info


def test_what_databases_refuse_is_replaced() -> None:
    info = {"domains": [{"title": "a\x00b", "\ud800": ["\udfff", "\\u0000"]}]}
    assert decompress(compressed(info)) == {
        "domains": [{"title": "a\ufffdb", "?": ["?", "\\u0000"]}]
    }


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("no base64!", "base64"),
        (base64.b64encode(b"not compressed").decode(), "not compressed by zlib"),
        (base64.b64encode(zlib.compress(b'{"host": {}}')[:-3]).decode(), "incomplete"),
        (base64.b64encode(zlib.compress(b"{")).decode(), "property name"),
    ],
)
def test_a_text_that_cannot_be_read_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        decompress(text)


def test_a_text_that_would_fill_the_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observed, "REPORT_BYTES", 1000)
    with pytest.raises(ValueError, match="longer than 1000 bytes"):
        decompress(compressed("x" * 1000))
    assert decompress(compressed("x" * 990)) == "x" * 990  # type: ignore[comparison-overlap]
