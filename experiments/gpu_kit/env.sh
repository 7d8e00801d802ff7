# Sourced by the others, in the root of the checkout on the GPU machine.
export PYTHONPATH=/tmp/site:$PWD PARAMEM_CACHE=/tmp/cache PYTHONUNBUFFERED=1
export TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 PYTHONWARNINGS=ignore OUT=${OUT:-/tmp/out}
mkdir -p /tmp/kit /tmp/cache "$OUT"
[ ! -d /tmp/bundles ] || cp -r /tmp/bundles memory_model/
run_tests() { python3 -m pytest -q -p no:cacheprovider -o addopts= --durations=8 "$@"; }
