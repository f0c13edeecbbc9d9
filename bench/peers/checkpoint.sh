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
# shellcheck source=bench/peers/find_python.sh
. "$here/find_python.sh"

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

for kind in ${only//,/ }; do
    case $kind in
    torch) python=$(find_python torch torch "${TORCH_PYTHON:-}") || exit 1 ;;
    safetensors) python=$(find_python safetensors safetensors "${SAFETENSORS_PYTHON:-}") || exit 1 ;;
    keras) python=$(find_python keras tensorflow "${KERAS_PYTHON:-}") || exit 1 ;;
    *)
        echo "checkpoint.sh: --only $kind: expected torch, safetensors, keras" >&2
        exit 2
        ;;
    esac
    arguments+=("--$kind-python" "$python")
done
python3 "$here/checkpoint.py" "${arguments[@]}"
