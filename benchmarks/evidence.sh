#!/usr/bin/env bash
# The table of docs/evidence.md: trains and evaluates on real data, one thread a process.
#   benchmarks/evidence.sh DATA OUT SET RECIPE LABEL [--set KEY=VALUE ...]
# DATA holds SET/site_1 ... site_4 and SET/test. Several may run side by side. A run that was cut short
# goes on; an evaluation trains only what its cache lacks: copy the folder cache/ of one evaluation into
# another's to train the real models once. CHECK=1 also asks whether the budget has levelled off.
set -euo pipefail
data="$1" out="$2" set="$3" recipe="$4" label="$5"
shift 5
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS=1
asyndgan=.venv/bin/asyndgan
sites=()
for n in 1 2 3 4; do sites+=(--site "site_$n=$data/$set/site_$n"); done

run="$out/$set-$recipe"
if [ ! -e "$run/generator.safetensors" ]; then
  resume=()
  [ ! -e "$run/run.json" ] || resume=(--resume)
  $asyndgan train "$recipe" "${sites[@]}" --out "$run" --set image.size=64 --set masks.release=true \
    --set training.precision=bfloat16 "$@" "${resume[@]}"
fi
$asyndgan evaluate "$run" "${sites[@]}" --test "$data/$set/test" --out "$out/$set-$recipe-evaluation" \
  --label "$label" --seeds "${SEEDS:-3}" --workers "${WORKERS:-1}" --steps "${STEPS:-1000}" ${CHECK:+--check-budget}
