# Backlog 6, 3 min.
. device/env.sh
xz -dc device/vllm.tar.xz | tar x -C /tmp
export PYTHONPATH=/tmp/vllm-site:$PYTHONPATH VLLM_USE_FLASHINFER_SAMPLER=0
run_tests tests/integration/engines/test_real_vllm.py tests/gpu/test_vllm_cuda.py \
  >"$OUT/vllm.log" 2>&1
grep -E "passed|failed|^FAILED|^ERROR|^E  |s call|s setup" "$OUT/vllm.log" | tail -40
