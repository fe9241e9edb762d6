#!/usr/bin/env bash
# Hold requirements/*.txt against pyproject.toml: with the present pins, each Python must give the same files.
set -euo pipefail
cd "$(dirname "$0")/.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

for python in 3.11 3.12; do
  cp requirements/*.txt "$scratch/"
  requirements/compile.sh "$scratch" "$python"
  for file in requirements/*.txt; do
    if ! diff -u "$file" "$scratch/${file##*/}"; then
      echo "error: $file does not agree with pyproject.toml on Python $python" >&2
      echo "  → make requirements" >&2
      exit 1
    fi
  done
done
echo "requirements/*.txt agree with pyproject.toml (Python 3.11 and 3.12)"
