"""The language of code, comments, messages and pages: turns that are not plain English, and names
that say nothing, do not come back."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TURNS = [
    "numbers that are none", "better told now", "that a run bears", "so to say", "as it were",
    "in vain", "in order to", "utilize", "utilise", "leverage", "obviously", "of course",
    "let us", "delve", "robust", "seamless", "cutting-edge", "state-of-the-art", "blazing",
    "noteworthy", "it is worth", "and/or", "in terms of", "make use of", "due to the fact",
    "powerful", "easy to use", "simply", "basically", "actually", "whatsoever", "hereby",
    "thereof", "the latter", "the former", "respectively", "needless to say", "under the hood",
    "out of the box", "best-in-class", "no-op",
]  # fmt: skip
NAMES = ("take_up", "take_over", "careful", "say", "noted", "here", "kept", "into", "whole")
TEXTS = [
    path
    for pattern in (
        "*.md", "*.py", "docs/**/*.md", "kernels/*", "minigrad/**/*.py", "minigrad/**/*.js",
        "minigrad/**/*.html", "examples/*.py", "benchmarks/*", "tests/*.py",
    )
    for path in sorted(ROOT.glob(pattern))
    if path.is_file() and path.name != "test_language.py" and path.suffix != ".so"
]  # fmt: skip


def test_every_text_is_read():
    names = {str(path.relative_to(ROOT)) for path in TEXTS}
    assert {"README.md", "docs/reading.md", "kernels/lrn.cu", "minigrad/page/views.js"} <= names
    assert len(names) > 150


@pytest.mark.parametrize("turn", TURNS)
def test_no_text_has_a_banned_turn(turn):
    found = re.compile(rf"(?<![\w-]){re.escape(turn)}(?![\w-])", re.IGNORECASE)
    hits = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in TEXTS
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if found.search(line)
    ]
    assert hits == []


@pytest.mark.parametrize("name", NAMES)
def test_no_function_has_a_name_that_says_nothing(name):
    hits = [
        str(path.relative_to(ROOT))
        for path in TEXTS
        if path.suffix == ".py" and re.search(rf"\bdef {name}\(", path.read_text())
    ]
    assert hits == []
