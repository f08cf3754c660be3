#!/usr/bin/env bash
# Computes the suites of docs/evidence.md, or the ones named, and rewrites their tables:
#   benchmarks/evidence.sh DATA OUT [SUITE ...]
# DATA contains lgg_mri, dsb2018_fluo and msd_hippocampus; phantoms are generated there. Results that
# exist are reused, and an interrupted suite resumes. All suites take about forty hours of one core.
set -euo pipefail
data="$1" out="$2"
shift 2
cd "$(dirname "$0")/.."
asyndgan=.venv/bin/asyndgan
[ -e "$data/phantoms" ] || $asyndgan phantoms "$data/phantoms"
[ $# -gt 0 ] || set -- demo codings bytes away lgg-64 dsb-64 temporary completion hippocampus selection lgg-128 dsb-128
for suite; do
  document=docs/evidence.md
  case "$suite" in search-*) document=docs/experiments.md ;; esac
  $asyndgan benchmark "benchmarks/suites/$suite.toml" --data "$data" --out "$out/$suite" \
    --workers "${WORKERS:-2}" --document "$document"
done
