"""Tests: plays the program that opens consoles, on a hypervisor that is a JSON file.

The inventory names the file as `libvirt_console_uri`. Without that it fails, as on a host without
libvirt for Python: then the service runs the job.
"""

import hashlib
import json
import sys
from pathlib import Path

uri, uuid, kind = sys.argv[1:]
if not Path(uri).is_file():
    sys.exit("No module named 'libvirt'")
given = json.load(sys.stdin)
content = json.loads(Path(uri).read_text())
domain = content["domains"][uuid]
vnc = kind == "vnc"
order = content["orders"].get("console") or {}
answer = {
    "type": kind,
    "host": "127.0.0.1" if vnc else None,
    "port": domain["graphics"]["port"] if vnc else None,
    "password_set": vnc,
    # For the test alone.
    "digest": hashlib.sha256((given["password"] or "").encode()).hexdigest(),
}
json.dump(order.get("fail") or answer, sys.stdout)
