# Sourced by the scripts beside it: `environment FOLDER EXTRA [REQUIREMENT…]` makes a virtual environment with this
# project in it, once for each state of pyproject.toml and list of requirements.
environment() {
    local folder=$1 extra=$2
    shift 2
    local python=${PYTHON:-python3}
    local extras=$extra
    # On macOS mlx brings its Metal backend itself; elsewhere the CPU backend has to be named.
    [ "$(uname)" = Darwin ] || extras="cpu,$extra"
    local state
    state=$(printf '%s\n' "$extras" "$@" "$("$python" --version)" "$(cksum < pyproject.toml)" "$(pwd)")
    if [ -f "$folder/state" ] && [ "$(cat "$folder/state")" = "$state" ]; then
        return
    fi
    if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        echo "$("$python" --version) is too old: Python 3.11 or newer is needed; PYTHON=/path/to/python3.12 names another" >&2
        return 1
    fi
    local packages
    packages=$("$python" -c 'import sys; print(f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages")')
    if [ "$folder" != .venv ] && [ -f .venv/state ] && [ -d ".venv/$packages/pip" ]; then
        # Most packages are those of .venv: they are linked or copied from it, pip among them, and pip changes what
        # differs. It replaces files and does not write into them, so .venv stays as it is.
        "$python" -m venv --clear --without-pip "$folder"
        cp -Rl ".venv/$packages/." "$folder/$packages" 2> /dev/null || cp -R ".venv/$packages/." "$folder/$packages"
    else
        "$python" -m venv --clear "$folder"
    fi
    # Python compiles what it imports; compiling all modules at installation takes longer.
    "$folder/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check -e ".[$extras]" "$@"
    printf '%s\n' "$state" > "$folder/state"
}
