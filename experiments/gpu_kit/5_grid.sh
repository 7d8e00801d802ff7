# Backlog 4, as long as $1 seconds allow.
. device/env.sh
PARAMEM_DEVICE=cuda timeout "${1:-240}" python3 -m benchmarks.endpoints --data device/datasets \
  --set squad-mini --concurrency 1 64 --top-k 20 64 --new-tokens 64 256 --ignore-eos \
  --requests 32 2>&1 | tee "$OUT/grid.log"
