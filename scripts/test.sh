#!/usr/bin/env bash
# Set up a virtual environment and run all tests that need no torch: `bash scripts/test.sh [pytest arguments]`.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh
environment .venv "test"
# By file, since the tests of a file share what is slow to make.
[ $# -gt 0 ] || set -- --numprocesses 2 --dist loadfile
exec .venv/bin/python -m pytest "$@"
