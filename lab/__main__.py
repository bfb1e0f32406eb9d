"""Lab: its command line, `python -m lab up` and `python -m lab down`."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from lab.directory import DirectoryError, LabDirectory
from lab.lab import start_supervisor
from lab.prepare import PrepareError
from lab.releases import ENVIRONMENT, RELEASES, ReleaseError
from lab.slot import MAX_HOSTS, SLOTS, Slot, SlotError
from lab.supervisor import StartError, Supervisor, clear_leftovers

_REFUSALS = (
    DirectoryError,
    PrepareError,
    ReleaseError,
    SlotError,
    StartError,
    TimeoutError,
    OSError,
)
_DOWN_SECONDS = 40


def main() -> int:
    """Parse the command line and run the command; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m lab", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start a lab and keep it until Ctrl-C or SIGTERM")
    up.add_argument("--hosts", type=int, help="number of hosts (default 2, or one a release)")
    up.add_argument(
        "--release",
        type=_releases,
        default=os.environ.get(ENVIRONMENT, ""),
        metavar="RELEASE[,RELEASE…]",
        help=f"Debian release of the hosts' file system ({', '.join(RELEASES)}); hosts take "
        f"several in turn (default: ${ENVIRONMENT}, or the file system of this machine)",
    )
    up.add_argument("--dir", type=Path, help="directory of the lab (default: a new one)")
    up.add_argument("--bare", action="store_true", help="skip the playbooks that prepare hosts")
    up.add_argument(
        "--without-libvirt",
        action="store_true",
        help="like --bare; libvirt stays unconfigured, as the role libvirt_host finds it",
    )
    way = up.add_mutually_exclusive_group()
    way.add_argument("--detach", action="store_true", help="return when the lab is ready; see down")
    way.add_argument(
        "--until-eof",
        action="store_true",
        help="for programs: print one JSON line when the lab is ready, stop it at the end of "
        "standard input",
    )
    down = commands.add_parser("down", help="stop a lab, or clean up after a killed one")
    down.add_argument("--dir", type=Path, help="directory of the lab (default: the only lab's)")
    given = parser.parse_args()
    if given.command == "up":
        if given.hosts is None:
            given.hosts = max(2, len(given.release))
        if not 1 <= given.hosts <= MAX_HOSTS:
            parser.error(f"--hosts must be 1 to {MAX_HOSTS}")
    try:
        return _up(given) if given.command == "up" else _down(given.dir)
    except _REFUSALS as error:
        print(error, file=sys.stderr)
        return 1


def _releases(text: str) -> list[str]:
    found = text.split(",") if text else []
    if strange := [name for name in found if name not in RELEASES]:
        raise argparse.ArgumentTypeError(f"{', '.join(strange)} is none of {', '.join(RELEASES)}")
    return found


def _up(given: argparse.Namespace) -> int:
    if given.detach:
        return _up_detached(sys.argv[2:])
    prepare = not (given.bare or given.without_libvirt)
    supervisor = Supervisor(
        given.dir,
        given.hosts,
        prepare=prepare,
        libvirt=not given.without_libvirt,
        releases=given.release,
    )
    if given.until_eof:
        supervisor.run(_say_json, _wait_for_eof)
    else:
        print(f"starting {given.hosts} hosts …", file=sys.stderr, flush=True)
        supervisor.run(_say_lines(_END_BY_KEY), _wait_for_signal)
        print("the lab is stopped", file=sys.stderr)
    return 0


_END_BY_KEY = "Ctrl-C stops the lab."


def _wait_for_signal() -> None:
    while True:
        signal.pause()


def _wait_for_eof() -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass


def _say_json(supervisor: Supervisor) -> None:
    assert supervisor.directory is not None
    ready = {"directory": str(supervisor.directory.path), "seconds": supervisor.seconds}
    print(json.dumps(ready), flush=True)


def _say_lines(end: str) -> Callable[[Supervisor], None]:
    def say(supervisor: Supervisor) -> None:
        lab = supervisor.directory
        assert lab is not None
        took = ", ".join(f"{what} {seconds:.1f} s" for what, seconds in supervisor.seconds.items())
        first = supervisor.hosts[0].name
        print(f"{len(supervisor.hosts)} hosts are ready ({took})")
        for host in supervisor.hosts:
            print(f"  {host.name}  {host.address}  {host.release or ''}".rstrip())
        print(f"inventory: {lab.inventory}")
        print(f"  ansible -i {lab.inventory} hypervisors -m ping")
        print(f"  {lab.ssh} {first}")
        print(f"  virsh -c 'qemu+ssh://root@{first}/system?command={lab.ssh}' list --all")
        print(end, flush=True)

    return say


def _up_detached(arguments: list[str]) -> int:
    """Start the supervisor in a session of its own and return when its lab is ready."""
    rest = [argument for argument in arguments if argument != "--detach"]
    # Only the supervisor holds the other end of its standard input open, so it ends by signal
    # only. Its standard error is a file: otherwise, a reader of our output would wait for its end.
    reading, writing = os.pipe()
    said = tempfile.TemporaryFile("w+")  # noqa: SIM115 - the supervisor continues to write to it
    process = start_supervisor(rest, reading, said, pass_fds=[writing])
    os.close(reading)
    os.close(writing)
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        code = process.wait()
        said.seek(0)
        print(said.read().strip(), file=sys.stderr)
        return code
    lab = LabDirectory(Path(json.loads(line)["directory"]))
    print(f"inventory: {lab.inventory}")
    print(f"stop the lab with: python -m lab down --dir {lab.path}")
    return 0


def _down(path: Path | None) -> int:
    if path is None:
        running = [lab for number in range(SLOTS) if (lab := Slot(number).claimed_directory())]
        if len(running) != 1:
            found = "".join(f"\n  {lab}" for lab in running)
            print(
                f"cannot choose a lab: {len(running)} exist; name one with --dir{found}",
                file=sys.stderr,
            )
            return 1
        path = running[0]
    record = LabDirectory(path.resolve()).read_record()
    if record is None:
        print(f"cannot stop a lab: {path} contains none", file=sys.stderr)
        return 1
    if not record.supervisor.send(signal.SIGTERM):
        clear_leftovers(path)
        return 0
    if not record.supervisor.wait(_DOWN_SECONDS):
        print(
            f"cannot stop the lab in {path}: process {record.supervisor.pid} did not end within "
            f"{_DOWN_SECONDS} s",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
