"""Tests of where downloads may go, for what a test server on loopback cannot show."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any
from urllib.request import Request

import pytest
from ansible_collections.virtplay.libvirt.plugins.module_utils.failure import Failure
from ansible_collections.virtplay.libvirt.plugins.module_utils.image import source as image_source

FROM = Request("https://198.51.100.1/disk.qcow2")


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("https://127.0.0.1/x", "this host"),
        ("https://localhost/x", "this host"),
        ("https://169.254.169.254/latest/meta-data", "this host"),
        ("https://[fe80::1]/x", "this host"),
        ("http://198.51.100.2/x", "from https"),
        ("file:///etc/passwd", "only http"),
        ("ftp://198.51.100.2/x", "only http"),
    ],
)
def test_redirect_is_refused(target: str, reason: str) -> None:
    handler = image_source._Redirects(allow_local=False)
    with pytest.raises(OSError, match=reason):
        handler.redirect_request(FROM, None, 302, "Found", {}, target)


def test_redirect_to_another_server_is_followed() -> None:
    handler = image_source._Redirects(allow_local=False)
    request = handler.redirect_request(FROM, None, 302, "Found", {}, "https://198.51.100.2/x")
    assert request.full_url == "https://198.51.100.2/x"


def test_name_that_changes_its_address_after_the_check_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        answers = iter(["198.51.100.1", "127.0.0.1"])

        def resolve(*_: Any, **__: Any) -> list[Any]:
            place = (next(answers), port)
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", place)]

        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        fetcher = image_source.Fetcher(None, 5)
        with pytest.raises(Failure, match="this host"):
            fetcher.save(f"http://images.example:{port}/x", tmp_path / "x", {"sha256"}, 10)
    assert not (tmp_path / "x").exists()
