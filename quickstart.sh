#!/usr/bin/env bash
# quickstart.sh - build Cairn and watch it train, be stopped, go on, evaluate and predict.
#
#     ./quickstart.sh
#
# Installs missing Debian packages (as root or with sudo), builds ./build, and runs the main job on the
# built-in `demo` data set in a fresh temporary directory. Nothing else on the machine is changed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=cmake/packages.sh
. cmake/packages.sh

say() { printf '\n== %s\n' "$*"; }
fail() {
    printf '\nquickstart.sh: FAILED: %s\n' "$*" >&2
    exit 1
}

# ---- packages and build ----

say "Looking for what the build needs"
packages_need_build
packages_install || exit 1
packages_check_cmake || exit 1
echo "everything is there"

# The CUDA backend takes minutes to compile, so only where a device can run it.
cuda=off
if [ ! -e /dev/nvidia0 ] && ! nvidia-smi -L >/dev/null 2>&1; then
    echo "no NVIDIA GPU: building for the CPU"
elif ! command -v nvcc >/dev/null && [ ! -x /usr/local/cuda/bin/nvcc ]; then
    echo "an NVIDIA GPU, but no CUDA toolkit (nvcc): building for the CPU"
else
    cuda=auto
    echo "an NVIDIA GPU and a CUDA toolkit: building the CUDA backend too, if all that it needs is there"
fi

say "Building into ./build (Release)"
build_log=$(mktemp)
trap 'rm -f "$build_log"' EXIT
build() {
    cmake -S . -B build -DCMAKE_BUILD_TYPE=Release -DCAIRN_SANITIZE= -DCAIRN_TESTS=OFF \
        -DCAIRN_CUDA="$cuda" &&
        cmake --build build --parallel "$(nproc)"
}
echo "\$ cmake -S . -B build -DCAIRN_CUDA=$cuda && cmake --build build"
if ! build >"$build_log" 2>&1 </dev/null; then
    tail -n 40 "$build_log" >&2
    fail "the build (its last lines are above)"
fi
echo "built: build/cairn"
grep -m 1 '^--   CUDA ' "$build_log" | sed 's/^-- *//'

# ---- the main job ----

cairn=build/cairn
model_dir=$(mktemp -d "${TMPDIR:-/tmp}/cairn-quickstart-XXXXXX")
train=("$cairn" train --data demo --model-dir "$model_dir"
    --learning-rate 1e-3 --epochs 4 --save-checkpoints-steps 50)
started=$SECONDS

trainer=
stop_trainer() {
    [ -z "$trainer" ] || kill -KILL "$trainer" 2>/dev/null || true
    rm -f "$build_log"
}
trap stop_trainer EXIT

# Show a command as one could type it.
show() {
    printf '$'
    local word
    for word in "$@"; do
        case "$word" in
        *[!A-Za-z0-9_./=:,-]*) printf " '%s'" "$word" ;;
        *) printf ' %s' "$word" ;;
        esac
    done
    printf '\n'
}

# expect CODE COMMAND...: show it, run it, insist on its exit code.
expect() {
    local wanted=$1 code=0
    shift
    show "$@"
    "$@" </dev/null || code=$?
    [ "$code" -eq "$wanted" ] || fail "'$2' ended with exit code $code, not $wanted"
}

say "1. Train, and send SIGTERM in the middle, as a cluster does before it takes the machine away"
show "${train[@]}"
"${train[@]}" </dev/null &
trainer=$!
# The middle: one epoch is in the history (its header and one row), three are to come. No fixed sleep,
# so that slow and fast machines stop at about the same place.
until [ -f "$model_dir/history.csv" ] && [ "$(wc -l <"$model_dir/history.csv")" -ge 2 ]; do
    kill -0 "$trainer" 2>/dev/null || break
    sleep 0.01
done
code=0
kill -TERM "$trainer" 2>/dev/null || true
wait "$trainer" || code=$?
trainer=
[ "$code" -eq 75 ] || fail "training ended with exit code $code, not 75, after SIGTERM"
echo "exit code 75: stopped by a signal after a good save; the same command goes on from there"

say "2. The same command again: it finds its newest checkpoint and continues, bit for bit"
expect 0 "${train[@]}"

say "3. What is in the model directory"
expect 0 "$cairn" checkpoints --model-dir "$model_dir"

say "4. Its learning curves"
expect 0 "$cairn" plot --model-dir "$model_dir" --output none

say "5. Evaluate on the test part of the data"
expect 0 "$cairn" evaluate --data demo --model-dir "$model_dir"

say "6. Predict three sentences (one per line on standard input)"
sentences=("The music was brilliant and the plot was never boring."
    "The acting was not good."
    "At first the story was dull, but the ending was superb.")
printf "\$ printf '%%s\\\\n'"
printf " '%s'" "${sentences[@]}"
printf ' | %s predict --model-dir %s\n' "$cairn" "$model_dir"
printf '%s\n' "${sentences[@]}" | "$cairn" predict --model-dir "$model_dir" ||
    fail "predict ended with exit code $?"

say "Done in $((SECONDS - started)) s after the build. Checkpoints and history: $model_dir"
