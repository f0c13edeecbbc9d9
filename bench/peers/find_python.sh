# find_python.sh - for the scripts beside it, which source it with their folder in `here`.
# shellcheck shell=bash disable=SC2154

find_python() { # KIND MODULE PYTHON: prints a Python that can import MODULE
    local python=$3
    if [ -z "$python" ]; then
        python=$here/.venv/$1/bin/python
        if ! "$python" -c "import $2" >/dev/null 2>&1; then
            echo "making $here/.venv/$1 from PyPI" >&2
            # Where the caller tests the result, `set -e` is off in here.
            python3 -m venv "$here/.venv/$1" >&2 || return 1
            "$python" -m pip install -q --disable-pip-version-check -r "$here/requirements-$1.txt" >&2 ||
                return 1
        fi
    fi
    echo "$python"
}
