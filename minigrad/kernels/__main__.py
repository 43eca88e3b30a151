"""`python -m minigrad.kernels trace KERNEL --at PLACE`: what the threads of a kernel do.

Example: python -m minigrad.kernels trace lrn_forward --at 0,6,4,173
"""

from __future__ import annotations

import argparse
import sys

from minigrad import terminal
from minigrad.kernels.examples import examples, sector_table
from minigrad.kernels.story import story
from minigrad.kernels.trace import TraceError


def main(arguments: list[str]) -> int:
    """Run the command and return the exit code: 0 for success, 2 for wrong arguments."""
    if arguments in (["--help"], ["-h"]):
        print(__doc__)
        return 0
    if arguments[:1] != ["trace"]:
        print(f"error: {__doc__}", file=sys.stderr)
        return 2
    known = examples()
    parser = argparse.ArgumentParser(
        prog="python -m minigrad.kernels trace",
        description="Shows what the threads of a kernel do for one element of its output, in a"
        " launch of one of AlexNet's layers for one picture. `trace sectors` prints a table of how"
        " much memory every kernel moves.",
        epilog="example: python -m minigrad.kernels trace lrn_forward --at 0,6,4,173",
    )
    parser.add_argument("kernel", choices=[*known, "sectors"], metavar="KERNEL")
    parser.add_argument("--at", default="0", help="index of the element, such as 0,6,4,173")
    given = parser.parse_args(arguments[1:])
    try:
        if given.kernel == "sectors":
            print(sector_table())
            return 0
        at = [int(word) for word in given.at.split(",")]
        print("\n".join(story(given.kernel, at, known[given.kernel])))
    except (ValueError, TraceError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(terminal.run(lambda: main(sys.argv[1:])))
