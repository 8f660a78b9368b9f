# Sourced by bin/rmq and bin/check: finds a Python and keeps a virtual environment up to date with pyproject.toml.

# Prints the first interpreter on PATH that is 3.11 or newer and really runs: a pyenv shim may be there and fail, and
# some systems' python3 has no venv.
find_python() (
    IFS=:
    set -f
    for name in python3.11 python3.12 python3.13 python3.14 python3; do
        for dir in $PATH; do
            python=${dir:-.}/$name
            if [ -x "$python" ] &&
                "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
                printf '%s\n' "$python"
                exit 0
            fi
        done
    done
    exit 1
)

# make_env PROGRAM ROOT NAME EXTRAS: the environment ROOT/NAME has the checkout and its EXTRAS ('' or '[dev]') installed.
# Costs a comparison of two files when nothing changed.
make_env() {
    stamp=$2/$3/rmq-stamp
    if [ -x "$2/$3/bin/python" ] && cmp -s "$2/pyproject.toml" "$stamp/pyproject.toml" &&
        { read -r made_for <"$stamp/root"; } 2>/dev/null && [ "$made_for" = "$2" ]; then
        return 0
    fi
    if ! python=$(find_python); then
        echo "$1: needs Python 3.11 or newer with venv on PATH (Debian: apt install python3 python3-venv)" >&2
        exit 1
    fi
    "$python" "$2/bin/lib/makeenv.py" "$1" "$2" "$3" "$4" || exit 1
}
