#!/usr/bin/env bash
# Build wheel and sdist into dist/, install each in a fresh environment and ask the demo: `bash scripts/package.sh`.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh
environment .venv "test"
rm -rf dist
.venv/bin/python -m hatchling build
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT

tar -tzf dist/minicpmv46-*.tar.gz | grep -v '/$' | cut -d/ -f2- | grep -vx PKG-INFO | sort > "$place/packed"
for needed in minicpmv46-hook.pth LICENSE README.md pyproject.toml minicpmv46/demo/checkpoint/model.safetensors tests/conftest.py; do
    grep -qxF "$needed" "$place/packed" || { echo "the sdist lacks $needed"; exit 1; }
done
# What git does not know came from this machine.
git ls-files | sort > "$place/known"
[ -z "$(comm -23 "$place/packed" "$place/known")" ] || { echo "the sdist has what is not committed:"; comm -23 "$place/packed" "$place/known"; exit 1; }

extra=""
[ "$(uname)" = Darwin ] || extra="[cpu]"
"${PYTHON:-python3}" -m venv "$place/venv"
python="$place/venv/bin/python"
ask() {
    (cd "$place" && HF_HUB_OFFLINE=1 "$python" -m mlx_vlm.generate --model "$("$python" -m minicpmv46.demo)" \
        --image "$("$python" -m minicpmv46.demo read.png)" --prompt "What does it say?")
}
"$python" -m pip install --quiet --disable-pip-version-check "$(ls "$PWD"/dist/*.whl)$extra"
[ "$(ask)" = K7RM2 ] || { echo "the wheel answers wrong"; exit 1; }
"$python" -m pip install --quiet --disable-pip-version-check --force-reinstall --no-deps "$(ls "$PWD"/dist/*.tar.gz)"
[ "$(ask)" = K7RM2 ] || { echo "the sdist answers wrong"; exit 1; }
echo "wheel and sdist answer right: $(cd dist && echo *)"
