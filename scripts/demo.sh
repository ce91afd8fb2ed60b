#!/usr/bin/env bash
# The main job, set-up included: `bash scripts/demo.sh` asks the small checkpoint that ships with the package what its
# sample picture says. Exit status 1 where the answer is another.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh
environment .venv "test"
export HF_HUB_OFFLINE=1  # the package brings all it needs
python=.venv/bin/python
model=$("$python" -m minicpmv46.demo)
picture=$("$python" -m minicpmv46.demo read.png)
command=("$python" -m mlx_vlm.generate --model "$model" --image "$picture" --prompt "What does it say?")
printf '%q ' "${command[@]}"
printf '\n'
answer=$("${command[@]}")
printf '%s\n' "$answer"
[ "$answer" = K7RM2 ]
