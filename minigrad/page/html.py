"""Build a page from its parts: text and numbers in one HTML file that fetches nothing.

The data of the page are JSON in a block that is not executed, with `<` escaped so that no name can
end the block. The script puts text into the page only as text, never as HTML. The security policy
allows the two inline blocks by their checksums and pictures in the file itself, and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from importlib import resources
from typing import Any

import numpy as np
from PIL import Image

Section = dict[str, Any]
SCRIPTS = ("numbers.js", "draw.js", "views.js", "page.js")
SCRIPTS_SIZE = 100_000  # the most bytes that a page has in addition to its data


def page(data: Section) -> str:
    """The text of the HTML file. data: what the scripts read, with the page's `title`."""
    folder = resources.files("minigrad.page")
    style = folder.joinpath("page.css").read_text("utf-8")
    script = "\n".join(folder.joinpath(name).read_text("utf-8") for name in SCRIPTS)
    numbers = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    text = folder.joinpath("page.html").read_text("utf-8")
    policy = (
        f"default-src 'none'; img-src data:; script-src '{checksum(script)}'; style-src"
        f" '{checksum(style)}'; base-uri 'none'; form-action 'none'"
    )
    values = {
        "notice": escaped(data["notice"]),
        "title": escaped(data["title"]),
        "policy": policy,
        "style": style,
        "script": script,
        "data": numbers,
    }
    return re.sub(r"@(\w+)@", lambda place: values[place[1]], text)


def checksum(text: str) -> str:
    """The checksum by which a Content-Security-Policy allows an inline block."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def escaped(text: str) -> str:
    """Text escaped for use between tags or in an HTML comment."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("--", "- -")


def as_png(picture: np.ndarray) -> str:
    """A picture (H, W, 3) uint8 as a lossless data URI."""
    return as_uri(picture, "PNG", optimize=True)


def as_jpeg(picture: np.ndarray, quality: int = 88) -> str:
    """A picture (H, W, 3) uint8 as a data URI, smaller than as PNG."""
    return as_uri(picture, "JPEG", quality=quality)


def as_uri(picture: np.ndarray, kind: str, **options: Any) -> str:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
