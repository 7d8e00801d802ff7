#!/usr/bin/env bash
# vLLM 0.24 (for torch 2.11) for one kind of GPU as device/vllm.tar.xz, 42 MB instead of 280.
# vllm_packages.txt: what it imports without a server, beside packages.txt. 0.24 pins an older
# FastAPI, which only its own server needs.
set -euo pipefail
cd "$(dirname "$0")/../.."
kit=experiments/gpu_kit work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
site=$work/vllm-site
# shellcheck disable=SC2046 # one word each
bash $kit/wheels.sh "$site" vllm==0.24.0 $(cat $kit/vllm_packages.txt)
# servers in Rust, FlashAttention 2 and FP8 products are for others
rm -rf "$site"/vllm/vllm-rs "$site"/vllm/vllm_flash_attn/_vllm_fa2* "$site"/vllm/third_party/deep_gemm
rm -rf "$site"/tvm_ffi/include "$site"/tvm_ffi/3rdparty
find "$site/vllm" -name '*.so' -exec python3 $kit/keep_architecture.py 90 {} +
tar c -C "$work" vllm-site | xz -6 -T2 >device/vllm.tar.xz
ls -l device/vllm.tar.xz
