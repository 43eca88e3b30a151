"""Kernels under the eye of a build that records every access: the same numbers, no race, nothing
outside an array; and faults that are planted are named, with their kernel and line."""

import ctypes
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from minigrad import kernel_build, kernels
from minigrad.kernels import __main__ as command
from minigrad.kernels import findings, trace
from minigrad.kernels.examples import examples, sector_table
from minigrad.kernels.story import shortened, story

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(
    kernel_build.compiler() is None or kernels.host_library("float") is None,
    reason="needs a C++ compiler and the kernels for the CPU",
)
EXAMPLES = examples()


def few(launch):
    """The last blocks of a launch, which may reach past the end of an array."""
    return range(max(launch.blocks - 2, 0), launch.blocks)


def again(launch):
    """The same launch, of arrays of its own."""
    args = [a.copy() if isinstance(a, np.ndarray) else a for a in launch.args]
    return trace.Launch(launch.kernel, launch.blocks, tuple(args), launch.shared)


def test_every_kernel_that_a_gpu_is_given_has_an_example():
    assert set(EXAMPLES) == {
        name for name, (file, _) in kernels.signatures().items() if file != kernels.CPU_ONLY
    }


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_traced_kernel_computes_the_same(name):
    """With one thread a block, the whole launch, against the compiled kernel."""
    launch, other = again(EXAMPLES[name]), again(EXAMPLES[name])
    assert launch.run(threads=1, watch=(0, -1)).outside == 0, "in the whole launch"
    kernels.launch(name, other.blocks, *other.args, shared=other.shared)
    for p, a, b in zip(kernels.signatures()[name][1], launch.args, other.args, strict=True):
        if p.pointer:
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6, err_msg=p.name)


@pytest.mark.parametrize("name", EXAMPLES)
def test_blocks_of_128_threads_compute_the_same(name):
    """As blocks of one: the last two blocks, which add up over threads, too."""
    one, many = again(EXAMPLES[name]), again(EXAMPLES[name])
    one.run(threads=1, some=few(one), watch=(0, -1))
    many.run(some=few(many), watch=(0, -1))
    for p, a, b in zip(kernels.signatures()[name][1], one.args, many.args, strict=True):
        if p.pointer:
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6, err_msg=p.name)


P31 = 1 << 31


def large(beyond) -> dict[str, tuple]:
    """For each kernel (the kernel of a new layer may be missing) a launch as (blocks, numbers of
    shared memory, arguments), in which the arrays have more than 2^31 elements. An image has 64 x
    64 pixels of 4 channels, a row 4 numbers."""
    N, rows, span = P31 // (64 * 64 * 4) + 1, P31 // 4 + 64, 4096
    images, matrix, flat = (N, 64, 64, 4), (rows, 4), (P31 + span,)

    def real(*shapes):
        return [beyond(shape, "float32") for shape in shapes]

    sizes = 64, 64, 4
    pool = (*sizes, 1, 1, 1, 1, 0, 0, 64, 64)
    columns = (*sizes, 0, 4, 1, 1, 1, 1, 0, 0, 64, 64)
    few_rows = -(-rows // 64)
    bytes_ = [beyond(images, "uint8")]
    lrn_ = (4, 2, 2, 1.0, 1.0, 0.75)
    within = (0, 0, 1.0, 1.0, 0.75)
    labels = [beyond((rows,), "int64")]
    blocks = -(-flat[0] // span)
    return {
        "im2col": (N * 64, 0, *real(images, images), *columns),
        "col2im": (N * 64, 0, *real(images, images), *columns),
        "max_pool_forward": (N * 64, 0, *real(images, images), *bytes_, *pool),
        "max_pool_backward": (N * 64, 0, *real(images), *bytes_, *real(images), *pool),
        "avg_pool_forward": (N * 64, 0, *real(images, images), *pool),
        "avg_pool_backward": (N * 64, 0, *real(images, images), *pool),
        "lrn_forward": (rows, 8, *real(matrix, matrix), *lrn_),
        "lrn_backward": (rows, 16, *real(matrix, matrix, matrix), *lrn_),
        "lrn_within_map_forward": (N * 64, 0, *real(images, images), *sizes, *within),
        "lrn_within_map_terms": (N * 64, 0, *real(*[images] * 4), *sizes, *within),
        "lrn_within_map_backward": (N * 64, 0, *real(*[images] * 3), *sizes, 0, 0, 1.0),
        "softmax_cross_entropy_forward":
            (rows, 1, *real(matrix), *labels, *real(matrix, (rows,)), 4),
        "softmax_cross_entropy_backward":
            (rows, 0, *real(matrix), *labels, *real((rows,), matrix), 4),
        "add_bias": (few_rows, 0, *real(matrix, (4,)), rows, 4, 64, 1),
        "sum_rows": (few_rows, 0, *real(matrix, (few_rows, 4)), rows, 4, 64),
        "relu_forward": (blocks, 0, *real(flat, flat), flat[0], span),
        "relu_backward": (blocks, 0, *real(flat, flat, flat), flat[0], span),
        "dropout": (blocks, 0, *real(flat, flat), flat[0], 0, span, 0, 1.0, 1, 2, 3, 4),
        "sgd_update": (blocks, 0, *real(flat, flat, flat), flat[0], span, 0.1, 0.9, 0.1, 1),
        "prepare_images": (
            N * 64, 0, *bytes_, beyond((N, 3), "int32"),
            *real((64, 64, 4), (N, 4), (4,), images), 64, 64, 4,
        ),
    }  # fmt: skip


@pytest.mark.parametrize("name", large(lambda shape, dtype: None))
def test_indices_beyond_2_to_the_31(name, beyond):
    """An index counted in 32 bits would be negative there, and outside of its array. Only the last
    block runs, so that little of the memory is touched."""
    blocks, shared, *args = large(beyond)[name]
    found = trace.run(name, blocks, *args, shared=shared, threads=1, some=range(blocks - 1, blocks))
    assert found.outside == 0, "accesses outside of their arrays"
    a = found.accesses
    for n, array in found.arrays.items():
        if array.size > P31:
            offsets = a["offset"][a["array"] == n]
            assert offsets.min() >= (array.size - 4096) * array.itemsize, array.name
            assert offsets.max() == (array.size - 1) * array.itemsize, array.name


@pytest.mark.parametrize("name", EXAMPLES)
def test_no_race_and_nothing_outside_an_array(name):
    """The last two blocks of 128 threads, in AlexNet's own sizes."""
    launch = EXAMPLES[name]
    found = launch.run(some=few(launch))
    assert len(found.accesses) > 100
    assert set(found.accesses["block"]) == set(few(launch))
    assert findings.races(found) == []
    assert findings.overruns(found) == []
    assert findings.conflicts(found) == []


# What a warp moves more than twice the sectors that its bytes need, and why that is left so.
KNOWN = {
    "dropout": {"x", "y"},  # four neighbours a thread, one Philox call: four requests share sectors
    "prepare_images": {"pictures", "mean", "out"},  # three colours a thread: three requests share
    "softmax_cross_entropy_forward": {"x"},  # a load that only some threads of a warp make
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_neighbouring_threads_touch_neighbouring_memory(name):
    launch = EXAMPLES[name]
    middle = launch.blocks // 2
    said = findings.strided(launch.run(some=range(middle, middle + 1)))
    arrays = {re.search(r"(?:loads|stores) (\w+) at", sentence)[1] for sentence in said}
    assert arrays == KNOWN.get(name, set()), said


def test_the_readme_has_the_table():
    """Each row of it; the kernel of a new layer may be missing."""
    text = (ROOT / "kernels" / "README.md").read_text()
    head = "| kernel | sectors a load |"
    shown = head + text.split(head)[1].split("\n\n")[0]
    assert len(shown.splitlines()) > 15
    assert set(shown.splitlines()) <= set(sector_table().splitlines())


def planted(tmp_path, name, file, before, after):
    """The kernels with one change, and a run of one of them on it."""
    sources = tmp_path / "kernels"
    shutil.copytree(kernels.folder(), sources)
    text = (sources / file).read_text()
    assert text.count(before) == 1, "the planted fault no longer fits the source"
    (sources / file).write_text(text.replace(before, after))
    line = text[: text.index(before)].count("\n") + 1
    launch = examples()[name]
    return launch.run(some=few(launch), sources=sources), f"{file}:{line}"


def test_a_planted_race_is_named(tmp_path, monkeypatch):
    """The barrier of LRN's forward pass taken out."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    before = "centre[c] = x[c] * x[c];\n  __syncthreads();"
    found, line = planted(tmp_path, "lrn_forward", "lrn.cu", before, before.split("\n")[0])
    said = " ".join(findings.races(found))
    assert "lrn_forward: shared[" in said
    assert f"is stored at {line} by thread" in said
    assert "loads it at lrn.cu:28, with no barrier between them" in said


def test_a_planted_race_between_blocks_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    before = "out[(i64)blockIdx.x * O + o] = total;"
    after = "out[o] = total;"
    found, line = planted(tmp_path, "sum_rows", "bias.cu", before, after)
    said = " ".join(findings.races(found))
    assert re.search(rf"sum_rows: out\[0, \d+\] is stored at {line} by thread \d+ of block 1", said)
    assert re.search(rf"thread \d+ of block 2 stores it at {line}", said)


def test_a_race_through_two_names_of_one_array_is_named(tmp_path, monkeypatch):
    """In place is right where a thread reads its own element only; here it is its neighbour's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    sources = tmp_path / "kernels"
    shutil.copytree(kernels.folder(), sources)
    text = (sources / "relu.cu").read_text()
    (sources / "relu.cu").write_text(text.replace("x[first + i];", "x[first + (i ^ 1)];"))
    launch = examples()["relu_forward"]
    x, _, *rest = launch.args
    launch.args = (x, x, *rest)
    assert findings.races(launch.run(some=range(1))) == []
    said = findings.races(launch.run(some=range(1), sources=sources))
    assert re.search(r"relu_forward: [xy]\[0, 0, 0, \d+\] is stored at relu.cu:14", said[0])


def test_a_planted_overrun_is_named(tmp_path, monkeypatch):
    """One element too far, in the last block; the access is not made."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    before = "UNROLL for (int i = threadIdx.x; i < count; i += blockDim.x) {\n    real v"
    found, _ = planted(tmp_path, "relu_forward", "relu.cu", before, before.replace("<", "<="))
    launch = examples()["relu_forward"]
    first = launch.run(some=range(1), sources=tmp_path / "kernels")
    assert findings.overruns(first) == [], "only the last block leaves the array"
    assert first.outside == 0
    assert found.outside == 2
    said = findings.overruns(found)
    size = launch.args[0].size
    assert len(said) == 2
    assert (
        f"relu_forward: thread 0 of block {launch.blocks - 1} loads x[{size} of {size}]" in said[0]
    )
    assert all(re.search(r"at relu\.cu:1[34], outside the array", each) for each in said)


def test_a_planted_strided_load_is_named(tmp_path, monkeypatch):
    """Each thread takes numbers of its own that lie together, far from its neighbours'."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    before = "real v = x[first + i];"
    after = "real v = x[first + i % blockDim.x * 32 + i / blockDim.x];"
    found, line = planted(tmp_path, "relu_forward", "relu.cu", before, after)
    launch = examples()["relu_forward"]
    first = launch.run(some=range(1), sources=tmp_path / "kernels")
    (said,) = findings.strided(first)
    assert said == f"relu_forward: a warp loads x at {line} in 32 sectors, where 4 would do"


def test_a_planted_bank_conflict_is_named(tmp_path, monkeypatch):
    """The slots of a block's reduction 32 words apart: all in one bank."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    sources = tmp_path / "kernels"
    shutil.copytree(kernels.folder(), sources)
    text = (sources / "prelude.cuh").read_text()
    for index in ("threadIdx.x", "i"):
        assert f"slots[{index}]" in text
        text = text.replace(f"slots[{index}]", f"slots[{index} * 32]")
    (sources / "prelude.cuh").write_text(text)
    launch = examples()["softmax_cross_entropy_forward"]
    launch.shared = 32 * kernels.THREADS
    said = findings.conflicts(launch.run(some=range(1), sources=sources))
    assert said
    assert all(
        re.search(r"softmax_cross_entropy_forward: a warp waits for 32 words of one bank of shared"
                  r" memory at prelude\.cuh:5\d, where 1 would do", each) for each in said
    )  # fmt: skip


def test_the_story_of_an_element_of_lrn():
    """Five threads put the squares of five channels into shared memory, one sums them up."""
    lines = story("lrn_forward", (0, 6, 4, 173), EXAMPLES["lrn_forward"])
    assert lines[0].startswith("y[0, 6, 4, 173] is stored by thread 45 of block 166;")
    for n, channel in enumerate(range(171, 176)):
        assert lines[1 + n].startswith(
            f"  thread {channel - 128} stores shared[{channel + 2}], made of x[0, 6, 4, {channel}]"
        )
    assert "a barrier" in lines[6]
    assert lines[7].startswith("  thread 45 loads x[0, 6, 4, 173] (lrn.cu:")
    assert lines[13].startswith("  thread 45 stores y[0, 6, 4, 173] (lrn.cu:")
    assert any("centre[c] = x[c] * x[c];" in line for line in lines[14:])


@pytest.mark.parametrize(
    ("name", "at"),
    [("im2col", (0, 5)), ("max_pool_forward", (0, 2, 3, 4)), ("col2im", (0, 5, 5, 5)),
     ("softmax_cross_entropy_forward", (2, 999)), ("lrn_backward", (0, 0, 0, 0))],
)  # fmt: skip
def test_every_kind_of_kernel_has_a_story(name, at):
    lines = story(name, at, EXAMPLES[name])
    assert f"[{', '.join(map(str, at))}] is stored by thread" in lines[0]
    assert len(lines) < 100


def test_a_long_story_loses_its_middle():
    lines = [str(n) for n in range(60)]
    assert shortened(lines[:48]) == lines[:48]
    assert shortened(lines) == [*lines[:24], "  ... 12 more ...", *lines[36:]]


def test_words_of_a_bank_in_float64():
    """A number of 8 bytes is two words: 32 neighbours are two words of each bank, and could not be
    fewer; 32 numbers that lie 16 apart are 32 words of each of two banks."""
    name = ctypes.create_string_buffer(b"a.cu")
    for step, words, fewest in ((1, 2, 2), (16, 32, 2)):
        a = np.zeros(32, trace.ACCESS)
        a["file"], a["line"], a["size"], a["array"] = ctypes.addressof(name), 7, 8, -1
        a["thread"], a["offset"] = np.arange(32), 8 * step * np.arange(32)
        found = trace.Trace("a", {}, a, 1, 32, 8 * 16 * 32, 0)
        assert findings.requests(found) == [
            findings.Request("a.cu:7", "shared", False, 1, words, fewest)
        ]
        assert len(findings.conflicts(found)) == (step > 1)


def test_a_traced_library_is_kept_for_its_sources_and_flags(tmp_path, monkeypatch):
    """Another one is compiled for float64, for changed sources and for another compiler."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    sources, calls = tmp_path / "kernels", []
    shutil.copytree(kernels.folder(), sources)

    def compiler(words, **options):
        calls.append(words)
        Path(words[words.index("-o") + 1]).touch()
        return subprocess.CompletedProcess(words, 0, "", "")

    monkeypatch.setattr(subprocess, "run", compiler)
    found = [trace.compiled(sources), trace.compiled(sources, "double")]
    assert [trace.compiled(sources), trace.compiled(sources, "double")] == found
    assert [("-DREAL=float" in c, "-DREAL=double" in c) for c in calls] == [(1, 0), (0, 1)]
    for name in ("relu.cu", "prelude.cuh", "trace.h"):
        (sources / name).write_text((sources / name).read_text() + "\n")
        found.append(trace.compiled(sources))
    monkeypatch.setattr(kernel_build, "compiler", lambda: ["g++", "-pipe"])
    found.append(trace.compiled(sources))
    assert len(set(found)) == len(calls) == 6


def test_the_command(capsys):
    assert command.main(["trace", "relu_forward", "--at", "0,1,2,3"]) == 0
    assert "y[0, 1, 2, 3] is stored by thread" in capsys.readouterr().out
    for bad in (
        ["trace", "relu_forward", "--at", "0,99,2,3"],
        ["trace", "relu_forward", "--at", "x"],
    ):
        assert command.main(bad) == 2
        assert "error: " in capsys.readouterr().err
    assert command.main([]) == 2
    with pytest.raises(SystemExit):
        command.main(["trace", "nothing"])


def test_what_functions_launch_can_be_recorded():
    from minigrad import functions as F

    x = np.random.default_rng(0).standard_normal((2, 5, 4, 6)).astype(np.float32)
    launch = kernels.launch
    with trace.launches() as kept:
        plain = F.lrn(x).data
    assert kernels.launch is launch
    assert [launch.kernel for launch in kept] == ["lrn_forward"]
    recorded = kept[0].args[1]
    expected = plain.copy()
    recorded[...] = 0
    found = kept[0].run()
    np.testing.assert_allclose(recorded, expected, rtol=1e-6)
    assert set(found.accesses["block"]) == set(range(40))
    assert findings.races(found) == findings.overruns(found) == []


def test_python_m_prints_no_warning():
    result = subprocess.run(
        [sys.executable, "-W", "error", "-m", "minigrad.kernels"],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert result.returncode == 2
    assert result.stderr.startswith("error: `python -m minigrad.kernels trace")
