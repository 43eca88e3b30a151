"""The benchmarks keep what they have measured, whatever stops them."""

import json
import math
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import alexnet
from minigrad import backend

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import bench_alexnet

    return bench_alexnet


@pytest.mark.skipif(backend.gpu_count() > 0, reason="asks what happens without a GPU")
def test_stages_on_a_gpu_do_not_stop_each_other(tmp_path):
    """Each fails here; skipped tests are no success."""
    command = [ROOT / "benchmarks" / "gpu.sh", "--output", tmp_path / "new", "tests", "follow"]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {
        "PYTHON": sys.executable
    }
    out = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert out.returncode == 1
    assert "== tests: exit code" in out.stdout
    assert "== follow: exit code 2" in out.stdout
    assert "failed: tests follow" in out.stdout
    with tarfile.open(tmp_path / "new" / "results.tgz") as tar:
        assert {"results/tests.txt", "results/follow.txt"} <= set(tar.getnames())
    again = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert again.returncode == 2
    assert "is not empty" in again.stderr


def test_a_peer_that_hangs_is_given_up(bench):
    peer = bench.Process.__new__(bench.Process)
    peer.name, peer.limit = "compile", 0.3
    with subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as peer.process:
        with pytest.raises(bench.ProcessEnded, match="compile did not answer within 0.3 s"):
            peer.answer()
        assert peer.process.wait() != 0


def test_what_was_measured_is_kept_after_each_block(bench, monkeypatch, tmp_path):
    class Contender:
        def __init__(self, name, args):
            self.name, self.times, self.peak, self.asked = (
                name,
                {"step": [], "infer": [], "busy": []},
                0.0,
                0,
            )

        def ask(self, what):
            return 2.0

        def block(self, kind, count, warm):
            self.asked += 1
            if self.name == "minigrad" and self.asked == 7:
                raise bench.ProcessEnded("the process of minigrad ended without an answer")
            if not warm:
                self.times[kind].append(0.5)

    monkeypatch.setattr(bench, "Process", Contender)
    monkeypatch.setattr(bench, "operations", lambda network: (10, 1))
    path = tmp_path / "a.json"
    monkeypatch.setattr(
        sys, "argv", ["bench_alexnet.py", "--batch", "1", "--blocks", "5", "--json", str(path)]
    )
    with pytest.raises(SystemExit, match="the process of minigrad ended"):
        bench.main()
    rows = json.loads(path.read_text())["rows"]
    assert {name: row["step"] for name, row in rows.items()} == {
        name: [0.5, 0.5] for name in ("minigrad", *bench.PEERS["cpu"])
    }


@pytest.fixture
def scaling(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import scaling

    return scaling


def test_the_model_of_scaling_meets_published_speed_ups(scaling):
    """Krizhevsky 2014 on 2, 4 and 8 K20: one rate for two and four cards, half of it for eight."""
    for known, value in scaling.checks():
        assert value == pytest.approx(known.speed_up, rel=0.05), known


def test_the_model_of_scaling_at_its_ends(scaling):
    """A link without limit costs nothing; one that is the limit costs what it carries."""
    preset = alexnet.PRESETS["paper"]
    works = scaling.layers(preset)
    assert sum(w.bytes for w in works) == 4 * 60_965_224
    assert sum(w.forward + w.backward for w in works) == pytest.approx(1)
    assert sum(w.exchanged for w in works) == 143_264
    assert scaling.speed_up(preset, 128, 8, math.inf, 800) == pytest.approx(8)
    assert scaling.speed_up(preset, 128, 1, 1e9, 800) == pytest.approx(1)
    slow = scaling.step(preset, 128, 2, 1e6, 800)  # the last layer's sum begins early
    assert slow == pytest.approx(4 * 60_965_224 / 1e6, rel=0.01)
    hybrid = scaling.step(preset, 128, 2, 1e6, 800, hybrid=True)
    convolutions = sum(w.bytes for w in works if not w.dense)
    assert hybrid == pytest.approx((convolutions + 128 * 143_264) / 1e6, rel=0.02)


def test_scaling_prints_its_model(scaling, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["scaling.py"])
    assert scaling.main() == 0
    out = capsys.readouterr().out
    assert "gradients: 243.9 MB, of which dense layers 234.5 MB" in out
    assert out.count("GbE") == 2 * len(scaling.CLUSTERS)
