# Backlog 1, 2 min.
xz -dc device/bundles.tar.xz | tar x -C /tmp
. device/env.sh
cp device/encoder.2 /tmp/kit/
python3 device/place_model.py encoder
PARAMEM_DEVICE=cuda timeout 300 python3 -m benchmarks.endpoints --data device/datasets \
  --set squad-mini --concurrency 1 8 64 256 --top-k 5 --requests 64 2>&1 | tee "$OUT/race.log"
run_tests tests/gpu/test_cuda.py -m model 2>&1 | tail -20
