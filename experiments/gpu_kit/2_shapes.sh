# Backlog 0c, 60 s; meanwhile the model is converted.
. device/env.sh
cp device/model.2 device/encoder.1 /tmp/kit/
python3 device/place_model.py model >"$OUT/model.log" 2>&1 &
timeout 220 python3 -m benchmarks.shapes --weights bf16 --batches 1 64 --memories 5 20 50 \
  --read 1 2 --slots 64 96 --out "$OUT/shapes.jsonl" 2>&1 | tee "$OUT/shapes.log"
wait
tail -1 "$OUT/model.log"
