"""Command line: `python -m virtplay.cli`."""

from virtplay.cli import main

main()
