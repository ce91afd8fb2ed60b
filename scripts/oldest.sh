#!/usr/bin/env bash
# The tests that reach into mlx-vlm, with the oldest release that pyproject.toml allows: `bash scripts/oldest.sh [pytest arguments]`.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh
oldest=$(sed -n 's/.*"mlx-vlm>=\([0-9.]*\)".*/\1/p' pyproject.toml)
environment .venv-oldest "test" "mlx-vlm==$oldest"
.venv-oldest/bin/python -c "import mlx_vlm, sys; assert mlx_vlm.__version__ == '$oldest', mlx_vlm.__version__"
# Without arguments: what differs between releases of mlx-vlm. `bash scripts/oldest.sh tests` runs everything.
[ $# -gt 0 ] || set -- --numprocesses 2 --dist loadfile tests/registration/test_table.py tests/test_python_api.py \
    tests/test_chat.py tests/test_vision_cache.py tests/server/test_server_endpoints.py \
    tests/server/test_server_options.py tests/server/test_server_load.py tests/server/test_server_tools.py
exec .venv-oldest/bin/python -m pytest "$@"
