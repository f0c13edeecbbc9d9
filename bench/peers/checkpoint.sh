#!/usr/bin/env bash
# checkpoint.sh - what a save costs its caller: Cairn, PyTorch, safetensors and Keras in turn.
#
#     bench/peers/checkpoint.sh [--megabytes X | --checkpoint FILE] [--dir DIR] [--rounds N] [--saves N]
#         [--step-ms X] [--only torch,safetensors,keras] [--json FILE] [--cairn PATH]
#
# All save the same tensors, 32-bit weights and Adam moments, into the same directory: Cairn makes them up and
# keeps a checkpoint of them, which the peers read; its decoding needs the zstd program. With --checkpoint the
# peers save the tensors of that one; Cairn's own rows are always of made-up tensors, then of the same size.
# They take turns, round by round, and each save begins when the one before has ended. What is done goes to
# standard error.
#
# Medians of the rounds, but the maximum is of all saves of all rounds, and so is a p99, which needs 100 of
# them; where each round has as many, the median of the rounds' own stands beside it.
#
# "blocked" is how long the caller waits, "total" how long until everything is written, with those that
# sync also until it is durable. Between two saves of each come the same steps of one core's arithmetic of
# --step-ms, as many as a save should need; where one of Cairn's needs more its round is made again, with
# more, and what it showed is in no figure: how often that was is printed. 10 ms, the default, is about a step
# of the default model on two cores. An earlier file of torch.save, safetensors and ModelCheckpoint is deleted
# before the clock starts, as DCP's folder is; BackupAndRestore and Cairn's sync+zstd replace or delete theirs
# in the call.
#
# Cairn's copy goes on beside the next step and must have ended before the update at that
# step's end: what the step waits for it is in "blocked". So the length of a step matters; larger models take
# longer, and hide more. Of the peers one can do that, too: DCP with a stager that copies in a thread and
# keeps its memory ("overlapped", PyTorch 2.9), with the same step and the same account. DCP's other rows are
# its defaults, which copy in the call.
#
# Restores are of a file in the page cache. Cairn's is read, verified and copied into the state. torch.load
# verifies nothing; "copied" is with the copy into tensors that are there. Its row is of a process that has
# not loaded before, as after a crash, "later ones" of the same process, whose memory can be used again.
# --saves 0 measures restores only.
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
