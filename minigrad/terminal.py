"""What the commands print to. A terminal that is closed, a pipe that nobody reads or a full disk
below a log ends no training."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable
from typing import Any

from minigrad.text import shown

LAID_OUT = "\n\r\t"  # control characters that lay out our own lines and progress bars


def open_descriptors() -> None:
    """Open those of the descriptors 0, 1 and 2 that are closed, on the null device. Otherwise the
    next file that is opened would get one of them, and with it what is printed."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


class Terminal(io.TextIOBase):
    """A stream over a descriptor, without a buffer, that escapes control characters in what it is
    given. With `lasting`, text that cannot be written is dropped in silence."""

    def __init__(self, descriptor: int, lasting: bool, encoding: str = "utf-8") -> None:
        self.descriptor, self.lasting, self._encoding = descriptor, lasting, encoding

    encoding = property(lambda self: self._encoding)

    def write(self, text: str) -> int:
        literal = shown(text, LAID_OUT)
        rest = memoryview(literal.encode(self._encoding, errors="backslashreplace"))
        try:
            while rest:
                rest = rest[os.write(self.descriptor, rest) :]
        except OSError:
            if not self.lasting:
                raise
        return len(text)

    def fileno(self) -> int:
        return self.descriptor

    def isatty(self) -> bool:
        return os.isatty(self.descriptor)

    def writable(self) -> bool:
        return True


def use(lasting: bool) -> None:
    """Print through a Terminal from here on, unless a test or a notebook has put a stream of its
    own in the place of standard output or error."""
    open_descriptors()
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream: Any = getattr(sys, name)
        if stream is None or isinstance(stream, Terminal) or stream is getattr(sys, f"__{name}__"):
            with contextlib.suppress(OSError, ValueError):
                if stream is not None:
                    stream.flush()
            encoding = getattr(stream, "encoding", None) or "utf-8"
            setattr(sys, name, Terminal(descriptor, lasting, encoding))


def run(main: Callable[[], int]) -> int:
    """The exit code of a program: that of `main`; 0 if the reader of what it prints leaves before
    the end; 2, after a sentence, if something cannot be printed."""
    use(lasting=False)
    try:
        return main()
    except BrokenPipeError:
        use(lasting=True)
        return 0
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
