#!/usr/bin/env bash
# Installs the software and everything it needs into a virtual environment. The Dockerfile and
# `make images-check` both call this, so what is tested is what an image gets.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: components/images/install.sh STEP VENV

Steps:
  dependencies   create VENV and install the locked dependencies; reads only pyproject.toml and
                 requirements.lock, so that an image keeps this layer when only code changed
  project        install this project into VENV, from its sources; no network is used
  all            both

Environment:
  TORCH_INDEX    index that torch alone comes from, such as that of its CPU builds; when it is
                 empty, torch comes from where everything comes from
  PIP_*          pip's own settings
TEXT
}

# The Makefile locks the same extras (EXTRAS).
EXTRAS=eval,train,pretrained,ray,tracking,kfp,serve,client,s3,gcs
# The only packages that are published as sources. They are pure Python: DeepSpeed builds no
# operator when DS_BUILD_OPS is 0. Everything else must come as a wheel, so nothing is compiled.
SOURCES=deepspeed,kfp-server-api
export DS_BUILD_OPS=0
export PIP_DISABLE_PIP_VERSION_CHECK=1

install_dependencies() {
  local python="$1/bin/python" torch requirements
  python3 -m venv "$1"
  if [[ -n "${TORCH_INDEX:-}" ]]; then
    torch="$(sed -n 's/^torch==//p' requirements.lock)"
    # Alone and without its dependencies, so that no other package can come from that index.
    "$python" -m pip install --no-deps --index-url "$TORCH_INDEX" "torch==$torch"
  fi
  requirements="$(mktemp)"
  "$python" - "$EXTRAS" > "$requirements" <<'PYTHON'
import sys
import tomllib

with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)["project"]
print(*project["dependencies"], sep="\n")
for extra in sys.argv[1].split(","):
    print(*project["optional-dependencies"][extra], sep="\n")
PYTHON
  "$python" -m pip install --only-binary :all: --no-binary "$SOURCES" \
    --constraint requirements.lock --requirement "$requirements"
  rm "$requirements"
}

install_project() {
  # setuptools is there already: torch needs it at run time.
  "$1/bin/python" -m pip install --no-deps --no-index --no-build-isolation .
  "$1/bin/python" -m pip check
}

case "${1:-}" in
  -h | --help) usage; exit 0 ;;
esac
if [[ $# -ne 2 ]]; then
  usage >&2
  exit 2
fi

venv="$(realpath --canonicalize-missing "$2")"
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
case "$1" in
  dependencies) install_dependencies "$venv" ;;
  project) install_project "$venv" ;;
  all) install_dependencies "$venv"; install_project "$venv" ;;
  *)
    echo "install.sh: unknown step '$1'; expected dependencies, project or all" >&2
    exit 2
    ;;
esac
