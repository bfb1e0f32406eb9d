"""A callback plugin: writes what its process has inherited to the file that INSPECTED names."""

import contextlib
import json
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from ansible.plugins.callback import CallbackBase


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """Writes it at the start of the playbook."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "inspect_run"

    def v2_playbook_on_start(self, playbook: Any) -> None:
        path = os.environ.get("INSPECTED")
        if path:
            Path(path).write_text(json.dumps(inspect(), indent=1, default=str))


def inspect() -> dict[str, Any]:
    """Return it as a dictionary."""
    descriptors = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            descriptors[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    umask = os.umask(0)
    os.umask(umask)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "environment": dict(os.environ),
        "shown environment": sorted(
            filter(None, os.fsdecode(Path("/proc/self/environ").read_bytes()).split("\0"))
        ),
        "command": os.fsdecode(Path("/proc/self/cmdline").read_bytes()).strip("\0").split("\0"),
        "name": status["Name"],
        "arguments": sys.argv,
        "directory": os.getcwd(),
        "umask": umask,
        "niceness": os.getpriority(os.PRIO_PROCESS, 0),
        "processors": sorted(os.sched_getaffinity(0)),
        "limits": {
            name: resource.getrlimit(getattr(resource, name))
            for name in dir(resource)
            if name.startswith("RLIMIT_")
        },
        "signals": {
            # Without those of the C library, which it catches as it needs them.
            name: int(status[name], 16) & ~(0b11 << 31)
            for name in ("SigBlk", "SigIgn", "SigCgt", "SigPnd", "ShdPnd")
        },
        "handlers": {
            number.name: str(signal.getsignal(number)).split(" at ")[0] for number in signal.Signals
        },
        "threads": [threading.active_count(), status["Threads"].strip()],
        "children": [
            len(multiprocessing.active_children()),
            multiprocessing.current_process().name,
        ],
        "groups": [os.getgroups(), os.getresuid(), os.getresgid()],
        "descriptors": {
            number: target
            for number, target in sorted(descriptors.items())
            if not target.startswith(("/proc/", "anon_inode:", "pipe:", "socket:")) or number < 3
        },
        "inheritable": sorted(n for n in descriptors if n in (0, 1, 2) or _is_inheritable(n)),
        "streams": [None if s is None else s.isatty() for s in (sys.stdin, sys.stdout, sys.stderr)],
        "buffering": [None if s is None else s.line_buffering for s in (sys.stdout, sys.stderr)],
        "encodings": [
            None if s is None else (s.encoding, s.errors) for s in (sys.stdin, sys.stdout)
        ],
        "input": sys.stdin.read() if "READ_INPUT" in os.environ else "",
        "temporary": tempfile.gettempdir(),
        "zone": time.tzname,
        "path": sys.path,
        "flags": str(sys.flags),
        "parent": multiprocessing.parent_process() is None,
    }


def _is_inheritable(number: int) -> bool:
    try:
        return os.get_inheritable(number)
    except OSError:
        return False
