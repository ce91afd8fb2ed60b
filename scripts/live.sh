#!/usr/bin/env bash
# Compare with the official implementation itself: `bash scripts/live.sh [pytest arguments]`. Installs torch (5.5 GB).
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh
environment .venv-live "test" torch==2.14.1 torchvision==0.29.1 transformers==5.23.0
[ $# -gt 0 ] || set -- --numprocesses 2
exec .venv-live/bin/python -m pytest tests/live "$@"
