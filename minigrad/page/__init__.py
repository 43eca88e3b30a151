"""One HTML file that shows a network from the inside: every number of its arithmetic for one
picture, without a server or a connection."""

from minigrad.page.excerpts import excerpt, kind_of
from minigrad.page.html import SCRIPTS_SIZE, Section, as_jpeg, as_png, page
from minigrad.page.numbers import BUDGET, decoded, encoded, network_numbers, size

__all__ = [
    "BUDGET",
    "SCRIPTS_SIZE",
    "Section",
    "as_jpeg",
    "as_png",
    "decoded",
    "encoded",
    "excerpt",
    "kind_of",
    "network_numbers",
    "page",
    "size",
]
