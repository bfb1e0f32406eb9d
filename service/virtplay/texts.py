"""Pure: checks which characters a text may contain."""

JOINERS = "\u200c\u200d"
"""Invisible characters that emoji and the words of some scripts contain."""


def is_printable(text: str, also: str = "") -> bool:
    """Return whether a text has no control or invisible characters except JOINERS and `also`."""
    return all(c.isprintable() or c in JOINERS or c in also for c in text)
