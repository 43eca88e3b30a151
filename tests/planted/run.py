"""Do the tests find a fault? Plants single faults in a copy of the project and runs the tests that
must fail.

    python tests/planted/run.py                      # all of them, about ten seconds each
    python tests/planted/run.py --room data          # those of one file, tests/planted/data.toml
    python tests/planted/run.py --only "colour noise"
    python tests/planted/run.py --draw 20 --seed "$(git rev-parse "HEAD^{tree}")"

A fault is one table of a TOML file: what is wrong, the file, the text that stands there once, the
text in its place, and the tests that must fail.

    [[fault]]
    what = "the window of LRN's gradient is not mirrored"
    file = "minigrad/functions/lrn.py"
    before = "cross = window_sum(scaled * x_ / s, self.after, self.before)"
    after = "cross = window_sum(scaled * x_ / s, self.before, self.after)"
    tests = ["tests/layers/test_lrn.py"]
    survives = "only if known: the reason why no test can find it"

The exit code is 1 if a fault passed its tests, or if one with `survives` was found after all.
"""

from __future__ import annotations

import argparse
import os
import queue
import random
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
LEFT_OUT = (".git", ".venv", "__pycache__", ".*_cache", "*.egg-info", "runs", "build")
LIMIT = 600  # seconds; a test that hangs has found the fault, too
TESTS_FAILED = 1  # pytest's exit code; after a crash, which finds a fault too, it is negative


@dataclass(frozen=True)
class Fault:
    room: str
    what: str
    file: str
    before: str
    after: str
    tests: tuple[str, ...]
    survives: str = ""

    def misfit(self) -> str:
        """Why it cannot be planted, "" if it can."""
        path = ROOT / self.file
        if not path.is_file():
            return f"there is no file {self.file}"
        count = path.read_text().count(self.before)
        if count != 1:
            return f"{self.file} has its text {count} times, not once: {self.before!r}"
        missing = [t for t in self.tests if not (ROOT / t.partition("::")[0]).exists()]
        return f"there is no {missing[0]}" if missing else ""


def faults() -> list[Fault]:
    return [
        Fault(path.stem, **table | {"tests": tuple(table["tests"])})
        for path in sorted(HERE.glob("*.toml"))
        for table in tomllib.loads(path.read_text())["fault"]
    ]


def run(folder: Path, *arguments: str) -> int:
    environment = os.environ | {"PYTHONPATH": str(folder), "CXXFLAGS": "-O1 -DNO_CLONES"}
    environment.pop("MINIGRAD_KERNELS", None)
    try:
        return subprocess.run(
            [sys.executable, *arguments], cwd=folder, env=environment, timeout=LIMIT,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        ).returncode  # fmt: skip
    except subprocess.TimeoutExpired:
        return TESTS_FAILED


def is_found(fault: Fault, folder: Path) -> bool:
    """Whether the fault, planted in the copy in `folder`, makes one of its tests fail."""
    path = folder / fault.file
    text = path.read_text()
    libraries = {p: p.read_bytes() for p in (folder / "minigrad").glob("_host_*")}
    try:
        path.write_text(text.replace(fault.before, fault.after))
        if fault.file.startswith("kernels/") and run(folder, "-m", "minigrad", "build"):
            return True  # it does not compile
        quick = ("-q", "-x", "-p", "no:cacheprovider")
        code = run(folder, "-m", "pytest", *quick, *fault.tests)
        if code in (4, 5):
            raise SystemExit(
                f"{fault.what}: pytest ran no test of {fault.tests} (exit code {code})"
            )
        return code != 0
    finally:
        path.write_text(text)
        for library, content in libraries.items():
            library.write_bytes(content)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--room", help="only the faults of this file")
    parser.add_argument("--only", metavar="WORDS", help="only those whose text has these words")
    parser.add_argument("--draw", type=int, metavar="N", help="only N of them, drawn by --seed")
    parser.add_argument("--seed", default="0", help="any text")
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time")
    given = parser.parse_args()
    chosen = [
        fault for fault in faults()
        if given.room in (None, fault.room) and (given.only or "") in fault.what
    ]  # fmt: skip
    if given.draw is not None:
        chosen = random.Random(given.seed).sample(chosen, min(given.draw, len(chosen)))
    misfits = [f"{fault.what}: {why}" for fault in chosen if (why := fault.misfit())]
    if misfits or not chosen:
        print("\n".join(misfits) or "error: no fault is chosen", file=sys.stderr)
        return 2
    found: Counter[str] = Counter()
    wrong = 0
    with tempfile.TemporaryDirectory() as place, ThreadPoolExecutor(given.jobs) as pool:
        copies: queue.Queue[Path] = queue.Queue()
        for n in range(given.jobs):
            copy = Path(place, str(n))
            shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*LEFT_OUT))
            copies.put(copy)

        def judge(fault: Fault) -> tuple[Fault, bool, float]:
            copy, began = copies.get(), time.monotonic()
            try:
                return fault, is_found(fault, copy), time.monotonic() - began
            finally:
                copies.put(copy)

        for fault, caught, seconds in pool.map(judge, chosen):
            found[fault.room] += caught
            wrong += caught == bool(fault.survives)
            said = "found" if caught else "passed, known" if fault.survives else "PASSED"
            print(f"{said:14}{seconds:6.1f} s  {fault.room}: {fault.what}", flush=True)
    for room, total in sorted(Counter(fault.room for fault in chosen).items()):
        print(f"{room:14}{found[room]} of {total} found")
    print(f"{'together':14}{found.total()} of {len(chosen)} found")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
