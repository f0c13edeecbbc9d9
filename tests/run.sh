#!/usr/bin/env bash
# run.sh - build Cairn and run its tests: Release (with the CUDA backend where a toolkit is found), on
# the simulated device, with address and undefined-behaviour sanitizers, with the thread sanitizer.
#
#     tests/run.sh            everything (what .ci/run calls)
#     tests/run.sh --fast     the tests labelled `fast`, Release without CUDA, for daily work
#     tests/run.sh --long     everything, and a kill loop of 300 kills instead of 30
#
# Installs what is missing (as root or with sudo; says what), builds below build-test*/, and ends with
# one line "N passed, N failed, N skipped" over all configurations. Exit code 0 when nothing failed.
# With CI=true a skipped test is a failure unless its name contains `gpu`.
# The first run without --fast downloads PyTorch, TensorFlow and others from PyPI into .venv: 7 GB of disk.
# CAIRN_GOLDEN_DIR names the golden cases (default ../shared/golden).
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
# shellcheck source=cmake/packages.sh
. cmake/packages.sh

fast=0
for argument in "$@"; do
    case "$argument" in
    --fast) fast=1 ;;
    --long) export CAIRN_KILL_LOOPS=${CAIRN_KILL_LOOPS:-300} ;;
    -h | --help)
        sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"
        exit 0
        ;;
    *)
        echo "tests/run.sh: unknown option '$argument'; it knows --fast, --long and --help" >&2
        exit 2
        ;;
    esac
done

jobs=$(nproc)
passed=0 failed=0 skipped=0
timings=()
results=$(mktemp -d)
frameworks_pid= # the background installation, see start_frameworks
trap '[ -z "$frameworks_pid" ] || kill -- "-$frameworks_pid" 2>/dev/null; rm -rf "$results"' EXIT

say() { printf '\n== %s\n' "$*"; }

note_time() { # NAME SECONDS
    timings+=("$(printf '%5d s  %s' "$2" "$1")")
}

# ---- packages ----

prepare() {
    say "Looking for what the tests need"
    packages_need_build
    packages_need g++ "the C++ compiler (tests only)" command c++
    packages_need libgtest-dev "GoogleTest" header gtest/gtest.h
    packages_need libboost-context-dev "fibers of the simulated device" header \
        boost/context/detail/fcontext.hpp
    packages_need zstd "opens checkpoints without our code" command zstd
    packages_need gnuplot-nox "draws the pictures of cairn plot" command gnuplot
    packages_need strace "faults in the system calls of the program" command strace
    if ! ls /usr/lib/*/faketime/libfaketime.so.1 >/dev/null 2>&1; then
        packages_need faketime "clocks that jump" command faketime
    fi
    packages_need python3-venv "a place for the safetensors package" python ensurepip
    packages_install || exit 1
    packages_check_cmake || exit 1
    echo "everything is there"
}

has_cuda_toolkit() {
    command -v nvcc >/dev/null 2>&1 || [ -x "${CUDA_PATH:-/usr/local/cuda}/bin/nvcc" ]
}

# is_installed LIST...: each list of packages was installed whole, as it reads now.
is_installed() {
    local list
    for list in "$@"; do
        [ "$(cat ".venv/${list##*/}.sha256" 2>/dev/null)" = "$(sha256sum <"$list")" ] || return 1
    done
}

# install LIST...: into .venv, all at once, or, where that fails, one by one, so that a package without a wheel
# for this machine does not take the others with it. What is installed whole is noted for is_installed.
install() {
    local list line whole
    local pip=(.venv/bin/python -m pip install -q --disable-pip-version-check)
    "${pip[@]}" "${@/#/-r}" && whole=1 || whole=0
    for list in "$@"; do
        [ "$whole" -eq 1 ] || while read -r line; do
            case "$line" in '' | '#'*) ;; *) "${pip[@]}" "$line" </dev/null ;; esac
        done <"$list"
        [ "$whole" -eq 0 ] || sha256sum <"$list" >".venv/${list##*/}.sha256"
    done
    [ "$whole" -eq 1 ]
}

# A virtual environment with the safetensors package, an independent reader of our checkpoints; and
# with the disassemblers of bench/sass_report where there is something to disassemble.
prepare_python() {
    local python=$PWD/.venv/bin/python lists=(tests/requirements.txt)
    local needed="import numpy, safetensors, xxhash, zstandard"
    if [ "$fast" -eq 0 ] && has_cuda_toolkit; then
        lists+=(tests/requirements-cuda.txt)
    fi
    if ! "$python" -c "$needed" >/dev/null 2>&1 || ! is_installed "${lists[@]}"; then
        say "Making .venv with the packages of ${lists[*]}"
        {
            # Without a Python that works, what is noted there is not true.
            "$python" -c "" || { rm -f .venv/*.sha256 && python3 -m venv .venv; }
            install "${lists[@]}"
        } >"$results/venv.log" 2>&1 </dev/null
    fi
    if "$python" -c "$needed" >/dev/null 2>&1; then
        export CAIRN_PYTHON=$python
    else
        tail -n 5 "$results/venv.log" >&2
        echo "warning: no virtual environment (no PyPI?); tests that need Python will be skipped" >&2
    fi
}

# PyTorch, TensorFlow and the like are large: they are installed while the first configuration builds, and
# waited for before its tests.
frameworks_list=tests/requirements-frameworks.txt

start_frameworks() {
    if [ "$fast" -ne 0 ] || [ -z "${CAIRN_PYTHON:-}" ] || is_installed "$frameworks_list"; then
        return
    fi
    echo "installing the packages of $frameworks_list in the background (up to 7 GB from PyPI)"
    set -m # a process group of its own, to end pip with it
    {
        begin=$SECONDS
        install tests/requirements.txt "$frameworks_list" &&
            echo $((SECONDS - begin)) >"$results/frameworks.seconds"
    } >"$results/frameworks.log" 2>&1 </dev/null &
    frameworks_pid=$!
    set +m
}

wait_frameworks() {
    [ -n "$frameworks_pid" ] || return 0
    wait "$frameworks_pid"
    frameworks_pid=
    if [ -s "$results/frameworks.seconds" ]; then
        note_time "beside the build: packages of $frameworks_list" "$(cat "$results/frameworks.seconds")"
    else
        grep -i '^error' "$results/frameworks.log" | tail -n 5 >&2
        echo "warning: not all of $frameworks_list can be installed; tests that need it will be skipped" >&2
    fi
}

# ---- one configuration ----

# build NAME DIRECTORY TARGETS -- CMAKE_ARGUMENTS...; TARGETS may be "all".
build() {
    local name=$1 directory=$2 targets=$3 begin=$SECONDS
    shift 4
    say "Building: $name"
    # shellcheck disable=SC2086
    if ! { cmake -S . -B "$directory" "$@" &&
        cmake --build "$directory" --parallel "$jobs" --target $targets; } \
        >"$results/build.log" 2>&1 </dev/null; then
        grep -nE 'error|warning: |FAILED|Error' "$results/build.log" | head -n 40 >&2
        tail -n 20 "$results/build.log" >&2
        echo "FAILED: build of $name" >&2
        failed=$((failed + 1))
        return 1
    fi
    if [ ! -x "$directory/cairn" ] || [ ! -d "$directory/tests" ]; then
        tail -n 30 "$results/build.log" >&2
        echo "FAILED: $name was built without the program or without tests" >&2
        failed=$((failed + 1))
        return 1
    fi
    note_time "build: $name" $((SECONDS - begin))
}

# A number from the head of a JUnit report: one attribute a line, before any test's own output.
attribute() { sed -n "s/^[[:space:]]*$1=\"\([0-9]*\)\"$/\1/p" "$2" | head -n 1; }

# run NAME DIRECTORY CTEST_ARGUMENTS...
run() {
    local name=$1 directory=$2 begin=$SECONDS report=$results/$1.xml status=0
    shift 2
    say "Running: $name"
    "${wrapper[@]}" ctest --test-dir "$directory" --parallel 2 --output-on-failure --no-tests=error \
        --output-junit "$report" "$@" </dev/null >"$results/ctest.log" 2>&1 || status=$?
    # Passed tests are not worth a line each; everything else is.
    grep -vE '^ *(Start +[0-9]+: |[0-9]+/[0-9]+ Test .* Passed +)' "$results/ctest.log"
    note_time "tests: $name" $((SECONDS - begin))
    if [ ! -s "$report" ]; then
        echo "FAILED: ctest made no report for $name" >&2
        failed=$((failed + 1))
        return
    fi
    local total bad off
    total=$(attribute tests "$report")
    bad=$(attribute failures "$report")
    off=$(attribute skipped "$report")
    passed=$((passed + total - bad - off))
    failed=$((failed + bad))
    skipped=$((skipped + off))
    if [ "$status" -ne 0 ] && [ "$bad" -eq 0 ]; then
        echo "FAILED: ctest ended with $status for $name" >&2
        failed=$((failed + 1))
    fi
    slowest "$name" "$report"
    forbid_skips "$name" "$report"
}

slowest() {
    sed -n 's/.*<testcase name="\([^"]*\)".* time="\([0-9.]*\)".*/\2 \1/p' "$2" |
        sort -rn | head -n 5 | sed "s/  # GetParam.*//; s/$/ ($1)/" >>"$results/slowest"
}

# In CI a skipped test is a failed one, unless it needs a GPU.
forbid_skips() {
    local names
    names=$(sed -n 's/.*<testcase name="\([^"]*\)".*status="notrun".*/\1/p' "$2")
    [ -n "$names" ] || return 0
    printf 'skipped in %s:\n' "$1"
    printf '%s\n' "$names" | sed 's/^/    /'
    if [ "${CI:-}" = true ]; then
        local bad
        bad=$(printf '%s\n' "$names" | grep -civ gpu)
        if [ "$bad" -gt 0 ]; then
            echo "FAILED: $bad skipped tests in CI that need no GPU" >&2
            failed=$((failed + bad))
            skipped=$((skipped - bad))
        fi
    fi
}

# ---- all of it ----

prepare
prepare_python
start_frameworks

wrapper=()
select=()
cuda=auto # everything compiles, links and warns as it will for a GPU; what needs one is skipped
if [ "$fast" -ne 0 ]; then
    select=(-L fast)
    cuda=off
fi
release=(-DCMAKE_BUILD_TYPE=Release -DCAIRN_SANITIZE= -DCAIRN_TESTS=ON)
if build Release build-test all -- "${release[@]}" -DCAIRN_CUDA=$cuda; then
    wait_frameworks
    run Release build-test "${select[@]}"
fi

if [ "$fast" -eq 0 ]; then
    # The CUDA backend on the simulated device, alone and below the whole program.
    if build "simulated device" build-test-sim "cairn device_tests" -- "${release[@]}" \
        -DCAIRN_CUDA=sim; then
        run "simulated device" build-test-sim -R '^(cuda|simcuda|gpu|library_cuda)'
    fi
    # -O1 and asserts on (no NDEBUG): compile time counts as much as run time here.
    sanitized=(-DCMAKE_BUILD_TYPE=Sanitized -DCMAKE_C_FLAGS=-O1 -DCMAKE_CXX_FLAGS=-O1 -DCAIRN_TESTS=ON)
    if build address+undefined build-test-address all -- "${sanitized[@]}" \
        -DCAIRN_SANITIZE=address,undefined -DCAIRN_CUDA=sim; then
        # Every test but the two long trainings that only ask what accuracy they reach. Kernels and
        # simulated device by their own tests, which do less here; the whole program on the device
        # (cuda.*) would take too long. Not the runs of `bench checkpoint`: the program forks trainers there,
        # and the sanitizer's allocator may be locked for ever in a child when another thread was using it.
        run address+undefined build-test-address \
            -E '^((accuracy_test|bench_checkpoint_options_test|cuda|gpu_bench_test)\.|bench_checkpoint_test$)'
    fi
    # Everything that has threads of its own, and the whole program at work and stopped.
    modules="base_test batcher_test cpu_backend_test library_failure_test library_test ops_test"
    modules+=" put_off_test read_ahead_test snapshot_test steady_test"
    modules+=" refused_calls_test writer_endurance_test writer_failure_test writer_slow_disk_test writer_test"
    threaded="^(${modules// /|})\\."
    # The writer's thread beside the simulated device; the faults planted there are races by intent.
    threaded+="|^cuda_snapshot_test\\.Busy/CudaSnapshot.*/Wait"
    threaded+="|^fused_test\\.Isa/Fused\\.Threads"
    threaded+="|^resume_test\\.Resume\\.ThreadsChangeNothing|^signals_process_test\\.Signals\\.Term"
    export TSAN_OPTIONS=atexit_sleep_ms=0
    # ThreadSanitizer needs a memory layout that address randomisation may spoil.
    if setarch -R true 2>/dev/null; then
        wrapper=(setarch -R)
    fi
    programs="fused_test resume_test signals_process_test cuda_snapshot_test"
    if build thread build-test-thread "cairn $modules $programs" -- "${sanitized[@]}" \
        -DCAIRN_SANITIZE=thread -DCAIRN_CUDA=sim; then
        run thread build-test-thread -R "$threaded"
    fi
fi

say "Time"
printf '%s\n' "${timings[@]}"
echo "slowest tests (seconds):"
sort -rn "$results/slowest" 2>/dev/null | head -n 10 | sed 's/^/  /'
printf '%5d s  in all\n\n' "$SECONDS"
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
