#!/usr/bin/env bash
# The whole run of the bundled model, from nothing to OUT/mini: compose, train the codec, tokenise, train both transformers, export.
#
#   scripts/train_mini.sh OUT
#
# Every stage resumes where it was stopped: call it again. Settings come from the environment:
#   SOUNDFONTS       SoundFont files, separated by colons (default: those of Debian's FluidR3Mono and MuseScore packages; empty =
#                    the built-in synthesizer alone, whose music is another one)
#   SAMPLES          folder of CC0 one-shots and loops (default: none)
#   HOURS            of composed music (default 18; with 8 the coarse model learned its clips by heart)
#   CODEC_MINUTES, COARSE_MINUTES, FINE_MINUTES    training time of each stage (defaults 180, 180, 90); CODEC_MINUTES=0: the
#                    bundled codec as it is
#   DISTILL_MINUTES, DISTILL_BATCH    of teaching the coarse model guidance (defaults 36 and 4)
#   DECODER_MINUTES, DECODER_BATCH    of the codec's decoder against a discriminator (defaults 10 and 8)
#   SESSION_MINUTES  stop after about so long and exit with 3 (default: no limit)
#   FIRST_SEED       of the training music (default 0)
#   CORPUS_MINUTES   compose for no longer than this in a session, then go on with what there is (default: all HOURS of it)
#   CODEC_AFTER      the codec learns from what was composed by then, in minutes, while composing goes on (default: from all)
#   GROW=1           the transformers begin with the tokens that there are, and learn from more while these are composed (default:
#                    from all)
#   TRANSPOSED       further versions of each clip in other keys and tempos, 0 to 4 (default 0)
#   AT_ONCE=1        both transformers are trained at the same time (default: one after the other)
#   ENCODE_BATCH     clips that are tokenised at once (default 1)
#   CONFIGS          prefix of the configurations (default configs/mini)
#   DEVICE, WORKERS, PYTHON
#   SMOKE=1          seconds instead of hours, to see that every stage works
set -euo pipefail
mkdir -p "${1:?usage: scripts/train_mini.sh OUT}"
out=$(realpath "$1")
cd "$(dirname "$0")/.."
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}  # threads that spin while another process works cost half the speed
default_fonts=
for font in FluidR3Mono_GM MuseScore_General_Full; do
  file=${FONT_FOLDER:-/usr/share/sounds/sf3}/$font.sf3
  [ ! -f "$file" ] || default_fonts="${default_fonts:+$default_fonts:}$file"
done
no_fonts_meant=0
[ -z "${SOUNDFONTS-x}" ] && no_fonts_meant=1  # it was set, and to nothing
SOUNDFONTS=${SOUNDFONTS-$default_fonts}
PYTHON=${PYTHON:-python3} DEVICE=${DEVICE:-cpu} CONFIGS=${CONFIGS:-configs/mini} WORKERS=${WORKERS:-2}
HOURS=${HOURS:-18} CODEC_MINUTES=${CODEC_MINUTES:-180} COARSE_MINUTES=${COARSE_MINUTES:-180} FINE_MINUTES=${FINE_MINUTES:-90}
DISTILL_MINUTES=${DISTILL_MINUTES:-36} DISTILL_BATCH=${DISTILL_BATCH:-4}
DECODER_MINUTES=${DECODER_MINUTES:-10} DECODER_BATCH=${DECODER_BATCH:-8}
CORPUS_MINUTES=${CORPUS_MINUTES:-} CODEC_AFTER=${CODEC_AFTER:-} AT_ONCE=${AT_ONCE:-0}
GROW=${GROW:-0} TRANSPOSED=${TRANSPOSED:-0} ENCODE_BATCH=${ENCODE_BATCH:-1}
clip_seconds=20 held_out_minutes=17
codec_extra=() coarse_extra=() fine_extra=() distill_extra=() decoder_extra=()
if [ "${SMOKE:-0}" = 1 ]; then
  [ "$CODEC_MINUTES" = 0 ] || CODEC_MINUTES=0.01
  SOUNDFONTS= HOURS=0.02 COARSE_MINUTES=0.01 FINE_MINUTES=0.01 clip_seconds=11 held_out_minutes=0.3
  codec_extra=(model.dim=32 model.encoder_layers=1 model.decoder_layers=1 model.rounds=2
    training.batch=2 training.crop_tokens=32 training.init_tokens=4096 "training.start=''")
  coarse_extra=(model.dim=32 model.layers=1 model.heads=2 batch=2 valid_crops=1 "start=''")
  fine_extra=(model.dim=32 model.layers=1 model.heads=2 batch=2 valid_crops=1 "start=''")
  distill_extra=(--batch 1 --crop 64 --steps 1 --valid-crops 1)
  decoder_extra=(--batch 1 --crop-tokens 16 --width 4 --alone 1 --steps 2)
fi
if [ -z "$SOUNDFONTS" ] && [ "${SMOKE:-0}" != 1 ] && [ "$no_fonts_meant" != 1 ]; then
  echo "There are no SoundFonts here, and the music would be another one: name some in SOUNDFONTS, or set it to nothing." >&2
  exit 2
fi
missing=$("$PYTHON" - <<'END'
import importlib
for name in ("audiotools", "dac", "librosa", "safetensors", "scipy", "soundfile", "soxr", "tinysoundfont", "torch", "tqdm", "yaml"):
    try:
        importlib.import_module(name)
    except ImportError as error:
        print(error.name or name)
END
)
if [ -n "$missing" ]; then
  echo "These are not installed: $(echo $missing). See requirements/train.txt and requirements/synth.txt." >&2
  exit 2
fi
# A stage's start, its last measurement and its export come on top of the time that it trains.
reserve=$([ -n "${SESSION_MINUTES:-}" ] && [ "${SMOKE:-0}" != 1 ] && echo 45 || echo 0)
deadline=$((SECONDS + $(awk -v m="${SESSION_MINUTES:-1000000}" 'BEGIN {printf "%d", m * 60}')))

left() {  # minutes of this session that are left but for what a stage needs at its end; ends the session where there are none
  local seconds=$((deadline - SECONDS - reserve))
  [ $seconds -gt 15 ] || { echo "This session's time is used up: run the script again to go on." >&2; exit 3; }
  awk -v s=$seconds 'BEGIN {printf "%.2f", s / 60}'
}

corpus() {  # folder, minutes of music, clip length, options
  local folder=$1 minutes=$2 seconds=$3
  shift 3
  [ -f "$folder.done" ] && return 0
  local arguments=(--out "$folder" --minutes "$minutes" --seconds "$seconds" --workers "$WORKERS" "$@") fonts font status=0
  local enough=0 now
  now=$(left)
  # With a time of its own the music is what there is by then, unless the session ends before.
  [ -z "$CORPUS_MINUTES" ] || enough=$(awk -v a="$CORPUS_MINUTES" -v b="$now" 'BEGIN {print a < b ? 1 : 0}')
  [ $enough = 0 ] || now=$CORPUS_MINUTES
  arguments+=(--stop-after "$now")
  IFS=: read -ra fonts <<<"$SOUNDFONTS"
  for font in ${fonts[@]+"${fonts[@]}"}; do arguments+=(--soundfont "$font"); done
  [ -z "${SAMPLES:-}" ] || arguments+=(--samples "$SAMPLES")
  nice -n 5 "$PYTHON" -m vampnet.train.corpus "${arguments[@]}" || status=$?
  if [ $status = 0 ] || { [ $status = 3 ] && [ $enough = 1 ]; }; then touch "$folder.done"; else exit $status; fi
}

stage() {  # name, command...: run once; 3 = go on in another session
  local name=$1 status=0
  shift
  [ ! -f "$out/$name.done" ] || return 0
  "$@" || status=$?
  [ $status = 0 ] && touch "$out/$name.done"
  [ $status = 0 ] || exit $status
}

transformer() {  # coarse or fine
  local which=$1 budget=$COARSE_MINUTES extra=(${coarse_extra[@]+"${coarse_extra[@]}"}) minutes grow=0
  [ $which = coarse ] || budget=$FINE_MINUTES extra=(${fine_extra[@]+"${fine_extra[@]}"})
  [ "$GROW" = 0 ] || grow=100
  minutes=$(left) || exit $?
  stage $which "$PYTHON" -m vampnet.train.transformer $which --config "$CONFIGS-$which.yaml" --run "$out/$which" \
    --minutes "$budget" --session-minutes "$minutes" \
    --set train="$out/tokens/train" valid="$out/tokens/held-out" device="$DEVICE" grow_every=$grow ${extra[@]+"${extra[@]}"}
}

tokens() {  # train or held-out, options: tokenise what there is
  local part=$1 minutes
  shift
  minutes=$(left) || return 3
  "$PYTHON" -m vampnet.train.tokens --codec "$out/mini" --audio "$out/audio/$part" --out "$out/tokens/$part" \
    --device "$DEVICE" --stop-after "$minutes" --batch "$ENCODE_BATCH" "$@"
}

grow() {  # tokenise what is composed until nothing more is
  local more=1 status
  while [ $more = 1 ]; do
    [ ! -f "$out/audio/train.done" ] && kill -0 "$composing" 2>/dev/null || more=0
    status=0
    tokens train --workers 3 --transposed "$TRANSPOSED" || status=$?
    [ $status != 3 ] || return 3
    [ $status = 0 ] || [ $more = 0 ] || sleep 3  # there may be no clip yet
  done
  [ $status = 0 ] || return $status
  [ ! -f "$out/audio/train.done" ] || touch "$out/tokens-train.done"
}

check() {  # ends the script if composing or tokenising, which go on beside it, could not
  local job status
  for job in $composing $growing; do
    ! kill -0 "$job" 2>/dev/null || continue
    status=0
    wait "$job" || status=$?
    [ $status = 0 ] || [ $status = 3 ] || { echo "Music could not be composed or tokenised: see above." >&2; exit $status; }
  done
}

corpus "$out/audio/held-out" "$held_out_minutes" 10.5 --held-out
music=("$out/audio/train" "$(awk -v h="$HOURS" 'BEGIN {print h * 60}')" $clip_seconds --first-seed "${FIRST_SEED:-0}")
composing= growing=
learned() { [ -f "$out/coarse.done" ] && [ -f "$out/fine.done" ]; }  # then more music is of no use
if learned; then
  :
elif [ -n "$CODEC_AFTER$([ "$GROW" = 0 ] || echo 0)" ] && [ ! -f "$out/audio/train.done" ]; then
  set -m  # a process group of its own, so that all of it ends with this script
  corpus "${music[@]}" &
  composing=$!
  set +m
  trap 'for group in $composing $growing; do kill -- -$group 2>/dev/null || true; done' EXIT
  wanted=$(awk -v m="${CODEC_AFTER:-0}" 'BEGIN {printf "%d", m * 60}')
  [ ! -f "$out/codec.done" ] && [ ! -f "$out/codec/last.pt" ] || wanted=0  # an earlier session has waited
  for ((waited = 0; waited < wanted; waited++)); do
    kill -0 $composing 2>/dev/null || break
    sleep 1
  done
else
  corpus "${music[@]}"
fi
if [ "$CODEC_MINUTES" = 0 ]; then
  mkdir -p "$out/mini"
  stage codec cp checkpoints/mini/codec.safetensors checkpoints/mini/config.json "$out/mini/"
else
  minutes=$(left)
  stage codec "$PYTHON" -m vampnet.train.codec --config "$CONFIGS-codec.yaml" --run "$out/codec" --device "$DEVICE" \
    --session-minutes "$minutes" --export "$out/mini" --set training.audio="$out/audio/train" \
    training.held_out="$out/audio/held-out" training.minutes="$CODEC_MINUTES" ${codec_extra[@]+"${codec_extra[@]}"}
fi
if [ -n "$composing" ] && [ "$GROW" = 0 ]; then
  wait $composing  # its exit status is that of this script
  composing=
  trap - EXIT
fi
stage tokens-held-out tokens held-out --workers "$WORKERS"
if [ "$GROW" = 0 ]; then
  stage tokens-train tokens train --workers "$WORKERS" --transposed "$TRANSPOSED"
elif ! learned && [ ! -f "$out/tokens-train.done" ]; then
  set -m
  grow &
  growing=$!
  set +m
  trap 'for group in $composing $growing; do kill -- -$group 2>/dev/null || true; done' EXIT
  until compgen -G "$out/tokens/train/tokens-*.safetensors" >/dev/null; do
    check
    kill -0 $growing 2>/dev/null || { wait $growing; break; }  # an exit status of its own ends this script
    sleep 1
  done
fi
status=0
if [ "$AT_ONCE" = 1 ]; then
  transformer coarse &
  coarse=$!
  (transformer fine) || status=$?
  wait $coarse || status=$?
else
  (transformer coarse; transformer fine) || status=$?
fi
check
[ $status = 0 ] || exit $status
# One after the other: both write into one config.json.
for which in coarse fine; do
  stage "export-$which" "$PYTHON" -m vampnet.train.transformer export --run "$out/$which" --out "$out/mini" --int8
done
minutes=$(left)
stage distill "$PYTHON" -m vampnet.train.distill --model "$out/mini" --tokens "$out/tokens/train" --valid "$out/tokens/held-out" \
  --run "$out/distill" --minutes "$DISTILL_MINUTES" --session-minutes "$minutes" --batch "$DISTILL_BATCH" --device "$DEVICE" \
  --export "$out/mini" ${distill_extra[@]+"${distill_extra[@]}"}
# Last: it changes how tokens sound, and none of them. Half of what is learned in a few minutes is best (docs/log.md).
minutes=$(left)
stage decoder "$PYTHON" -m vampnet.train.decoder --model "$out/mini" --audio "$out/audio/train" --held-out "$out/audio/held-out" \
  --run "$out/decoder" --minutes "$DECODER_MINUTES" --session-minutes "$minutes" --batch "$DECODER_BATCH" --device "$DEVICE" \
  --cooldown-share 0 --export "$out/mini" --share 0.5 --sharpen 1.05 ${decoder_extra[@]+"${decoder_extra[@]}"}
"$PYTHON" -c 'import sys; from vampnet.checkpoints import write_checksums; write_checksums(sys.argv[1])' "$out/mini"
echo "The model lies in $out/mini."
