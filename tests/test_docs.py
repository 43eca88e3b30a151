"""The pages: every Python block prints what the page says it prints, every link leads somewhere,
every page is reached from README."""

import contextlib
import io
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "kernels" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
BLOCK = re.compile(r"```python\n((?:(?!```).)*)```\n+```text\n(.*?)```", re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)")
WITH_BLOCKS = [
    p for p in PAGES if BLOCK.search(p.read_text()) and p.name != "the-many-alexnets.md"
]  # that page has its own test


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("page", WITH_BLOCKS, ids=name)
def test_blocks_print_what_the_page_says(page):
    for code, shown in BLOCK.findall(page.read_text()):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(code, name(page), "exec"), {"__name__": "page"})
        assert out.getvalue().split() == shown.split()


def links(page: Path) -> list[Path]:
    text = re.sub(r"^(`{3,}).*?^\1$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return [(page.parent / link).resolve() for link in LINK.findall(text) if "://" not in link]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    assert not [str(target) for target in links(page) if not target.exists()]


def test_every_page_is_reached_from_readme():
    reached, ahead = set(), [ROOT / "README.md"]
    while ahead:
        page = ahead.pop()
        if page.is_dir():  # a link to a folder reaches the pages in it
            ahead += page.glob("*.md")
        elif page not in reached and page.suffix == ".md":
            reached.add(page)
            ahead += links(page)
    assert not [name(p) for p in PAGES if p not in reached]


def test_layer_files_are_all_named_in_the_reading_pages():
    text = "".join(p.read_text() for p in (ROOT / "docs").rglob("*.md"))
    helpers = {"__init__", "basic", "reduce", "shape", "geometry"}
    assert not [
        p.name
        for p in (ROOT / "minigrad" / "functions").glob("*.py")
        if p.stem not in helpers and p.name not in text
    ]


def test_readme_example():
    (code,) = re.findall(
        r"(    import numpy as np\n    import minigrad as mg\n.*?)\n\n- ",
        (ROOT / "README.md").read_text(),
        re.DOTALL,
    )
    lines = [line[4:].replace("randn(8,", "randn(1,") for line in code.splitlines()]
    names: dict = {}
    exec("\n".join(lines), names)
    assert names["y"].shape == (1, 27, 27, 96)
    assert names["w"].grad.shape == (11, 11, 3, 96)


def test_the_readme_shows_lines_as_they_stand():
    """LRN's array forms and its kernel, side by side on the first screen."""
    blocks = re.findall(r"```(?:python|c)\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    sources = [
        (ROOT / path).read_text() for path in ("minigrad/functions/lrn.py", "kernels/lrn.cu")
    ]
    shown = [block for block in blocks if "squares" in block or "window_sum" in block]
    assert len(shown) == 3
    for block in shown:
        assert any(block in source for source in sources), block
