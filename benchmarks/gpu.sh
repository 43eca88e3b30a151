#!/usr/bin/env bash
# Everything that needs a GPU:   benchmarks/gpu.sh --output DIR [STAGE ...]
# Stages, in this order if none is named: device (builds the kernels for the CPU, and says what is there), tests, follow (100 steps beside
# PyTorch), steps (training steps beside PyTorch's), kernels (their table), memcheck, racecheck (by NVIDIA's compute-sanitizer). Each has a
# limit in seconds, and none stops the next. What they print stands in DIR/results as it comes; DIR/results.tgz holds it all. Exit code 1
# if a stage failed; a skipped test is a failure here. PYTHON names the interpreter; the package need not be installed.
set -uo pipefail
usage() { echo "usage: benchmarks/gpu.sh --output DIR [device|tests|follow|steps|kernels|memcheck|racecheck ...]" >&2; exit 2; }
[ $# -ge 2 ] && [ "$1" = --output ] || usage
out=$2
shift 2
for stage in "$@"; do
  case $stage in device | tests | follow | steps | kernels | memcheck | racecheck) ;; *) usage ;; esac
done
mkdir -p "$out/results" || exit 2
out=$(cd "$out" && pwd)
[ -z "$(ls -A "$out/results")" ] || { echo "gpu.sh: $out/results is not empty, name a new folder: what lies there would pass for results of today" >&2; exit 2; }
cd "$(dirname "$0")/.."
export PYTHONPATH=$PWD PYTHONUNBUFFERED=1
python=${PYTHON:-python3}
failed=()

# run NAME LIMIT COMMAND...: its output to results/NAME.txt, and a line on how it ended.
run() {
  local name=$1 limit=$2 began=$SECONDS rc
  shift 2
  timeout -k 10 "$limit" "$@" > "$out/results/$name.txt" 2>&1
  rc=$?
  [ $rc = 0 ] && grep -Eq '(^|[ ,])[0-9]+ skipped' "$out/results/$name.txt" && rc="0, but tests were skipped"
  [ "$rc" = 0 ] || failed+=("$name")
  [ "$rc" = 124 ] && rc="124, over its limit of $limit s"
  tail -n 12 "$out/results/$name.txt"
  echo "== $name: exit code $rc, $((SECONDS - began)) s"
}

gpu_tests() { echo "import cupy, pytest, sys; $1; sys.exit(pytest.main(['-q', '-m', 'gpu', '-W', 'default', 'tests/test_gpu.py', *sys.argv[1:]]))"; }

# Without CuPy's pool, which would lay arrays side by side in one allocation and hide an overrun from one into the next.
sanitize() {
  run "$1" 300 compute-sanitizer --tool "$1" --report-api-errors no --error-exitcode 1 \
    "$python" -c "$(gpu_tests 'cupy.cuda.set_allocator(None)')" -k "$2"
}

bench() { run "$1" "$2" "$python" benchmarks/bench_alexnet.py --device gpu --answer-within 120 "${@:3}"; }

stages=("$@")
[ $# = 0 ] && stages=(device tests follow steps kernels memcheck racecheck)
for stage in "${stages[@]}"; do
  case $stage in
    device)
      run build 120 "$python" -m minigrad build
      run device 120 "$python" -c "import cupy; cupy.show_config(); print(cupy.cuda.runtime.getDeviceCount(), 'GPUs; a sum there:', cupy.ones(3).sum())"
      run report 60 "$python" -m minigrad
      ;;
    tests) run tests 300 "$python" -c "$(gpu_tests pass)" --durations=5 ;;
    follow) bench follow 200 --follow 100 ;;
    steps)
      for network in paper nolrn; do
        for batch in 128 32; do
          bench "$network-$batch" 300 --network "$network" --batch "$batch" --blocks 2 --json "$out/results/$network-$batch.json"
        done
      done
      run ladder 60 "$python" benchmarks/ladder.py "$out/results"
      ;;
    kernels) run kernels 200 "$python" benchmarks/bench_kernels.py --device gpu --json "$out/results/kernels.json" ;;
    memcheck) sanitize memcheck '(against_cpu and float32) or cross_entropy or bias_gradient or sgd_update or prepared' ;;
    racecheck) sanitize racecheck '(against_cpu and float32 and lrn) or cross_entropy' ;; # the kernels with shared memory
  esac
  tar czf "$out/results.tgz" -C "$out" results
done
echo
echo "== results in $out/results.tgz; failed: ${failed[*]:-none}"
[ ${#failed[@]} = 0 ]
