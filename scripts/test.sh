#!/usr/bin/env bash
# Set up a virtual environment and run all tests that need no torch: `bash scripts/test.sh [pytest arguments]`.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh
environment .venv "test"
exec .venv/bin/python -m pytest "$@"
