"""Text from outside made fit to be shown: names of files, classes and members of archives hold
whatever bytes somebody gave them."""

from __future__ import annotations

import unicodedata


def shown(text: str, laid_out: str = "") -> str:
    """The text as it can be printed, drawn and written anywhere: what is not UTF-8 is escaped, such
    as \\xff, and so is what controls a terminal, breaks a line or changes its direction, such as
    \\x1b. Characters in `laid_out` stay as they are."""
    readable = text.encode(errors="surrogateescape").decode(errors="backslashreplace")
    if readable.isprintable():
        return readable
    return "".join(
        c if c == " " or c in laid_out or unicodedata.category(c)[0] not in "CZ"
        else c.encode("unicode_escape").decode()
        for c in readable
    )  # fmt: skip
