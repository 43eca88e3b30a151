#!/usr/bin/env bash
# Everything that needs a GPU, in one go:   benchmarks/gpu.sh --output DIR
# Correctness first (pytest -m gpu; compute-sanitizer on the small cases where it is installed; 100 steps beside PyTorch), then the kernels'
# table, then training steps beside PyTorch's; one table of these last. Under ten minutes.
set -euo pipefail
[ $# = 2 ] && [ "$1" = --output ] || { echo "usage: benchmarks/gpu.sh --output DIR" >&2; exit 2; }
mkdir -p "$2"
out=$(cd "$2" && pwd)
[ -z "$(ls -A "$out")" ] || { echo "gpu.sh: $out is not empty, name a new folder: what lies there would pass for results of today" >&2; exit 2; }
cd "$(dirname "$0")/.."
python -m minigrad | tee "$out/report.txt"
python -m pytest -q -m gpu tests/test_gpu.py | tee "$out/tests.txt"
if command -v compute-sanitizer > /dev/null; then
  # Without CuPy's pool, which would lay arrays side by side in one allocation and hide an overrun from one into the next.
  for tool in memcheck racecheck; do
    compute-sanitizer --tool $tool --report-api-errors no --error-exitcode 1 python -c "import cupy, pytest, sys
cupy.cuda.set_allocator(None)
cases = '(against_cpu and float32) or cross_entropy or bias_gradient or sgd_update or prepared'
sys.exit(pytest.main(['-q', '-m', 'gpu', 'tests/test_gpu.py', '-k', cases]))" | tee "$out/$tool.txt"
  done
fi
python benchmarks/bench_kernels.py --device gpu --json "$out/kernels.json" | tee "$out/kernels.txt"
peers=()
if python -c "import sys, torch; sys.exit(not torch.cuda.is_available())" 2> /dev/null; then
  python benchmarks/bench_alexnet.py --device gpu --follow 100 | tee "$out/follow.txt"
else
  echo "PyTorch with a GPU is not installed: minigrad alone is timed" | tee "$out/follow.txt"
  peers=(--peers none)
fi
for network in paper nolrn; do
  for batch in 32 128; do
    python benchmarks/bench_alexnet.py --device gpu --network $network --batch $batch --blocks 2 "${peers[@]}" \
      --json "$out/$network-$batch.json" | tee "$out/$network-$batch.txt"
  done
done
echo
echo "== correctness: $(tail -n 1 "$out/tests.txt")"
echo "== 100 steps: $(tail -n 1 "$out/follow.txt")"
python benchmarks/ladder.py "$out" | tee "$out/ladder.txt"
