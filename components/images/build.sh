#!/usr/bin/env bash
# Builds the container images, and pushes them if asked.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: components/images/build.sh [OPTIONS]

Builds difflm:VERSION with torch for CPUs, and difflm:VERSION-gpu with torch for NVIDIA GPUs. Each
gets a second tag, with the git revision in place of the version.

Options:
  --only cpu|gpu        one image instead of both
  --registry PREFIX     put PREFIX/ before the names, such as registry.example.com/team
  --push                push the images after both were built; needs --registry
  --base IMAGE          another image of Python to build on, with a tag or a digest
  --torch-index URL     where the CPU image gets torch, for a mirror of the official index
  --pip-config FILE     a pip.conf for the build; it is in no image
  --allow-dirty         build although files are changed or not committed; cannot be pushed
  --dry-run             print the commands, run none
  -h, --help            show this
TEXT
}

fail() {
  echo "build.sh: $1" >&2
  exit "${2:-1}"
}

# The argument of an option: --option VALUE.
value_of() {
  [[ $# -ge 2 && -n "$2" && "$2" != -* ]] || fail "$1 needs a value; see --help" 2
  echo "$2"
}

run() {
  if [[ "$dry_run" == yes ]]; then
    printf '%q ' "$@" | sed 's/ $//'
    echo
  else
    "$@"
  fi
}

variants=(cpu gpu) registry='' push=no base='' torch_index='' pip_config='' allow_dirty=no dry_run=no
while [[ $# -gt 0 ]]; do
  case "$1" in
    --only)
      variants=("$(value_of "$@")")
      [[ "${variants[0]}" == cpu || "${variants[0]}" == gpu ]] \
        || fail "--only is cpu or gpu, not '${variants[0]}'" 2
      shift ;;
    --registry) registry="$(value_of "$@")"; shift ;;
    --base) base="$(value_of "$@")"; shift ;;
    --torch-index) torch_index="$(value_of "$@")"; shift ;;
    --pip-config) pip_config="$(value_of "$@")"; shift ;;
    --push) push=yes ;;
    --allow-dirty) allow_dirty=yes ;;
    --dry-run) dry_run=yes ;;
    -h | --help) usage; exit 0 ;;
    *) fail "unknown argument '$1'; see --help" 2 ;;
  esac
  shift
done

[[ -z "$registry" || "$registry" =~ ^[a-z0-9][a-z0-9._:/-]*[a-z0-9]$ && "$registry" != *//* ]] \
  || fail "--registry is a host and a path, such as registry.example.com/team, not '$registry'" 2
[[ -z "$base" || "${base##*/}" == *[:@]* && "$base" != *:latest ]] \
  || fail "--base needs a tag that stays the same, or a digest; found '$base'" 2
[[ -z "$pip_config" || -f "$pip_config" ]] || fail "--pip-config: there is no file '$pip_config'" 2
[[ "$push" == no || -n "$registry" ]] || fail "--push needs --registry" 2

[[ -z "$pip_config" ]] || pip_config="$(realpath "$pip_config")"
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
version="$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)"
[[ "$version" =~ ^[0-9A-Za-z.]+$ ]] || fail "pyproject.toml names no version of one line"
revision="$(git rev-parse HEAD)"
tag="${revision:0:12}"
if [[ -n "$(git status --porcelain)" ]]; then
  [[ "$allow_dirty" == yes ]] \
    || fail "files are changed or not committed (git status). Commit them, or add --allow-dirty."
  [[ "$push" == no ]] || fail "an image of changes that are not committed is not pushed"
  revision+=-dirty
  tag+=-dirty
fi

name="${registry:+$registry/}difflm"
pushed=()
for variant in "${variants[@]}"; do
  suffix=''
  arguments=(--file components/images/Dockerfile
    --build-arg "VERSION=$version" --build-arg "REVISION=$revision")
  if [[ "$variant" == gpu ]]; then
    suffix=-gpu
    arguments+=(--build-arg TORCH_INDEX=)
  elif [[ -n "$torch_index" ]]; then
    arguments+=(--build-arg "TORCH_INDEX=$torch_index")
  fi
  [[ -z "$base" ]] || arguments+=(--build-arg "PYTHON_IMAGE=$base")
  [[ -z "$pip_config" ]] || arguments+=(--secret "id=pip.conf,src=$pip_config")
  run env DOCKER_BUILDKIT=1 docker build "${arguments[@]}" \
    --tag "$name:$version$suffix" --tag "$name:$tag$suffix" .
  pushed+=("$name:$version$suffix" "$name:$tag$suffix")
done

if [[ "$push" == yes ]]; then
  for image in "${pushed[@]}"; do
    run docker push "$image"
  done
fi
