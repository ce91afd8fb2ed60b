#!/usr/bin/env bash
# A server for this machine only: `bash examples/serve.sh MODEL [PORT] [more flags of mlx_vlm.server]`.
# Clients send the key that it prints, as `Authorization: Bearer KEY`.
set -euo pipefail
model=${1:?"which model? bash examples/serve.sh openbmb/MiniCPM-V-4.6"}
port=${2:-8080}
shift $(($# < 2 ? $# : 2))

# Without a key everyone who reaches the port may use the server, and so may every web page in a browser on this machine,
# since mlx-vlm allows all origins. In the environment the key is not in the list of processes, as with --api-key.
if [ -z "${MLX_VLM_SERVER_API_KEY:-}" ]; then
    MLX_VLM_SERVER_API_KEY=$(python -c 'import secrets; print(secrets.token_hex(24))')
    echo "export MLX_VLM_SERVER_API_KEY=$MLX_VLM_SERVER_API_KEY"
fi
export MLX_VLM_SERVER_API_KEY

# A request may name another model, which the server then downloads. So download this one now, and no other later.
[ -d "$model" ] ||
    python -c 'import sys; from mlx_vlm.utils import get_model_path; get_model_path(sys.argv[1])' "$model"
export HF_HUB_OFFLINE=1

# What a request may ask for; here 36 slices a picture, 256 frames a clip, 40 megapixels, 16 pictures or clips.
export MINICPMV46_LIMITS=${MINICPMV46_LIMITS:-"slices=36,frames=256,pixels=40000000,media=16"}

# --host: mlx-vlm's default, 0.0.0.0, is every network that the machine is in.
# --max-tokens: for requests that name none. --max-kv-size: tokens of prompt and answer together, whatever is asked for.
# --max-num-seqs: so many requests are answered at a time and the others wait, which bounds the memory.
exec python -m mlx_vlm.server --model "$model" --host 127.0.0.1 --port "$port" \
    --max-tokens 1024 --max-kv-size 32768 --max-num-seqs 16 "$@"
