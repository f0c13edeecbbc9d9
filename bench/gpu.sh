#!/usr/bin/env bash
# gpu.sh - check and measure Cairn on this machine's GPU: one command, one JSON file and a table.
#
#     bench/gpu.sh [--data PATH] [--quick] [--native] [--output FILE] [--build DIR]
#
# Sections, in this order; one that fails is recorded with its error and does not stop the others:
#     machine    driver, toolkit, card
#     build      Release with CAIRN_CUDA=on into --build (default build-gpu); about 5 minutes on two
#                cores, 1 with --native (this card's architecture only); nothing when it is up to date
#     tests      the CUDA tests (operations, snapshots, golden training) on the device
#     process    whole runs of the program on the device: resume, kill, stop signals
#     memcheck   the CUDA tests under compute-sanitizer, where it is installed; at most 3 minutes
#     racecheck  each, and "complete": false where that was not enough
#     ops        operations and steps, fused kernels against cuDNN, saves (`cairn bench ops`)
#     epochs     `cairn train` on --data (default demo): graph on and off, fused and cuDNN
#     saves      `cairn train` with a save every few steps: how long training stood still
#     checkpoint what a save costs in each way, by a copy on the device first or directly to the host
#                (`cairn bench checkpoint`)
#     torch      PyTorch's nn.LSTM on the same lengths, where it is installed (TORCH_PYTHON names a
#                Python that has it)
# Expected after the build: about 11 minutes, most of it for the sanitizers and `process`.
#
#     --data PATH    what `cairn train --data` takes, e.g. aclImdb
#     --quick        small sizes and few repeats, to see that all of it works
#     --sections A,B only these
#     --output FILE  default bench/results/gpu-<card>-<date>.json
#     --device sim --build DIR   the test of this script: runs on a build with CAIRN_CUDA=sim, marks the
#                    file as simulated and never writes below bench/results
#
# Exit code 0: nothing failed; 1: a section failed; 2: usage; 69: no GPU. CAIRN_GPU_FAIL=SECTION makes a
# section fail on purpose.
set -uo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
report=$root/bench/gpu_report.py
sections=(machine build tests process memcheck racecheck ops epochs saves checkpoint torch)

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; }
fail_usage() {
    echo "bench/gpu.sh: $1; --help tells what it knows" >&2
    exit 2
}

# ---- options ----

data=demo quick=0 native=0 output='' device=cuda build='' only=''
while [ $# -gt 0 ]; do
    case "$1" in
    --quick) quick=1 ;;
    --native) native=1 ;;
    -h | --help)
        usage
        exit 0
        ;;
    --data | --output | --device | --build | --sections)
        [ $# -ge 2 ] || fail_usage "$1 needs a value"
        case "$1" in
        --data) data=$2 ;;
        --output) output=$2 ;;
        --device) device=$2 ;;
        --build) build=$2 ;;
        --sections) only=$2 ;;
        esac
        shift
        ;;
    *) fail_usage "unknown option '$1'" ;;
    esac
    shift
done
case "$device" in
cuda) build=${build:-$root/build-gpu} ;;
sim)
    [ -n "$build" ] || fail_usage "--device sim needs --build DIR, a build with CAIRN_CUDA=sim"
    output=${output:-${TMPDIR:-/tmp}/cairn-gpu-simulated.json}
    ;;
*) fail_usage "--device is cuda or sim, not '$device'" ;;
esac
for name in ${only//,/ }; do
    [[ " ${sections[*]} " = *" $name "* ]] || fail_usage "there is no section '$name'"
done
[ "$data" = demo ] || [ -e "$data" ] || fail_usage "--data $data: no such file or folder"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
build=$(realpath -m "$build")
if [ -n "$output" ]; then
    output=$(realpath -m "$output")
    if [ "$device" = sim ] && [[ "$output" = "$root"/bench/results/* ]]; then
        fail_usage "figures of the simulated device do not belong below bench/results"
    fi
fi
cairn=$build/cairn

# ---- what the sections share ----

# skip REASON: leave the section, which then counts as skipped.
skip() {
    echo "$1"
    exit 77
}

need_build() {
    [ -x "$cairn" ] || { echo "there is no $cairn: the section build makes it"; exit 1; }
}

# run_ctest NAME ARGUMENTS...: the results as the section's data.
run_ctest() {
    local name=$1 status=0
    shift
    ctest --test-dir "$build" --output-on-failure --no-tests=error --timeout 300 \
        --output-junit "$work/$name.xml" "$@" || status=$?
    python3 "$report" tests "$work/$name.xml" >"$work/$name.json" || return 1
    return "$status"
}

# train DIRECTORY ARGUMENTS...: a training run on the device.
train() {
    local directory=$1
    shift
    echo "cairn train $*"
    "$cairn" train --device cuda --data "$train_data" --validation-data none --progress none \
        --model-dir "$directory" "${train_sizes[@]}" "$@" 2>&1
}

# ---- sections: each runs in a subshell, its output is its log, $work/<name>.json its data ----

section_machine() {
    need=(python3 cmake)
    [ "$device" = sim ] || need+=(nvidia-smi)
    for program in "${need[@]}"; do
        command -v "$program" || { echo "there is no $program"; exit 1; }
    done
    if [ "$device" = cuda ]; then
        local fields=name,driver_version,compute_cap,memory.total,clocks.max.sm,clocks.max.memory
        fields+=,power.limit,pcie.link.gen.max,pcie.link.width.max,persistence_mode
        nvidia-smi --id=0 --query-gpu="$fields" --format=csv >"$work/card.csv" || exit 1
        cat "$work/card.csv"
        nvcc --version 2>/dev/null || /usr/local/cuda/bin/nvcc --version 2>/dev/null ||
            echo "nvcc is not on the PATH; CMake may find it"
    fi >"$work/machine.txt"
    cat "$work/machine.txt"
    python3 "$report" machine "$work" >"$work/machine.json"
}

section_build() {
    if [ "$device" = cuda ]; then
        local architectures=''
        [ "$native" -eq 0 ] || architectures=$(python3 "$report" architecture "$work/card.csv")
        cmake -S "$root" -B "$build" -DCMAKE_BUILD_TYPE=Release -DCAIRN_CUDA=on -DCAIRN_TESTS=ON \
            -DCAIRN_SANITIZE= -DCAIRN_CUDA_ARCHITECTURES="$architectures" &&
            cmake --build "$build" --parallel "$(nproc)" || exit 1
    fi
    need_build
    "$cairn" --version >"$work/version.txt" || exit 1
    cat "$work/version.txt"
    # What the script says about the figures must be what the program says about itself.
    local simulated=0
    ! grep -qi simulated "$work/version.txt" || simulated=1
    if [ "$simulated" -ne "$([ "$device" = sim ] && echo 1 || echo 0)" ]; then
        echo "--device $device does not fit the build in $build"
        exit 1
    fi
    python3 "$report" text "$work/version.txt" >"$work/build.json"
}

section_tests() {
    need_build
    local select='(^|\.)(cuda_(ops|golden|snapshot)|library_cuda)_test\.'
    [ "$quick" -eq 0 ] || select='(^|\.)cuda_ops_test\..*/16$' # those at hidden size 16
    run_ctest tests -L gpu -R "$select"
}

section_process() {
    need_build
    # Ordinary tests of the program, with every `cairn` that they start on the device.
    local select='^(resume_test|resume_phase_test|kill_loop_test|signals_process_test|disk_full_test'
    select+='|damaged_checkpoint_process_test|keras_checkpoint_process_test)\.'
    [ "$quick" -eq 0 ] || select='^keras_checkpoint_process_test\.Files\.(FreshRun|SavesWhen)'
    CAIRN_TEST_DEVICE=cuda run_ctest process --parallel 4 -R "$select"
}

sanitizer() {
    need_build
    [ "$device" = cuda ] || skip "the simulated device checks this by itself"
    local tool
    tool=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null) ||
        skip "compute-sanitizer is not installed (it comes with the CUDA toolkit)"
    local filter='*' complete=true begin=$SECONDS
    [ "$quick" -eq 0 ] || filter='*Head*:*Adam*:*Norm*'
    : >"$work/$1.txt"
    for test in ops words products packed model snapshot golden; do
        local status=0 left=$((180 - SECONDS + begin))
        [ "$left" -gt 0 ] || { complete=false; break; }
        [ "$test" != ops ] || left=90 # the others have their turn as well
        echo "$1: cuda_${test}_test"
        timeout "$left" "$tool" --tool "$1" --error-exitcode 9 --log-file "$work/$1.part" \
            "$build/tests/cuda_${test}_test" --gtest_filter="$filter" || status=$?
        cat "$work/$1.part" >>"$work/$1.txt"
        [ "$status" -ne 124 ] || complete=false
        [ "$status" -eq 0 ] || [ "$status" -eq 124 ] || exit "$status"
    done
    # What it has found is in its log even where it was stopped before its end.
    if grep -E '^=+ *(Error|Warning|Invalid|Program hit|Race|Uninitialized)' "$work/$1.txt"; then
        exit 1
    fi
    printf '{"complete": %s}\n' "$complete" >"$work/$1.json"
}
section_memcheck() { sanitizer memcheck; }
section_racecheck() { sanitizer racecheck; }

section_ops() {
    need_build
    local arguments=(--device cuda --json "$work/ops.json") status=0
    if [ "$quick" -eq 1 ]; then
        arguments+=(--quick)
    else
        arguments+=(--repeats 7)
    fi
    "$cairn" bench ops "${arguments[@]}" || status=$?
    [ -s "$work/ops.json" ] || exit 1
    python3 "$report" origin "$work/ops.json" "$device" || exit 1
    return "$status"
}

section_epochs() {
    need_build
    local status=0 variants=(fused-graph fused-no-graph cudnn random-order)
    for variant in "${variants[@]}"; do
        local arguments=()
        case "$variant" in
        fused-graph) arguments=(--lstm fused --cuda-graph on) ;;
        fused-no-graph) arguments=(--lstm fused --cuda-graph off) ;;
        cudnn) arguments=(--lstm cudnn) ;;
        random-order) arguments=(--lstm fused --bucket-window 0) ;;
        esac
        local code=0 said=$work/epochs-$variant.txt
        train "$work/epochs-$variant" --epochs "$epochs" "${arguments[@]}" >"$said" || code=$?
        cat "$said"
        if [ "$code" -eq 69 ] && grep -q 'lacks cuDNN' "$said"; then
            echo "$variant: left out"
        elif [ "$code" -ne 0 ]; then
            echo "$variant: exit code $code"
            status=1
        fi
    done
    python3 "$report" epochs "$work" "${variants[@]}" >"$work/epochs.json" || exit 1
    return "$status"
}

section_saves() {
    need_build
    train "$work/saves" --epochs 1 --save-checkpoints-steps "$save_every" || exit 1
    python3 "$report" saves "$work/saves" >"$work/saves.json"
}

section_checkpoint() {
    need_build
    local arguments=(--device cuda --data "$train_data" "${train_sizes[@]}" --storage dir --dir "$work"
        --kills 0 --json "$work/figures.json")
    if [ "$quick" -eq 1 ]; then
        arguments+=(--quick)
    else
        arguments+=(--sizes "real,33,330" --repeats 3)
    fi
    "$cairn" bench checkpoint "${arguments[@]}" || exit 1
    python3 "$report" checkpoint "$work/figures.json" "$device" >"$work/checkpoint.json"
}

section_torch() {
    [ "$device" = cuda ] || skip "PyTorch does not know the simulated device"
    local python=${TORCH_PYTHON:-python3}
    "$python" -c 'import torch' || skip "$python has no torch (TORCH_PYTHON names one that has)"
    "$python" -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' ||
        skip "the PyTorch of $python has no CUDA"
    local arguments=(--json "$work/torch.json")
    [ "$quick" -eq 0 ] || arguments+=(--quick)
    [ ! -s "$work/ops.json" ] || arguments+=(--lengths-from "$work/ops.json")
    "$python" "$root/bench/peers/torch_lstm.py" "${arguments[@]}"
}

# ---- all of it ----

if [ "$device" = cuda ] && ! nvidia-smi --list-gpus 2>/dev/null | grep -q '^GPU'; then
    echo "bench/gpu.sh: nvidia-smi shows no GPU on this machine; nothing was measured" >&2
    exit 69
fi

train_data=$data train_sizes=() epochs=3 save_every=10
if [ "$device" = sim ]; then
    export CAIRN_SIM_STRICT=1 # what the simulated device reports is a failure
    train_data=$work/small.csv
    python3 "$report" small-data >"$train_data"
    train_sizes=(--embedding-size 16 --hidden-size 16 --dense-size 8 --batch-size 8)
    epochs=2 save_every=3
elif [ "$quick" -eq 1 ]; then
    epochs=2
fi

run_section() {
    local name=$1 begin=$SECONDS status=0
    printf '== %s\n' "$name"
    if [ "${CAIRN_GPU_FAIL:-}" = "$name" ]; then
        echo "made to fail by CAIRN_GPU_FAIL" >"$work/$name.log"
        status=1
    else
        ("section_$name") >"$work/$name.log" 2>&1 </dev/null || status=$?
    fi
    local word=ok
    case "$status" in
    0) ;;
    77) word=skipped ;;
    *) word=failed ;;
    esac
    printf '%s\t%s\t%s\t%s\n' "$name" "$word" "$status" $((SECONDS - begin)) >>"$work/sections.tsv"
    if [ "$word" != ok ]; then
        printf '   %s: %s\n' "$word" "$(tail -n 1 "$work/$name.log")"
    fi
    [ "$word" != failed ] || tail -n 15 "$work/$name.log" | sed 's/^/   | /'
}

for name in "${sections[@]}"; do
    if [ -z "$only" ] || [[ ",$only," = *",$name,"* ]] || [ "$name" = machine ]; then
        run_section "$name"
    fi
done
if [ -z "$output" ]; then
    output=$root/bench/results/$(python3 "$report" name "$work").json
fi
mkdir -p "$(dirname "$output")"
python3 "$report" assemble "$work" "$output" "$device" "$quick" "$data" || exit 1
printf '\nwritten: %s\n' "$output"
! cut -f 2 "$work/sections.tsv" | grep -qx failed
