#!/usr/bin/env bash
# The main job on a photograph, set-up included: `bash scripts/demo.sh`. The checkpoint that ships is small and
# random, so its answer is noise; what counts is that it is the official implementation's noise, token for token.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh
environment .venv "test"
.venv/bin/python -m mlx_vlm.generate --model tests/data/checkpoint --image tests/data/media/temple.png \
    --prompt "Describe this image" --max-tokens 8 --temperature 0.0
.venv/bin/python scripts/recorded_answer.py photo_sliced
