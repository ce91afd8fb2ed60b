#!/usr/bin/env bash
# A server for this machine only: `bash examples/serve.sh MODEL [PORT]`, or with further flags of mlx_vlm.server after
# the port. Clients send the key that it prints: `Authorization: Bearer KEY`.
set -euo pipefail
model=${1:?"which model? bash examples/serve.sh openbmb/MiniCPM-V-4.6"}
port=${2:-8080}
shift $(($# < 2 ? $# : 2))

# Without a key everyone who reaches the port may use the server. In the environment it is not in the list of processes,
# as it would be with --api-key.
if [ -z "${MLX_VLM_SERVER_API_KEY:-}" ]; then
    MLX_VLM_SERVER_API_KEY=$(python -c 'import secrets; print(secrets.token_urlsafe(24))')
    echo "export MLX_VLM_SERVER_API_KEY=$MLX_VLM_SERVER_API_KEY"
fi
export MLX_VLM_SERVER_API_KEY

# What a request may ask for: here pages of 40 slices, clips of 256 frames, 40 megapixels, prompts of 32,768 tokens.
export MINICPMV46_LIMITS=${MINICPMV46_LIMITS:-"slices=40,frames=256,pixels=40000000,media=16,context=32768"}

# --host: mlx-vlm's default, 0.0.0.0, is every network that the machine is in. --max-tokens is what requests get that
# ask for none. --max-num-seqs: so many are answered at a time, the others wait, which bounds the memory.
exec python -m mlx_vlm.server --model "$model" --host 127.0.0.1 --port "$port" \
    --max-tokens 1024 --max-num-seqs 16 "$@"
