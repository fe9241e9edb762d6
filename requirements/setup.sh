#!/usr/bin/env bash
# Make the virtual environment: requirements/setup.sh VENV EXTRA (cpu or gpu).
# Exactly what requirements/EXTRA.txt and requirements/dev.txt name, by digest, and lakemill itself, editable.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$1
extra=$2

say() { printf '%s\n' "$*" >&2; }
fail() {
  say "error: $1"
  say "  → $2"
  exit 1
}

is_right_python() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; }

find_python() {
  local name
  for name in ${PYTHON:-python3.11 python3.12 python3 python}; do
    if is_right_python "$name"; then
      "$name" -c 'import sys; print(sys.executable)'
      return
    fi
  done
  fail "no Python 3.11 or 3.12 found${PYTHON:+ ($PYTHON is another)}" \
    "install one (Debian 12: apt-get install -y python3 python3-venv) or name it: make setup PYTHON=/path/to/python"
}

# Installs Debian packages where that is possible without asking anybody.
apt_install() {
  local root=()
  command -v apt-get >/dev/null || return 1
  if [ "$(id -u)" -ne 0 ]; then
    sudo -n true 2>/dev/null || return 1
    root=(sudo -n)
  fi
  "${root[@]}" apt-get update -qq >/dev/null &&
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$@" >/dev/null
}

make_venv() {
  local python log
  python=$(find_python)
  log=$(mktemp)
  if "$python" -m venv "$venv" >"$log" 2>&1; then
    rm -f "$log"
    return
  fi
  # Debian keeps ensurepip in a package of its own, one for each Python.
  say "python -m venv does not work yet; bringing $(basename "$python")-venv"
  apt_install "python$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv" || true
  "$python" -m venv --clear "$venv" || fail "$(cat "$log")" "apt-get install -y python3-venv"
  rm -f "$log"
}

# uv comes by the digest that dev.txt holds, like everything else.
bring_uv() {
  local wanted
  [ -x "$venv/bin/uv" ] && return
  wanted=$(mktemp --suffix=.txt)
  awk '/^uv==/ {on=1} on {print} on && !/\\$/ {exit}' requirements/dev.txt >"$wanted"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r "$wanted"
  rm -f "$wanted"
}

install_packages() {
  local uv=("$venv/bin/uv" pip)
  local python=(--python "$venv/bin/python")
  local quiet=()
  [ -t 2 ] || quiet=(--quiet)
  say "Installing the packages of requirements/$extra.txt and requirements/dev.txt: some minutes, 8 GB"
  # `sync` also takes away what the files do not name, such as the other engine after EXTRA was changed.
  "${uv[@]}" sync "${quiet[@]}" "${python[@]}" --require-hashes --compile-bytecode "requirements/$extra.txt" requirements/dev.txt
  "${uv[@]}" install "${python[@]}" --quiet --no-deps --no-build-isolation --editable .
}

bring_java() {
  "$venv/bin/python" -c 'from lakemill import java; java.find()' 2>/dev/null && return
  say "no Java 17 or later: bringing openjdk-17-jre-headless"
  apt_install openjdk-17-jre-headless || true
  # Says what was found and what would help.
  "$venv/bin/python" -c '
import sys
from lakemill import errors, java
try:
    java.find()
except errors.SetupError as error:
    sys.exit(f"error: {error}")'
}

[ -x "$venv/bin/python" ] || make_venv
bring_uv
install_packages
bring_java
