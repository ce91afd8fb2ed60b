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
    "$python" -m venv --clear "$folder"
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check -e ".[$extras]" "$@"
    printf '%s\n' "$state" > "$folder/state"
}
