"""Tests of the doubt about KVM on a host where it has failed a domain since it was tried."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.virtplay.libvirt.plugins.module_utils.host import acceleration, files

TRIED = "2026-11-29T00:00:00+00:00"
LATER = 1_795_910_400 + 60
START = "2026-11-29 00:00:01.000+0000: starting up libvirt version: 9.0.0, package: 1\n"
ERROR = "KVM internal error. Suberror: 1\nextra data[0]: 0x1\nEAX=00000000\n"


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host on which KVM was tried with success; its directory of logs."""
    monkeypatch.setattr(files, "HOST_FILE", tmp_path / "host.json")
    monkeypatch.setattr(acceleration, "QEMU_LOGS", tmp_path)
    files.HOST_FILE.write_text(json.dumps({"virt_type": "kvm", "tried_at": TRIED}))
    return tmp_path


def write_log(folder: Path, text: str, at: float = LATER) -> None:
    (folder / "web-1.log").write_text(text)
    os.utime(folder / "web-1.log", (at, at))


def web(**values: Any) -> dict[str, Any]:
    return {"name": "web-1", "virt_type": "kvm", "state": "paused", **values}


def test_host_where_kvm_fails_later_says_so(host: Path) -> None:
    write_log(host, START + ERROR)
    assert acceleration.doubt_kvm([web(name="other"), web()]) == (
        "KVM has failed web-1 (KVM internal error. Suberror: 1): prepare the host again"
        " (playbooks/host_prepare.yml), which boots a guest to try KVM"
    )
    # As it stays in the log of a VM that was ended for it.
    write_log(host, f"{START}{ERROR}2026-11-29: shutting down, reason=destroyed\n")
    assert acceleration.doubt_kvm([web(state="stopped")])
    # As on a start that QEMU refuses.
    write_log(host, f"{START}qemu: error: failed to set MSR 0x10a to 0x69\n")
    doubt = acceleration.doubt_kvm([web(state="stopped")]) or ""
    assert "(qemu: error: failed to set MSR 0x10a to 0x69)" in doubt


@pytest.mark.parametrize(
    ("text", "at", "domain"),
    [
        (START, LATER, {}),
        (START + ERROR + START, LATER, {}),
        (START + ERROR, LATER - 120, {}),
        (START + ERROR, LATER, {"virt_type": "qemu"}),
        (START + ERROR, LATER, {"state": "running"}),
    ],
    ids=["no error", "in an earlier run", "before the trial", "no KVM", "it runs"],
)
def test_there_is_no_doubt_without_a_failure(
    host: Path, text: str, at: float, domain: dict[str, Any]
) -> None:
    write_log(host, text, at)
    assert acceleration.doubt_kvm([web(**domain)]) is None


def test_kvm_that_is_not_believed_is_not_doubted(host: Path) -> None:
    write_log(host, START + ERROR)
    odd: list[Any] = [{"virt_type": "qemu"}, {"virt_type": "kvm", "reason": "set"}, {}, []]
    for noted in odd:
        files.HOST_FILE.write_text(json.dumps(noted))
        assert acceleration.doubt_kvm([web()]) is None
