"""Unit tests: what the demo and the benchmarks start as the service ends with them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
STARTS = """
from pathlib import Path
from scripts.demo import start_service

program = ("-c", "print('up', flush=True); import signal; signal.pause()")
start_service(Path("none.yml"), Path("none"), "token", "0", program=program).wait()
"""


@pytest.mark.timeout(120)
def test_service_ends_with_a_demo_that_is_killed() -> None:
    command = [sys.executable, "-c", STARTS]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE) as demo:
        assert demo.stdout is not None
        assert demo.stdout.readline() == b"up\n"
        demo.kill()
        # The end of the output: nobody has it open any more, so the service has ended too.
        assert demo.stdout.read() == b""
