#!/usr/bin/env bash
# Computes the tables behind docs/evidence.md, or the ones named, and writes each into docs/results/TABLE.md:
#   lab/evidence.sh DATA OUT [TABLE ...]
# A table is a suite of lab/suites (those named search-* are experiments, and run only if named) or one of
# lab/experiments: reconstruction, membership, worst_recipe, digits, phantoms, tables and streets. DATA contains
# lgg_mri, dsb2018_fluo, dsb2018_fluo_256, chest_xray, hippocampus_3d, streets_camvid, loans and loans_default; phantoms are generated there. Results that exist are reused, and an interrupted suite
# resumes. A suite's results also go to lab/results/TABLE.json. Everything takes more than a day of one core.
set -euo pipefail
data="$1" out="$2"
shift 2
cd "$(dirname "$0")/.."
[ -e "$data/phantoms" ] || .venv/bin/asyndgan phantoms "$data/phantoms"
[ $# -gt 0 ] || set -- demo default-64 learned-64 bytes nuclei-64 nuclei-128 nuclei-256 chest-64 chest-128 misaligned \
  reconstruction membership worst_recipe digits phantoms tables streets
for table; do
  document="docs/results/$table.md"
  case "$table" in
    tables)
      .venv/bin/python -m lab.experiments.tables --data "$data" --out "$out/tables" --test --document "$document"
      continue
      ;;
    streets)
      .venv/bin/python -m lab.experiments.streets --data "$data" --out "$out/streets" --seeds 3 --document "$document"
      continue
      ;;
    reconstruction | membership | worst_recipe | phantoms)
      .venv/bin/python -m "lab.experiments.$table" --data "$data" --out "$out/$table" --document "$document"
      continue
      ;;
    digits)
      .venv/bin/python -m lab.experiments.digits --out "$out/digits" --document "$document"
      continue
      ;;
  esac
  .venv/bin/python -m lab "lab/suites/$table.toml" --data "$data" --out "$out/$table" \
    --workers "${WORKERS:-2}" --document "$document"
  cp "$out/$table/suite.json" "lab/results/$table.json"
  cp "$out/$table/scores.csv.gz" "lab/results/$table.scores.csv.gz"
done
