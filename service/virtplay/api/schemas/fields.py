"""Schemas: fields that several resources share, and empty bodies and queries."""

import re
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from virtplay.texts import is_printable

LABEL_KEY = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?")


def check_printable(text: str, also: str = "") -> str:
    """Refuse control and invisible characters except emoji joiners and those in `also`."""
    bad = [c for c in text if not is_printable(c, also)]
    if bad:
        names = ", ".join(sorted({f"U+{ord(c):04X}" for c in bad}))
        raise ValueError(f"contains characters that are not printable: {names}")
    return text


def check_lines(text: str) -> str:
    """Refuse what check_printable refuses, except line feeds and tabs, and blank text."""
    if text and not text.strip():
        raise ValueError("must be empty or not blank")
    return check_printable(text, also="\n\t")


def check_not_blank(text: str) -> str:
    """Refuse text that is blank, or begins or ends with white space."""
    if text != text.strip() or not text:
        raise ValueError("must not be empty or begin or end with a space")
    if text in {".", ".."}:
        raise ValueError("must not be . or .., which no URL can name")
    return text


Name = Annotated[
    str,
    Field(min_length=1, max_length=64, examples=["my-vm"]),
    AfterValidator(check_printable),
    AfterValidator(check_not_blank),
]

Description = Annotated[
    str, Field(max_length=1024, description="text of any lines"), AfterValidator(check_lines)
]
Cpu = Annotated[int, Field(ge=1, le=512, description="vCPUs", examples=[2])]
Memory = Annotated[int, Field(ge=32, le=16_777_216, description="MiB", examples=[2048])]
Disk = Annotated[int, Field(ge=1, le=65_536, description="GiB", examples=[20])]
Labels = Annotated[
    dict[str, Annotated[str, Field(max_length=255), AfterValidator(check_printable)]],
    Field(max_length=64, description="text by key", examples=[{"team": "web"}]),
]


class Strict(BaseModel):
    """A request body, with exact types and without unknown fields."""

    model_config = ConfigDict(strict=True, extra="forbid")


class Query(BaseModel):
    """A query string: values are converted, unknown parameters are refused."""

    model_config = ConfigDict(extra="forbid")


def check_labels(labels: dict[str, str]) -> dict[str, str]:
    """Refuse label keys with other characters than letters, digits and ._/-."""
    wrong = [repr(key) for key in labels if not LABEL_KEY.fullmatch(key)]
    if wrong:
        raise ValueError(
            f"key {', '.join(wrong)} must be 1 to 63 letters, digits, '.', '_', '/', '-',"
            " with a letter or digit at both ends"
        )
    return labels


class EmptyBody(Strict):
    """An empty body, or {}."""


class NoQuery(Query):
    """A query without parameters."""


class PageQuery(Query):
    """The query of a list with pages."""

    page: int = Field(1, ge=1, le=1_000_000)
    limit: int = Field(10, ge=1, le=100)


class Pagination(BaseModel):
    """The position of a page in a list."""

    page: int
    limit: int
    total: int
    pages: int

    @classmethod
    def of(cls, page: int, limit: int, total: int) -> Self:
        """Return the pagination of a list of `total` entries."""
        return cls(page=page, limit=limit, total=total, pages=-(-total // limit))
