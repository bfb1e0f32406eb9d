"""The Chinese pages keep up with the English ones: headings, commands, rows; and their words."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAIRS = {
    "README.md": "README.zh-CN.md",
    "docs/start.md": "docs/zh-CN/start.md",
    "docs/api.md": "docs/zh-CN/api.md",
    "docs/cli.md": "docs/zh-CN/cli.md",
}
HAN = "[\u4e00-\u9fff]"
both = pytest.mark.parametrize(("english", "chinese"), PAIRS.items(), ids=str)


def text_of(name: str) -> str:
    return (ROOT / name).read_text()


def prose_of(name: str) -> str:
    """The page without its code and the targets of its links."""
    text = re.sub(r"^```.*?^```", "", text_of(name), flags=re.M | re.S)
    return re.sub(r"\]\([^)]*\)", "]", re.sub(r"`[^`\n]*`", "`", text))


def words_of(name: str) -> Counter[str]:
    """The words in code beside the blocks, each with its number."""
    text = re.sub(r"^```.*?^```", "", text_of(name), flags=re.M | re.S)
    return Counter(" ".join(word.split()) for word in re.findall(r"`([^`]+)`", text))


def blocks_of(name: str) -> list[str]:
    """The blocks of code without comments."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text_of(name), re.M | re.S)
    return [re.sub(r"[ \t]*(?<![\w&])#\s.*", "", block) for block in blocks]


def headings_of(name: str) -> list[int]:
    """The levels of the headings, in order."""
    text = re.sub(r"^```.*?^```", "", text_of(name), flags=re.M | re.S)
    return [len(mark) for mark in re.findall(r"^(#+) ", text, re.M)]


def rows_of(name: str) -> list[list[str]]:
    """The code in the first cell of each row of a table: requests, commands, errors."""
    rows = re.findall(r"^\| (.*?) \|", text_of(name), re.M)
    return [code for row in rows if (code := re.findall(r"`([^`]+)`", row))]


@both
def test_the_sections_are_the_same(english: str, chinese: str) -> None:
    assert headings_of(chinese) == headings_of(english)


@both
def test_the_commands_are_the_same(english: str, chinese: str) -> None:
    assert blocks_of(english)
    assert blocks_of(chinese) == blocks_of(english)


@both
def test_the_rows_are_the_same(english: str, chinese: str) -> None:
    assert rows_of(chinese) == rows_of(english)


@both
def test_no_word_in_code_is_missing_or_invented(english: str, chinese: str) -> None:
    there, here = words_of(english), words_of(chinese)
    assert there
    # Chinese repeats a word where English has a pronoun.
    assert here.keys() - there.keys() == set()
    assert there - here == Counter()


@both
def test_each_leads_to_the_other(english: str, chinese: str) -> None:
    assert "English](" in text_of(chinese)
    page = text_of(english) if english == "README.md" else text_of("docs/README.md")
    assert f"({chinese.removeprefix('docs/')})" in page


@pytest.mark.parametrize("chinese", PAIRS.values())
def test_punctuation_beside_chinese_is_chinese(chinese: str) -> None:
    wrong = re.findall(
        rf".{{0,8}}{HAN}[,;:!?()].{{0,8}}|.{{0,8}}[,;:!?(]{HAN}.{{0,8}}", prose_of(chinese)
    )
    assert wrong == []


@pytest.mark.parametrize("chinese", PAIRS.values())
def test_a_job_has_one_word(chinese: str) -> None:
    assert "任务" not in text_of(chinese)
    assert "作业" in text_of(chinese)


def test_links_of_chinese_pages_stay_chinese_where_there_is_a_page() -> None:
    for chinese in PAIRS.values():
        for target in re.findall(r"\]\(([^)#]+\.md)", text_of(chinese)):
            path = ((ROOT / chinese).parent / target).resolve()
            translated = {(ROOT / english).resolve() for english in PAIRS} - {ROOT / "README.md"}
            is_switch = f"[English]({target})" in text_of(chinese)
            assert is_switch or path not in translated, f"{chinese}: {target}"
