#!/usr/bin/env bash
# coverage.sh - which branches of io/ its tests take (the list `tests` below, and replayed fuzz inputs), per
# file; and each that none of them takes, for the commit protocol and the reader.
#
#     tests/coverage.sh                  build build-coverage/, run the tests, print
#     tests/coverage.sh --build DIR      there instead
#     tests/coverage.sh --report         print once more, without running anything
#     tests/coverage.sh --write          put the sums into docs/reliability.md
#
# Needs gcovr (Debian: gcovr). Assertions are compiled out (-DNDEBUG), as in what is shipped. Branches that
# none of these tests takes have their reason in docs/reliability.md; exit code 1 where one has none.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/.." && pwd)

build=$root/build-coverage report=0 write=()
fail_usage() {
    echo "coverage.sh: $1 (--help lists what it knows)" >&2
    exit 2
}
while [ $# -gt 0 ]; do
    case "$1" in
    -h | --help)
        sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"
        exit 0
        ;;
    --build)
        [ $# -ge 2 ] || fail_usage "$1 needs a value"
        build=$2
        shift
        ;;
    --report) report=1 ;;
    --write) write=(--write) ;;
    *) fail_usage "unknown option '$1'" ;;
    esac
    shift
done
command -v gcovr >/dev/null || {
    echo "coverage.sh: gcovr is missing (Debian: apt-get install gcovr)" >&2
    exit 2
}

# The modules of io/, the engine in bad times, whole programs, and what is written for other programs.
tests=(arena_test base_test best_model_process_test checkpoint_frames_test checkpoint_refuse_test
    checkpoint_test commit_test damage_test dataset_test dataset_tree_test demo_test file_test history_test
    publish_test put_off_test read_ahead_test refused_calls_test retention_test snapshot_test steady_test
    store_edges_test store_lock_test store_state_test store_test supersede_test text_test texts_test
    writer_account_test writer_endurance_test writer_failure_test writer_slow_disk_test writer_test disk_full_test
    damaged_checkpoint_process_test input_process_test library_failure_test library_test event_file_test
    export_test export_process_test import_test inspect_test keras_checkpoint_process_test onnx_graph_test)
fuzzed=(checkpoint csv jsonl safetensors state)
# What must be explained branch by branch.
explained='io/(publish|put_off|snapshot|store|store_lock|store_state|store_trainer|writer|writer_account|writer_targets|file'
explained+='|file_posix|checkpoint_container|checkpoint_decode|checkpoint_encode|checkpoint_frames|safetensors)\.c'

if [ "$report" -eq 0 ]; then
    cmake -S "$root" -B "$build" -DCAIRN_COVERAGE=ON -DCAIRN_CUDA=off -DCMAKE_BUILD_TYPE=Coverage \
        -DCMAKE_C_FLAGS='-O0 -DNDEBUG' -DCMAKE_CXX_FLAGS=-O0 >/dev/null
    known=()
    for test in "${tests[@]}"; do
        if [ -f "$here/$test.cc" ]; then
            known+=("$test")
        fi
    done
    cmake --build "$build" --parallel "$(nproc)" --target cairn make_seeds "${fuzzed[@]/#/fuzz_replay_}" \
        "${known[@]}" >/dev/null
    find "$build" -name '*.gcda' -delete
    pattern=$(printf '|%s' "${known[@]}")
    replayed=$(printf '|%s' "${fuzzed[@]}")
    ctest --test-dir "$build" --parallel 2 --output-on-failure \
        -R "^((${pattern:1})\\.|fuzz_(make_seeds|replay_(${replayed:1}))\$)" | tail -n 8
fi

common=(--root "$root" --object-directory "$build" --filter "$root/io/" --exclude-unreachable-branches)
echo
echo "Branches of io/ that were taken by ${tests[*]} ${fuzzed[*]/#/fuzz_replay_}" |
    fold -s -w 110
gcovr "${common[@]}" --branches --sort-uncovered "$build"
echo "Branches that none of these tests takes (file, line, ways not taken of all, source)"
gcovr "${common[@]}" "$build" --json | python3 -B "$here/uncovered.py" "$root" "$explained" "${write[@]}"
