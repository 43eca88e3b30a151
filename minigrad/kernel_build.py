"""Compiles the kernels for the CPU: every file of kernels/ in one program, once for float and once
for double.

`python -m minigrad build` does this in place. setup.py does it at installation, with this file
alone, so the file imports nothing from minigrad. Beside each library is a small file with two
checksums, one of the sources and one of the library. A library that is older than its sources, or
damaged, is not loaded.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sysconfig
import tempfile
from pathlib import Path

REALS = ("float", "double")
SIGNATURE = re.compile(r'extern "C" __global__ void\s+(\w+)\((.*?)\) \{', re.DOTALL)
FLAGS = [
    "-O3",
    "-std=c++17",
    "-DNDEBUG",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fno-wrapv",
    "-fPIC",
    "-shared",
    "-pthread",
]
# Do not turn loops over one pixel's channels into memcpy: the call would cost more than the copy.
FLAGS.append("-fno-tree-loop-distribute-patterns")
if platform.machine() in ("x86_64", "AMD64"):
    FLAGS.append("-mprefer-vector-width=512")


class BuildError(RuntimeError):
    """The kernels could not be compiled; the message contains what the compiler said."""


def library_path(folder: Path, real: str) -> Path:
    """The path of the library for `real` in a folder."""
    return folder / f"_host_{real}{sysconfig.get_config_var('EXT_SUFFIX') or '.so'}"


def host_source(sources: Path, ends: str = ".cu .cpp", launcher: str = "HOST_KERNEL") -> str:
    """The text of the program to compile: the kernel files with these endings, the thread pool, and
    for each kernel the macro that defines its launcher."""
    files = [path for path in sorted(sources.iterdir()) if path.suffix in ends.split()]
    names = [name for path in files for name, _ in SIGNATURE.findall(path.read_text())]
    lines = ["#define HOST", '#include "prelude.cuh"', *(f'#include "{p.name}"' for p in files)]
    lines += ['#include "thread_pool.h"'] if launcher == "HOST_KERNEL" else []
    return "\n".join([*lines, *(f"{launcher}({name})" for name in names), ""])


def sources_hash(sources: Path) -> str:
    """A checksum of everything that the libraries are compiled from."""
    texts = [
        path.read_bytes()
        for path in sorted(sources.iterdir())
        if path.suffix in (".cu", ".cuh", ".h", ".cpp") and path.name != "trace.h"
    ]
    return hashlib.sha256(b"".join([*texts, host_source(sources).encode()])).hexdigest()


def record(sources: str, library: Path) -> dict[str, str]:
    """The contents of the file beside a library: both checksums."""
    return {"sources": sources, "library": hashlib.sha256(library.read_bytes()).hexdigest()}


def fault(library: Path, sources: Path) -> str | None:
    """What is wrong with a library, worded to follow "they"; None if it is intact and up to
    date."""
    if not library.is_file():
        return "are not built"
    try:
        written, now = (
            json.loads(library.with_suffix(".json").read_text()),
            record(sources_hash(sources), library),
        )
    except (OSError, ValueError, RecursionError):
        return "were not built by this version"
    if written == now:
        return None
    return (
        "are damaged"
        if written.get("sources") == now["sources"]
        else f"were compiled from other sources than those in {sources}"
    )


def compiler() -> list[str] | None:
    """The C++ compiler's command: $CXX, else the one that Python was built with, else the first
    that is installed; None if there is none."""
    candidates = (
        [os.environ["CXX"]]
        if os.environ.get("CXX")
        else [sysconfig.get_config_var("CXX") or "", "g++", "clang++", "c++"]
    )
    for candidate in map(shlex.split, candidates):
        if candidate and shutil.which(candidate[0]):
            return candidate
    if os.environ.get("CXX"):
        raise BuildError(f"CXX={os.environ['CXX']}: there is no such compiler")
    return None


def build(sources: Path, target: Path) -> list[Path]:
    """Compile the kernels in `sources` into the folder `target`, and return the libraries' paths.
    Either both libraries replace the old ones, or neither does.

    $CXXFLAGS and $LDFLAGS are added to the flags. Raises BuildError.
    """
    command = compiler()
    if command is None:
        raise BuildError("there is no C++ compiler: install g++ or clang++, or name one in CXX")
    command += FLAGS + shlex.split(os.environ.get("CXXFLAGS", ""))
    link = shlex.split(os.environ.get("LDFLAGS", ""))
    sources_as_compiled = sources_hash(sources)
    with tempfile.TemporaryDirectory(prefix=".minigrad-", dir=target) as own:
        unfinished = [library_path(Path(own), real) for real in REALS]
        program = Path(own, "host.cpp")
        program.write_text(host_source(sources))
        command += [f"-I{sources}"]
        processes = [
            subprocess.Popen(
                [*command, f"-DREAL={real}", str(program), "-o", str(path), *link],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
            )
            for real, path in zip(REALS, unfinished)
        ]
        outputs = [process.communicate()[0] for process in processes]
        for process, output in zip(processes, outputs):
            if process.returncode:
                raise BuildError(f"{command[0]} could not compile {sources}:\n{output.rstrip()}")
        for path in unfinished:
            path.with_suffix(".json").write_text(json.dumps(record(sources_as_compiled, path)))
        for path in unfinished:
            for file in (path.with_suffix(".json"), path):
                os.replace(file, target / file.name)
    return [library_path(target, real) for real in REALS]
