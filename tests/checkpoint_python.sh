#!/bin/sh
# Runs checkpoint_python.py with the Python of a virtual environment that has numpy, safetensors and
# xxhash (tests/run.sh makes one). Without it the test is skipped, visibly: exit code 77.
if [ -z "$CAIRN_PYTHON" ]; then
    echo "SKIPPED: CAIRN_PYTHON is not set; it must name a python that has numpy, safetensors and xxhash"
    exit 77
fi
exec "$CAIRN_PYTHON" "$(dirname "$0")/checkpoint_python.py" "$@"
