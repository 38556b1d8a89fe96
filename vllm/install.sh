#!/usr/bin/env bash
# Builds the virtual environment: torch (CPU), the official vLLM without kernels, the pinned rest, this package.
# usage: vllm/install.sh [VENV]      (default .venv, made anew; PYTHON names the interpreter)
# VLLM names another version than the pinned one in vllm/VERSION; vllm/requirements-$VLLM.txt then holds what it needs
# other than requirements.txt, where there is such a file.
# It ends at once when VENV/.complete says that these very pins are installed. Anything else, an interrupted
# run among it, is built again from an empty environment: pip cannot tell half an installation from a whole one.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${1:-.venv}
case $venv in /*) ;; *) venv=$PWD/$venv ;; esac
python=${PYTHON:-python3}
vllm_version=${VLLM:-$(cat vllm/VERSION)}
torch_version=2.13.0
pip_options=(--quiet --disable-pip-version-check --no-deps)

pin_files=(vllm/build-requirements.txt vllm/requirements.txt)
overlay=vllm/requirements-$vllm_version.txt
[ ! -e "$overlay" ] || pin_files+=("$overlay")

pins=$( (echo "$vllm_version"; cat vllm/install.sh "${pin_files[@]}"; sed -n '/^\[build-system\]/,/^\[tool\./p' pyproject.toml) | cksum)
if [ "$(cat "$venv/.complete" 2>/dev/null)" = "$pins" ]; then
    exec "$venv/bin/vllm-sim" model export --quiet  # at once, unless the model was removed or its recipe is newer
fi

say() { printf 'set-up: %s\n' "$*" >&2; }

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    say "$("$python" --version 2>&1) is too old: Python 3.11 or newer is needed (PYTHON=... names another one)"; exit 1; }

say "virtual environment in $venv"
rm -f "$venv/.complete"
"$python" -m venv --clear "$venv"
pip() { "$venv/bin/python" -m pip "$@"; }

# On Linux the plain name torch may be a CUDA build of several GB. A dry run reads its metadata only: a build that
# needs nothing from NVIDIA is a CPU build already; otherwise PyTorch's own index has one.
say "torch $torch_version, CPU build"
cpu_build=(torch=="$torch_version")
report=$(pip install "${pip_options[@]}" --dry-run --ignore-installed --report - "${cpu_build[@]}" 2>/dev/null || echo '{"install": []}')
"$venv/bin/python" - "$report" <<'PY' || cpu_build=(torch=="$torch_version+cpu" --index-url https://download.pytorch.org/whl/cpu)
import json, sys
found = json.loads(sys.argv[1])["install"]
needs = [need for item in found for need in item["metadata"].get("requires_dist", [])]
on_this_platform = [need for need in needs if sys.platform == "linux" or "Linux" not in need]
sys.exit(not found or any(need.startswith(("nvidia", "cuda", "triton")) for need in on_this_platform))
PY
pip install "${pip_options[@]}" "${cpu_build[@]}"
pip install "${pip_options[@]}" -r vllm/build-requirements.txt

# VLLM_TARGET_DEVICE=empty builds no kernel. The version is overridden because it would become X.Y.Z+empty, which
# pip rejects. No cache: pip would hand this build to others, or another build to us, under the same name.
# The optional Rust front end is skipped when rustc does not answer; a compiler that does would take minutes.
say "vLLM $vllm_version, built from its source distribution without kernels"
mkdir -p "$venv/no-rust"
printf '#!/bin/sh\nexit 1\n' | tee "$venv/no-rust/rustc" > "$venv/no-rust/cargo"
chmod +x "$venv/no-rust/rustc" "$venv/no-rust/cargo"
PATH="$venv/no-rust:$venv/bin:$PATH" VLLM_TARGET_DEVICE=empty VLLM_VERSION_OVERRIDE=$vllm_version \
    pip install "${pip_options[@]}" --no-cache-dir --no-build-isolation --no-binary vllm vllm==$vllm_version

say "the pinned rest"
pip install "${pip_options[@]}" -r vllm/requirements.txt
[ ! -e "$overlay" ] || pip install "${pip_options[@]}" -r "$overlay"
pip install "${pip_options[@]}" --no-build-isolation --editable .

say "the exported model"
"$venv/bin/vllm-sim" model export
printf '%s' "$pins" > "$venv/.complete"
say "done"
