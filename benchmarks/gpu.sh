#!/usr/bin/env bash
# Everything that needs a GPU, in one go:   benchmarks/gpu.sh --output DIR
# Correctness first (pytest -m gpu; compute-sanitizer on the small cases where it is installed), then the kernels' table. Under ten minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
[ "${1:-}" = --output ] && [ -n "${2:-}" ] || { echo "usage: benchmarks/gpu.sh --output DIR" >&2; exit 2; }
out=$2
mkdir -p "$out"
python -m minigrad | tee "$out/report.txt"
python -m pytest -q -m gpu tests/test_gpu.py | tee "$out/tests.txt"
if command -v compute-sanitizer > /dev/null; then
  compute-sanitizer --error-exitcode 1 python -m pytest -q -m gpu tests/test_gpu.py -k "against_cpu and float32" | tee "$out/sanitizer.txt"
fi
python benchmarks/bench_kernels.py --device gpu --json "$out/kernels.json" | tee "$out/kernels.txt"
