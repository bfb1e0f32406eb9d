"""Machine: the systemd unit that `virtplay up --systemd` writes."""

import os
import pwd
import re
import shlex
import subprocess
import sys
from pathlib import Path

from virtplay.errors import CannotStart
from virtplay.files import PROJECT
from virtplay.machine.root import as_root
from virtplay.settings import Settings

NAME = "virtplay.service"
FILE = Path("/etc/systemd/system") / NAME
MARK = "# Written by `virtplay up --systemd`; `virtplay uninstall` removes it.\n"
ENVIRONMENT = "virtplay.env"
"""The file in the state directory with the settings of the unit."""
CLIENT_ONLY = ("VIRTPLAY_URL", "VIRTPLAY_TOKEN")
"""Variables of the command line that the service has no use for."""
READY_SECONDS = 180
STOP_SECONDS = 30
"""What the service needs to stop after the grace period of its jobs."""


def is_ours() -> bool:
    """Whether there is a unit that this file wrote."""
    return _read().startswith(MARK)


def state_dir() -> Path | None:
    """Return the state directory of our unit; None without one."""
    directory = _find(rf"EnvironmentFile=(.+)/{re.escape(ENVIRONMENT)}")
    return Path(directory) if directory else None


def user() -> str:
    """Return the user of our unit."""
    return _find("User=(.+)")


def database_url() -> str:
    """Return VIRTPLAY_DATABASE_URL of our unit; "" without one, or if its settings are hidden."""
    try:
        text = ((state_dir() or Path()) / ENVIRONMENT).read_text()
    except OSError:
        return ""
    found = re.search(r'^VIRTPLAY_DATABASE_URL="(.*)"$', text, re.M)
    return re.sub(r"\\(.)", r"\1", found[1]) if found else ""


def script(words: str) -> str:
    """Return what a shell has to run for a command with the settings and program of our unit."""
    environment = shlex.quote(f"{state_dir()}/{ENVIRONMENT}")
    python = shlex.quote(_find(r'ExecStart="(.+)" -m virtplay\.cli serve'))
    # The directory of the person may be hidden from the user, or have a package of this name.
    return f"cd /; set -a; . {environment}; {python} -m virtplay.cli {words}"


def refuse_foreign_unit() -> None:
    """Raise CannotStart without systemd, or if another program wrote the unit."""
    if not Path("/run/systemd/system").exists():
        raise CannotStart("cannot use systemd: it is not running on this machine")
    if FILE.exists() and not is_ours():
        raise CannotStart(
            f"cannot write {FILE}: the role virtplay_service or another program wrote it; this"
            " machine has a service already"
        )


def is_active() -> bool:
    """Whether the service of our unit is running."""
    try:
        return is_ours() and _run(["systemctl", "is-active", "--quiet", NAME]) == 0
    except FileNotFoundError:
        return False


def start_unit(settings: Settings) -> None:
    """Write the unit with the present settings, start it anew, and wait until it is ready.

    CannotStart if that fails.
    """
    environment = settings.state_dir / ENVIRONMENT
    environment.unlink(missing_ok=True)
    environment.touch(mode=0o600)
    environment.write_text(describe_environment(settings))
    _write_as_root(FILE, describe_unit(settings, environment))
    _systemctl("daemon-reload")
    _systemctl("enable", "--quiet", NAME)
    _systemctl("restart", NAME)
    program = PROJECT / "roles/virtplay_service/files/wait_ready.py"
    words = [sys.executable, str(program), settings.local_url, str(READY_SECONDS), NAME]
    if _run(words) != 0:
        raise CannotStart(f"cannot start the service: see journalctl -u {NAME}")


def remove_unit() -> None:
    """Stop the service and remove its unit."""
    _systemctl("disable", "--quiet", "--now", NAME)
    if _run(as_root("rm", str(FILE))) != 0:
        raise CannotStart(f"cannot remove {FILE} (see above)")
    _systemctl("daemon-reload")


def describe_unit(settings: Settings, environment: Path) -> str:
    """Return the unit file; it runs the service as the present user."""
    user = pwd.getpwuid(os.geteuid()).pw_name
    return f"""{MARK}[Unit]
Description=Virtplay, a REST API for KVM hypervisors
Wants=network-online.target
After=network-online.target libvirtd.service

[Service]
Type=exec
User={user}
EnvironmentFile={environment}
ExecStart="{sys.executable}" -m virtplay.cli serve
ExecReload=/bin/kill -HUP $MAINPID
# The service stops its own jobs. Processes that are left when it exits are killed.
KillMode=mixed
TimeoutStopSec={settings.shutdown_grace + STOP_SECONDS:.0f}
Restart=on-failure
RestartSec=2
# A playbook run that uses too much memory becomes a failed job and does not stop the service.
OOMPolicy=continue
UMask=0077
LimitNOFILE=65536

[Install]
WantedBy=multi-user.target
"""


def describe_environment(settings: Settings) -> str:
    """Return the settings of this process as an environment file of systemd.

    Not those of its client; and the service has another working directory.
    """
    values = {name: value for name, value in os.environ.items() if name.startswith("VIRTPLAY_")}
    for name in CLIENT_ONLY:
        values.pop(name, None)
    for path in ("project_dir", "tls_certificate", "tls_key"):
        if values.get(name := f"VIRTPLAY_{path.upper()}"):
            values[name] = str(getattr(settings, path).absolute())
    values |= {
        "VIRTPLAY_HOST": settings.host,
        "VIRTPLAY_PORT": str(settings.port),
        "VIRTPLAY_INVENTORY": ",".join(settings.inventory_sources),
        "VIRTPLAY_STATE_DIR": str(settings.state_dir),
    }
    for name in ("ANSIBLE_BECOME", "PYTHONDONTWRITEBYTECODE"):
        if name in os.environ:
            values[name] = os.environ[name]
    lines = []
    for name, value in sorted(values.items()):
        quoted = re.sub(r'([\\"$`])', r"\\\1", value)
        lines.append(f'{name}="{quoted}"\n')
    return "".join(lines)


def _write_as_root(path: Path, text: str) -> None:
    # Every user may read it, whatever the umask is.
    command = as_root("install", "-m", "644", "/dev/stdin", str(path))
    if subprocess.run(command, input=text, text=True, check=False).returncode != 0:
        raise CannotStart(f"cannot write {path} (see above)")


def _find(line: str) -> str:
    """Return the group of a pattern of a line of our unit; "" without one."""
    found = re.search(f"^{line}$", _read(), re.M)
    return found[1] if found and is_ours() else ""


def _read() -> str:
    """Return the text of the unit file, "" without one."""
    try:
        return FILE.read_text()
    except FileNotFoundError:
        return ""
    except PermissionError:
        command = as_root("cat", str(FILE))
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def _systemctl(*words: str) -> None:
    if _run(as_root("systemctl", *words)) != 0:
        raise CannotStart(f"cannot run systemctl {' '.join(words)} (see above)")


def _run(command: list[str]) -> int:
    return subprocess.run(command, check=False).returncode
