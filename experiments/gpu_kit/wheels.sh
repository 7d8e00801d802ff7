#!/usr/bin/env bash
# wheels.sh DIRECTORY NAME==VERSION …: unpacked wheels for Python 3.12, without debug symbols.
set -euo pipefail
into=$1 wheels=$(mktemp -d)
shift
trap 'rm -rf "$wheels"' EXIT
platforms=(manylinux1_x86_64 manylinux2014_x86_64)
for glibc in 17 24 27 28 31 34 35; do platforms+=("manylinux_2_${glibc}_x86_64"); done
.venv/bin/pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
  --abi cp312 --abi abi3 --abi none "${platforms[@]/#/--platform=}" --platform any --dest "$wheels" "$@"
mkdir -p "$into"
for wheel in "$wheels"/*.whl; do python3 -m zipfile -e "$wheel" "$into"; done
find "$into" -name '*.so*' -size +100k -exec strip --strip-unneeded {} \; 2>/dev/null || true
