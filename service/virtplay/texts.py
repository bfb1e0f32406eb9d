"""Pure: which characters of a text may be shown."""

JOINERS = "\u200c\u200d"
"""They are invisible, but stand inside emoji and the words of some scripts."""


def is_printable(text: str, also: str = "") -> bool:
    """Whether a text holds no control characters and no invisible marks but those of `also`."""
    return all(c.isprintable() or c in JOINERS or c in also for c in text)
