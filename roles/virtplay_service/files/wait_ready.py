"""Role virtplay_service: waits until the service says that it is ready.

Usage: wait_ready.py ADDRESS SECONDS UNIT

Ends with status 1 and one line on standard error after SECONDS, or as soon as systemd has restarted
UNIT a second time: a release that ends by itself does not get ready.
"""

import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request

RESTARTS_MAX = 1


def ask(address):
    """None when the service is ready, else what is the matter."""
    # Its certificate is for its public name, and a proxy would not be the way to this machine.
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}),
        urllib.request.HTTPSHandler(context=ssl._create_unverified_context()),  # noqa: S323
    )
    try:
        with opener.open(f"{address}/readyz", timeout=5) as answer:
            return None if answer.status == 200 else f"it answered {answer.status}"
    except urllib.error.HTTPError as error:
        return f"it answered {error.code}: {error.read(2000).decode(errors='replace')}"
    except OSError as error:
        return str(getattr(error, "reason", error))


def show(unit, name):
    """A property of the unit, as systemd knows it."""
    return subprocess.run(
        ["systemctl", "show", "--value", f"--property={name}", unit],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


def main(address, seconds, unit):
    """Wait, or end with what is the matter."""
    deadline = time.monotonic() + float(seconds)
    while True:
        fault = ask(address)
        # Something else that has the port cannot answer for the unit.
        if fault is None and show(unit, "ActiveState") == "active":
            return
        if int(show(unit, "NRestarts")) > RESTARTS_MAX:
            sys.exit(
                f"the service ends by itself; {fault or 'something else answers in its place'}"
            )
        if time.monotonic() > deadline:
            sys.exit(f"the service is not ready after {seconds} s: {fault or 'it does not run'}")
        time.sleep(0.5)


if __name__ == "__main__":
    main(*sys.argv[1:])
