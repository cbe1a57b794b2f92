#!/usr/bin/env bash
# Runs all benchmarks on the CPU and writes their tables and JSON files to a folder; tables.py makes README's tables of it.
#
#   bash benchmarks/all.sh FOLDER [OPTION ...]     # options for every script, --rounds 3 for example
#
# With one thread everything runs; with two, the cases that were found behind a peer.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:?give a folder} python=${PYTHON:-python3}
shift
mkdir -p "$out" && out=$(cd "$out" && pwd)
export PYTHONPATH=$PWD HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
options=("$@")
run() { # script, threads, more options
  local name=$1 threads=$2
  shift 2
  OMP_NUM_THREADS=$threads "$python" "benchmarks/$name.py" --threads "$threads" --json "$out/${name}_$threads.json" \
    "$@" "${options[@]}" >"$out/${name}_$threads.txt" 2>&1 || { echo "$name failed: see $out/${name}_$threads.txt"; exit 1; }
  printf '%s, %s threads: %s s so far\n' "$name" "$threads" "$SECONDS"
}
run train_rnn 1
run decode_rnn 1
run train_transformers 1
run decode_transformers 1
run pretrain_text 1
run train_rnn 2 --only general
run decode_rnn 2 --only "h256, beam 5, batch 1|h64"
run train_transformers 2 --only "d384|2x64"
run decode_transformers 2 --only "10 tokens|t5 d512"
run kernel_twins 1
