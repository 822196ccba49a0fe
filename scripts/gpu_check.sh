#!/usr/bin/env bash
# Everything that only a GPU can tell, in some five minutes, into one report.
#
# usage: scripts/gpu_check.sh [REPORT]     default: gpu-report.txt
#
# Python is that of the checkout (.venv) or else the one in PATH. Each part has its own limit of
# time, and one that fails or is missing does not keep the others from running. The exit status
# is 1 where a part failed.
set -uo pipefail
cd "$(dirname "$0")/.."
report=${1:-gpu-report.txt}
python=.venv/bin/python
[ -x "$python" ] || python=python
failed=0

part() { # NAME SECONDS COMMAND...
  local name=$1 seconds=$2 start status
  shift 2
  start=$SECONDS
  printf '\n===== %s: %s\n' "$name" "$*"
  timeout "$seconds" "$@" 2>&1 | tail -n 80
  status=${PIPESTATUS[0]}
  [ "$status" -eq 0 ] || failed=1
  printf '===== %s: exit status %s, %s s\n' "$name" "$status" $((SECONDS - start))
}

sanitize() { # TOOL TESTS
  part "compute-sanitizer $1" 30 env PYTORCH_NO_CUDA_MEMORY_CACHING=1 \
    compute-sanitizer --tool "$1" --report-api-errors no --error-exitcode 9 \
    "$python" -m pytest tests/scan/test_cuda_kernels.py tests/scan/test_cuda_on_gpu.py -q -m gpu -k "$2" -p no:cacheprovider
}

everything() {
  date -u '+%d %B %Y, %H:%M UTC'
  git describe --always --dirty 2>/dev/null && git log -1 --format='commit %H of %cd' 2>/dev/null
  nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv 2>&1
  part "doctor" 15 "$python" -m napari_2dmamba.cli doctor
  part "tests" 90 "$python" -m pytest tests/scan tests/models/test_spread.py tests/training tests/features -q -n 8 -m gpu -rs
  if command -v compute-sanitizer >/dev/null; then
    sanitize memcheck "agree_with or graph"
    sanitize racecheck "agree_with"
    sanitize initcheck "agree_with"
  else
    printf '\n===== compute-sanitizer is not installed\n'
  fi
  part "benchmark" 60 "$python" benchmarks/scan_cuda.py --repeats 20
  part "host" 20 "$python" benchmarks/scan_host.py --calls 100
  part "extraction" 60 "$python" benchmarks/extract_device.py --patches 2000 --rounds 2
  if command -v ncu >/dev/null; then
    part "ncu" 30 ncu --clock-control none --set basic -k regex:scan_ -c 8 \
      "$python" benchmarks/scan_cuda.py --repeats 1 --only 200
  else
    printf '\n===== ncu is not installed\n'
  fi
  printf '\n===== %s s in all; %s\n' "$SECONDS" "$([ "$failed" -eq 0 ] && echo 'nothing failed' || echo 'SOMETHING FAILED')"
  return "$failed"
}

everything > >(tee "$report") 2>&1
status=$?
wait
echo "report: $report"
exit "$status"
