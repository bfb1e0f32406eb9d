"""Pure: checks which characters a text may contain, and how texts are compared."""

import re
import unicodedata
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Any

JOINERS = "\u200c\u200d"
"""Invisible characters that emoji and the words of some scripts contain."""
SLUG_LENGTH = 63


def is_printable(text: str, also: str = "") -> bool:
    """Return whether a text has no control or invisible characters except JOINERS and `also`."""
    return all(c.isprintable() or c in JOINERS or c in also for c in text)


def fold(text: str) -> str:
    """Return a text as searches compare it: case, width and the way of its accents do not matter.

    This is Unicode's NFKC_Casefold, with the Turkish capital I with a dot as a plain i.
    """
    for _round in range(2):  # folding can give what is not normal, and normalizing capital letters
        text = unicodedata.normalize("NFKC", text).casefold()
    return unicodedata.normalize("NFKC", text).replace("i\u0307", "i")


def storable(value: Any) -> Any:
    """Return a JSON value without NUL and lone surrogates, which databases refuse."""
    if isinstance(value, str):
        return value.replace("\x00", "\ufffd").encode(errors="replace").decode()
    if isinstance(value, Mapping):
        return {storable(key): storable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [storable(item) for item in value]
    return value


def did_you_mean(
    given: str, known: Collection[str], synonyms: Collection[Collection[str]] = ()
) -> str:
    """Return "; did you mean X?" for the known word that `given` resembles, or nothing.

    Each of the synonyms is a group of words for one thing, of which a known one is preferred.
    """
    close = [word for words in synonyms if given in words for word in words if word in known]
    close = close or get_close_matches(given, known, 1, 0.6)
    return f"; did you mean {close[0]}?" if close else ""


def slug(text: str) -> str:
    """Return a text as a-z, 0-9 and inner hyphens, up to SLUG_LENGTH; empty if nothing is left.

    The rule is the collection's for host names (domain/seed.py), and a test compares both: a guest
    and its domain have one name.
    """
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:SLUG_LENGTH].strip("-")


def numbered(name: str, number: int) -> str:
    """Return a slug with a number behind it, within SLUG_LENGTH; 1 leaves it as it is."""
    ending = f"-{number}" if number > 1 else ""
    return name[: SLUG_LENGTH - len(ending)].rstrip("-") + ending
