"""Command line: sizes such as 512M and 20G. Pure."""

import re
from fractions import Fraction

import typer

from virtplay.units import GIB, MIB

SIZE = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?) ?(?:([KMGT])(?:iB)?)?", re.IGNORECASE)
FACTORS = {"K": 1024, "M": MIB, "G": GIB, "T": 1024 * GIB}


def parse_mib(text: str) -> int:
    """Return an amount of memory in MiB: 2G and 2GiB are 2048, a number counts as MiB.

    typer.BadParameter unless it is a whole number of MiB.
    """
    return _parse(str(text), MIB, "MiB", "512M or 2G")


def parse_gib(text: str) -> int:
    """Return the size of a disk in GiB: 20G and 20GiB are 20, and so is the number.

    typer.BadParameter unless it is a whole number of GiB.
    """
    return _parse(str(text), GIB, "GiB", "20G or 1T")


def write_size(number: int, letter: str) -> str:
    """Return a size, of which `number` is in M or G, as an option takes it: 2048 M is 2G."""
    letters = "MGT"["MGT".index(letter) :]
    while number and number % 1024 == 0 and len(letters) > 1:
        number, letters = number // 1024, letters[1:]
    return f"{number}{letters[0]}"


def _parse(text: str, unit: int, name: str, example: str) -> int:
    found = SIZE.fullmatch(text.strip())
    if not found:
        raise typer.BadParameter(f"{text!r} is not a size such as {example}, or a number of {name}")
    number, letter = found.groups()
    size = Fraction(number) * (FACTORS[letter.upper()] if letter else unit)
    if size % unit:
        raise typer.BadParameter(f"{text!r} is not a whole number of {name}")
    return int(size // unit)
