#!/usr/bin/env bash
# The bundled model's run on a GPU, in sessions of at most 10 minutes that resume one another.
#
#   scripts/train_mini_gpu.sh OUT            one session; exits with 3 while there is more to do: call it again
#   SMOKE=1 scripts/train_mini_gpu.sh OUT    every stage in seconds, on the CPU where there is no GPU
#
# The same stages as scripts/train_mini.sh, which says what can be set, with budgets that fit a data-centre GPU. All three
# models begin with the bundled ones, and codec and transformers, both at once, learn while the processor composes on.
set -euo pipefail
mkdir -p "${1:?usage: scripts/train_mini_gpu.sh OUT}"
set -- "$(realpath "$1")"
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
export PYTHON SESSION_MINUTES=${SESSION_MINUTES:-9} CONFIGS=${CONFIGS:-configs/mini-gpu}
export DEVICE=${DEVICE:-$("$PYTHON" -c 'import torch; print("cuda" if torch.cuda.is_available() else "cpu")')}
if [ "$DEVICE" = cpu ] && [ "${SMOKE:-0}" != 1 ]; then
  echo "There is no GPU here: scripts/train_mini.sh is the run for a CPU." >&2
  exit 2
fi
# Composing on more than a third of the processors slows the training down: it starts some hundred kernels a step.
export WORKERS=${WORKERS:-$((($(nproc) + 2) / 3))} HOURS=${HOURS:-200} CODEC_AFTER=${CODEC_AFTER-1.5}
export AT_ONCE=${AT_ONCE:-1} GROW=${GROW:-1} TRANSPOSED=${TRANSPOSED:-2} ENCODE_BATCH=${ENCODE_BATCH:-32}
export CODEC_MINUTES=${CODEC_MINUTES:-4} COARSE_MINUTES=${COARSE_MINUTES:-8} FINE_MINUTES=${FINE_MINUTES:-8}
export DISTILL_MINUTES=${DISTILL_MINUTES:-2} DISTILL_BATCH=${DISTILL_BATCH:-32}
export DECODER_MINUTES=${DECODER_MINUTES:-2} DECODER_BATCH=${DECODER_BATCH:-32}
exec scripts/train_mini.sh "$@"
