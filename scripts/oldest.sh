#!/usr/bin/env bash
# The tests that reach into mlx-vlm, with the oldest release that pyproject.toml allows: `bash scripts/oldest.sh [pytest arguments]`.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh
oldest=$(sed -n 's/.*"mlx-vlm>=\([0-9.]*\)".*/\1/p' pyproject.toml)
environment .venv-oldest "test" "mlx-vlm==$oldest"
.venv-oldest/bin/python -c "import mlx_vlm, sys; assert mlx_vlm.__version__ == '$oldest', mlx_vlm.__version__"
# Sizes, pixels and the golden files are the same code whatever mlx-vlm is beside it.
[ $# -gt 0 ] || set -- --numprocesses 2 --dist loadfile --ignore tests/test_parity_golden.py --ignore tests/test_processor.py \
    --ignore tests/test_processor_files.py --ignore tests/test_config.py --ignore tests/test_video.py --ignore tests/test_prompt.py \
    --ignore tests/test_gated_delta.py --ignore tests/test_checkpoint_errors.py
exec .venv-oldest/bin/python -m pytest "$@"
