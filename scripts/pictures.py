"""Draw docs/pictures/terminal.svg: real commands on a service with two hypervisors of the lab.

`python -m scripts.pictures`, as root, writes it; nothing in it is made up.
"""

import io
import os
import re
import secrets
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

from lab.lab import Lab
from scripts.demo import start_service, stop_service, wait_ready

PICTURE = Path(__file__).parents[1] / "docs/pictures/terminal.svg"
PORT = os.environ.get("VIRTPLAY_PORT", "3171")
WIDTH = 104
COMMANDS = (
    "virtplay vm create web --template micro --cpu 1 --memory 256M --disk 1G --label team=shop"
    " --start --wait",
    "virtplay vm update web --memory 384M",
    "virtplay snapshot create web before-upgrade --expires-days 7",
    "virtplay vm list",
    "virtplay job list --vm web",
)
BEFORE = ("virtplay vm create db --template micro --cpu 1 --memory 256M --disk 1G --start --wait",)
"""So that the list has another VM; not shown."""


def main() -> None:
    """Run the commands and write the picture."""
    token = secrets.token_urlsafe(32)
    with tempfile.TemporaryDirectory(prefix="virtplay-pictures-") as state, Lab(hosts=2) as lab:
        service = start_service(lab.inventory, Path(state), token, PORT)
        try:
            wait_ready(service, PORT)
            environment = {
                **os.environ,
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                "VIRTPLAY_URL": f"http://localhost:{PORT}",
                "VIRTPLAY_TOKEN": token,
                "COLUMNS": str(WIDTH),
            }
            for command in BEFORE:
                run(command, environment)
            shown = [(command, run(command, environment)) for command in COMMANDS]
        finally:
            stop_service(service)
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text(draw(shown))


def run(command: str, environment: dict[str, str]) -> str:
    """Return what a command prints on both outputs."""
    done = subprocess.run(
        command.split(),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{command}: status {done.returncode}\n{done.stdout}")
    return done.stdout


def draw(shown: list[tuple[str, str]]) -> str:
    """Return a terminal with commands and their output as SVG."""
    console = Console(record=True, width=WIDTH, file=io.StringIO())
    for command, output in shown:
        console.print(Text.assemble(("$ ", "bold green"), (command, "bold")))
        console.print(Text(output))
    picture = console.export_svg(title="virtplay", unique_id="terminal")
    # Rich names fonts of a server; the reader's own monospace font does.
    return re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.S)


if __name__ == "__main__":
    main()
