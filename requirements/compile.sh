#!/usr/bin/env bash
# Write the hashed requirement files into a folder: requirements/compile.sh FOLDER PYTHON_VERSION [--upgrade].
# Pins already in that folder are kept where pyproject.toml still allows them.
set -euo pipefail
cd "$(dirname "$0")/.."
out=$1
python=$2
shift 2
uv=${UV:-.venv/bin/uv}

# What pip is told by its own environment (such as a folder of wheels) has no place in these files.
unset "${!PIP_@}" UV_FIND_LINKS UV_CONSTRAINT UV_OVERRIDE
export UV_CUSTOM_COMPILE_COMMAND="make requirements"

compile() {
  local name=$1
  shift
  "$uv" pip compile pyproject.toml --quiet --generate-hashes \
    --python-version "$python" --python-platform x86_64-unknown-linux-gnu \
    --no-emit-index-url --no-emit-find-links --no-annotate \
    --output-file "$out/$name.txt" "$@" >/dev/null
}

# dev goes with cpu and with gpu, base is a part of both; cpu and gpu never meet.
compile cpu --extra cpu "$@"
compile dev --extra dev --constraints "$out/cpu.txt" "$@"
compile base --constraints "$out/cpu.txt" "$@"
compile gpu --extra gpu --constraints "$out/dev.txt" "$@"
