"""Unit tests: where a console is, and whose pages may open it."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError
from virtplay.api.console import is_known_origin, websocket_base
from virtplay.errors import ValidationFailed
from virtplay.settings import Settings


@pytest.mark.parametrize(
    ("host", "base"),
    [
        ("localhost:3000", "ws://localhost:3000"),
        ("virt.example.org", "ws://virt.example.org"),
        ("[2001:db8::1]:3000", "ws://[2001:db8::1]:3000"),
        ("", None),
        ("a/b", None),
        ("a@b", None),
        ("a b", None),
        ("a:b", None),
        ("a\r\nb", None),
    ],
)
def test_the_websocket_is_where_the_client_says_the_service_is(host: str, base: str | None) -> None:
    settings = Settings()
    if base is not None:
        assert websocket_base(settings, host) == base
        return
    with pytest.raises(ValidationFailed):
        websocket_base(settings, host)


def test_a_public_address_goes_before_all() -> None:
    settings = Settings(public_url="https://Virt.example.org:443/")
    assert settings.public_url == "https://virt.example.org"
    assert websocket_base(settings, "a b") == "wss://virt.example.org"


def test_tls_makes_it_wss(tmp_path: Path) -> None:
    for name in ("cert", "key"):
        (tmp_path / name).touch()
    settings = Settings(tls_certificate=tmp_path / "cert", tls_key=tmp_path / "key")
    assert websocket_base(settings, "localhost") == "wss://localhost"
    with pytest.raises(ValidationError, match="require each other"):
        Settings(tls_certificate=tmp_path / "cert")
    with pytest.raises(ValidationError, match="cannot be read"):
        Settings(tls_certificate=tmp_path / "none", tls_key=tmp_path / "key")


@pytest.mark.parametrize(
    "value", ["virt.example.org", "ws://a", "https://a/b", "https://u@a", "https://a?b", "https://"]
)
def test_what_is_no_origin_is_refused(value: str) -> None:
    with pytest.raises(ValidationError):
        Settings(public_url=value)
    with pytest.raises(ValidationError):
        Settings(console_origins=f"https://ok.example.org, {value}")


@pytest.mark.parametrize(
    ("origin", "known"),
    [
        ("http://localhost:3000", True),
        ("https://localhost:3000", True),
        ("http://LOCALHOST:3000", True),
        ("https://ui.example.org", True),
        ("http://ui.example.org", False),
        ("https://ui.example.org.evil.example", False),
        ("https://ui.example.org/", False),
        ("null", False),
        ("", False),
        ("localhost:3000", False),
        ("file://localhost:3000", False),
        ("http://localhost:3001", False),
        ("http://x@localhost:3000", False),
    ],
)
def test_origins(origin: str, known: bool) -> None:
    settings = Settings(console_origins="https://ui.example.org")
    assert is_known_origin(settings, origin, "localhost:3000") is known
    assert not is_known_origin(settings, "http://", "")
