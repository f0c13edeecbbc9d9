#!/usr/bin/env bash
# keras_epoch.sh - time IMDB training epochs of Keras and of `cairn train` on this machine, side by side.
#
#     bench/peers/keras_epoch.sh ACLIMDB [--steps N] [--repeats N] [--cairn PATH] [--threads N]
#
# ACLIMDB is the unpacked data set (https://ai.stanford.edu/~amaas/data/sentiment/). A measurement is a
# whole epoch, or N steps with --steps. Keras and Cairn take turns, so that a slow minute of the machine
# hits both. KERAS_PYTHON names a Python that has keras and tensorflow; without it a virtual environment
# is made in bench/peers/.venv (about 1.5 GB from PyPI). Build Cairn first (./quickstart.sh does).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

if [ $# -lt 1 ] || [ "$1" = -h ] || [ "$1" = --help ]; then
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"
    [ $# -ge 1 ] && exit 0
    exit 2
fi

python=${KERAS_PYTHON:-}
if [ -z "$python" ]; then
    python=$here/.venv/bin/python
    if ! "$python" -c "import keras, tensorflow" >/dev/null 2>&1; then
        echo "making $here/.venv with tensorflow-cpu and keras from PyPI" >&2
        python3 -m venv "$here/.venv"
        "$python" -m pip install -q --disable-pip-version-check -r "$here/requirements.txt"
    fi
fi
exec "$python" "$here/keras_epoch.py" --cairn "$here/../../build/cairn" "$@"
