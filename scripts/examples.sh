#!/usr/bin/env bash
# Run the tests of examples/ that scripts/test.sh skips, since they need Ray and LiteLLM, and the others that need
# more than the package itself: `bash scripts/examples.sh [pytest arguments]`.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh
environment .venv-examples "test,cluster"
export LITELLM_LOCAL_MODEL_COST_MAP=True  # else importing LiteLLM fetches a list of prices
# Where one of them is missing, its tests would be skipped.
.venv-examples/bin/python -c "import ipykernel, litellm, nbclient, openai, pypdfium2, ray.data"
[ $# -gt 0 ] || set -- --numprocesses 2 --dist loadfile
exec .venv-examples/bin/python -m pytest tests/examples/extras "$@"
