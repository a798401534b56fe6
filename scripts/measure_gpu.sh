#!/usr/bin/env bash
# What only a GPU can tell, within ten minutes: the tests that need one, the paper-size model beside the original, the bench.
#
#   scripts/measure_gpu.sh OUT [VAMPNET LAC]
#
# OUT receives the tables, and 3 GB of random weights in the published shapes, made once. VAMPNET and LAC are checkouts of the
# original's repositories to measure beside (see scripts/measure_paper_size.py); without them ours is measured alone.
# SMOKE=1 tries everything out on the CPU with tiny models.
set -euo pipefail
: "${1:?usage: scripts/measure_gpu.sh OUT [VAMPNET LAC]}"
mkdir -p "$1"
out=$(realpath "$1")
original=()
if [ $# -eq 3 ]; then original=(--original "$(realpath "$2")" "$(realpath "$3")"); fi
PYTHON=${PYTHON:-python3}
case $PYTHON in */*) PYTHON=$(realpath -s "$PYTHON") ;; esac
cd "$(dirname "$0")/.."
device=cuda shape=paper model=paper lengths=10,60
if [ "${SMOKE:-0}" = 1 ]; then
  device=cpu shape=tiny model=mini lengths=1
elif ! "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  echo "There is no GPU of CUDA here." >&2
  exit 2
fi
tests=0
# Whatever fails, what follows tells more.
"$PYTHON" -m pytest -q -m gpu tests | tee "$out/tests.txt" || tests=$?
"$PYTHON" scripts/measure_paper_size.py "$out/files" "${original[@]}" --device "$device" --precision bfloat16 --shape "$shape" \
  --stages all --repeats 3 --markdown "$out/paper-size.md" --json "$out/paper-size.json" || tests=$?
weights=()
if [ "$model" = paper ]; then weights=(--weights "$out/files"); fi
"$PYTHON" -m vampnet bench --model "$model" --device "$device" --precision bfloat16 --stages "encode,coarse step,fine step,decode,coarse,fine" \
  --lengths "$lengths" --takes 1,16 --steps 36 --repeats 3 "${weights[@]}" --out "$out/bench" || tests=$?
exit $tests
