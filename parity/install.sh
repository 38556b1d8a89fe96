#!/usr/bin/env bash
# Builds the second virtual environment: vLLM with real CPU kernels, the same pins as the first one, this package.
# usage: parity/install.sh [VENV]      (default .venv-parity; PYTHON names the interpreter)
# It ends at once when VENV/.complete says that these very pins are installed; else it builds from nothing. A wheel that
# was downloaded is in pip's cache, so an interrupted run does not download it again. Nothing is left for pip to resolve:
# torchvision, torchaudio and torchcodec, whose builds do not match and break vLLM, never come in.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${1:-.venv-parity}
torch=torch==2.13.0+cpu
pip_options=(--quiet --disable-pip-version-check --no-deps)

pins=$( (cat parity/install.sh parity/requirements.txt vllm/build-requirements.txt vllm/requirements.txt; sed -n '/^\[build-system\]/,/^\[tool\./p' pyproject.toml) | cksum)
[ "$(cat "$venv/.complete" 2>/dev/null)" != "$pins" ] || exit 0

say() { printf 'parity set-up: %s\n' "$*" >&2; }
say "virtual environment in $venv, with a CPU build of vLLM"
rm -f "$venv/.complete"
"${PYTHON:-python3}" -m venv --clear "$venv"
pip() { "$venv/bin/python" -m pip "$@"; }
pip install "${pip_options[@]}" "$torch" 2>/dev/null ||
    pip install "${pip_options[@]}" "$torch" --index-url https://download.pytorch.org/whl/cpu
pip install "${pip_options[@]}" -r vllm/build-requirements.txt
pip install "${pip_options[@]}" -r vllm/requirements.txt -r parity/requirements.txt
pip install "${pip_options[@]}" --no-build-isolation --editable .
printf '%s' "$pins" > "$venv/.complete"
say "done"
