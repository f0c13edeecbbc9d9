#!/usr/bin/env bash
# checkpoint.sh - what a save costs its caller: Cairn, PyTorch, safetensors and Keras in turn.
#
#     bench/peers/checkpoint.sh [--megabytes X | --checkpoint FILE] [--dir DIR] [--rounds N] [--saves N]
#         [--only torch,safetensors,keras] [--json FILE] [--cairn PATH]
#
# All save the same amount of 32-bit weights and Adam moments, drawn in the same way, into the same
# directory. With --checkpoint the peers save the tensors of a checkpoint of Cairn's, whose decoding needs
# zstd; Cairn's own rows are always of made-up tensors, of the same size.
# "blocked" is how long the caller waits, "total" how long until everything is written, with those that
# sync also until it is durable. Each save begins when the one before has ended.
#
# TORCH_PYTHON, SAFETENSORS_PYTHON and KERAS_PYTHON name Pythons that have these packages; without them
# virtual environments are made in bench/peers/.venv from PyPI. Build Cairn first (./quickstart.sh does).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

only=torch,safetensors,keras
arguments=(--cairn "$here/../../build/cairn")
while [ $# -gt 0 ]; do
    case $1 in
    -h | --help)
        sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"
        exit 0
        ;;
    --only)
        only=${2:?--only needs a list}
        shift 2
        ;;
    *)
        arguments+=("$1")
        shift
        ;;
    esac
done

find_python() { # KIND MODULE PYTHON: prints a Python that can import MODULE
    local python=$3
    if [ -z "$python" ]; then
        python=$here/.venv/$1/bin/python
        if ! "$python" -c "import $2" >/dev/null 2>&1; then
            echo "making $here/.venv/$1 from PyPI" >&2
            python3 -m venv "$here/.venv/$1" >&2
            "$python" -m pip install -q --disable-pip-version-check -r "$here/requirements-$1.txt" >&2
        fi
    fi
    echo "$python"
}

for kind in ${only//,/ }; do
    case $kind in
    torch) arguments+=(--torch-python "$(find_python torch torch "${TORCH_PYTHON:-}")") ;;
    safetensors)
        arguments+=(--safetensors-python "$(find_python safetensors safetensors "${SAFETENSORS_PYTHON:-}")")
        ;;
    keras) arguments+=(--keras-python "$(find_python keras tensorflow "${KERAS_PYTHON:-}")") ;;
    *)
        echo "checkpoint.sh: --only $kind: expected torch, safetensors, keras" >&2
        exit 2
        ;;
    esac
done
python3 "$here/checkpoint.py" "${arguments[@]}"
