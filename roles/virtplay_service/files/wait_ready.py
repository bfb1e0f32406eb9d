"""Role virtplay_service: waits until the service reports that it is ready.

Usage: wait_ready.py ADDRESS SECONDS UNIT

Ends with status 1 and one line on standard error after SECONDS, or as soon as systemd has restarted
UNIT a second time: a release that keeps exiting never becomes ready.
"""

import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request

RESTARTS_MAX = 1


def find_fault(address):
    """Return None if the service is ready, otherwise the reason why not."""
    # The certificate is for the public name, not for this address; no proxy leads to this machine.
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}),
        urllib.request.HTTPSHandler(context=ssl._create_unverified_context()),  # noqa: S323
    )
    try:
        with opener.open(f"{address}/readyz", timeout=5) as response:
            return None if response.status == 200 else f"HTTP status {response.status}"
    except urllib.error.HTTPError as error:
        return f"HTTP status {error.code}: {error.read(2000).decode(errors='replace')}"
    except OSError as error:
        return str(getattr(error, "reason", error))


def show(unit, name):
    """Return a property of the systemd unit."""
    return subprocess.run(
        ["systemctl", "show", "--value", f"--property={name}", unit],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


def main(address, seconds, unit):
    """Wait until the service is ready, or end this program with the reason why it is not."""
    deadline = time.monotonic() + float(seconds)
    while True:
        fault = find_fault(address)
        # Another program on the port may respond in the unit's place.
        if fault is None and show(unit, "ActiveState") == "active":
            return
        if int(show(unit, "NRestarts")) > RESTARTS_MAX:
            sys.exit(
                f"the service keeps exiting: {fault or 'another program responds at its address'}"
            )
        if time.monotonic() > deadline:
            sys.exit(f"the service is not ready after {seconds} s: {fault or 'it is not running'}")
        time.sleep(0.5)


if __name__ == "__main__":
    main(*sys.argv[1:])
