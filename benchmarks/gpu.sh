#!/usr/bin/env bash
# Writes all GPU figures and parity results to a folder, in at most 8 minutes.
#
#   bash benchmarks/gpu.sh [FOLDER] [--smoke]     # FOLDER: $OUT, or gpu_results; --smoke: tiny sizes, runs on a CPU, too
#
# The script uses python3 (or $PYTHON) with its packages, and installs nothing from a registry. Wheels that are missing
# there can lie in the folder $WHEELS (.whl of the repository by default); the script unpacks them outside of python3's
# own packages. Each part has a time limit of its own and writes what it has got after each variant.
set -uo pipefail
cd "$(dirname "$0")/.."
smoke=() out=${OUT:-gpu_results}
for argument in "$@"; do
  if [ "$argument" = --smoke ]; then smoke=(--smoke); else out=$argument; fi
done
mkdir -p "$out" && out=$(cd "$out" && pwd)
python=${PYTHON:-python3} wheels=${WHEELS:-$PWD/.whl} site=$(mktemp -d) status=0
trap 'rm -rf "$site"' EXIT
if compgen -G "$wheels/*.whl" >/dev/null; then
  "$python" -m pip install -q --no-index --no-deps --no-compile --target "$site" "$wheels"/*.whl || exit 1
fi
export PYTHONPATH=$site:$PWD HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYTHONUNBUFFERED=1

"$python" - <<'CHECK' || exit 1
import sys
from importlib.metadata import version

import torch

if tuple(map(int, version("transformers").split(".")[:2])) < (5, 23):
    sys.exit(f"transformers must be 5.23 or newer, not {version('transformers')}: put its wheel into $WHEELS")
import hf_genai

hf_genai.GenaiGPTForCausalLM  # loads everything that the models need
print("torch", torch.__version__, "GPU:", torch.cuda.get_device_name() if torch.cuda.is_available() else "none")
CHECK
(nvidia-smi || echo "no nvidia-smi: no GPU") >"$out/machine.txt" 2>&1

part() { # name, seconds, command: runs it with a limit, its output in the folder
  local name=$1 seconds=$2
  shift 2
  timeout --kill-after=5 "$seconds" "$@" >"$out/$name.txt" 2>&1
  local code=$?
  [ $code = 0 ] || { echo "$name ended with $code: see $out/$name.txt"; status=1; }
  printf '%s: %s s so far\n' "$name" "$SECONDS"
}
figures() { # part, seconds after which it starts no variant, limit
  part "$1" "$3" "$python" benchmarks/gpu.py --part "$1" --seconds "$2" --json "$out/$1.json" "${smoke[@]}"
}
figures parity 90 120
figures train 110 140
figures decode 70 100
if [ ${#smoke[@]} = 0 ]; then
  part twins 60 "$python" benchmarks/kernel_twins.py --instructions GPU --device cuda --json "$out/twins.json"
  if "$python" -c "import pytest" 2>/dev/null; then
    part tests 50 "$python" -m pytest -q -p no:cacheprovider -m gpu tests
  fi
fi
grep -h -E "NO$|failed" "$out"/*.txt && status=1
exit $status
