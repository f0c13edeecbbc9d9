#!/bin/sh
# python.sh MODULES SCRIPT ARGUMENTS...: runs SCRIPT with the Python of a virtual environment that has MODULES
# (separated by commas). tests/run.sh makes one and names it in CAIRN_PYTHON. Without it, or without one of
# the modules, the test is skipped, visibly: exit code 77.
if [ -z "$CAIRN_PYTHON" ]; then
    echo "SKIPPED: CAIRN_PYTHON is not set; it must name a python that has $1"
    exit 77
fi
"$CAIRN_PYTHON" - "$1" <<'EOF' || exit 77
import importlib.util, sys
missing = [name for name in sys.argv[1].split(",") if importlib.util.find_spec(name) is None]
if missing:
    sys.exit(f"SKIPPED: {sys.executable} has no {', '.join(missing)} (tests/requirements*.txt)")
EOF
modules=$1
shift
# On the CPU, whatever else is there: its results are the ones that tolerances were set for.
export CUDA_VISIBLE_DEVICES='' TF_CPP_MIN_LOG_LEVEL=3 PYTHONDONTWRITEBYTECODE=1
# Keras takes PyTorch where that is what the test imports anyway: both in one process do not agree.
case "$modules" in
*torch*) export KERAS_BACKEND=torch ;;
*) export KERAS_BACKEND=tensorflow ;;
esac
exec "$CAIRN_PYTHON" "$@"
