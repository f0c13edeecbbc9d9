#!/usr/bin/env bash
# run.sh - fuzz what reads bytes that others wrote, and print executions, coverage and crashes.
#
#     tests/fuzz/run.sh                        60 seconds each target
#     tests/fuzz/run.sh --seconds 3600         an hour each
#     tests/fuzz/run.sh --only checkpoint      this target (may be repeated)
#     tests/fuzz/run.sh --build DIR            build here (default build-fuzz/)
#     tests/fuzz/run.sh --jobs N               so many processes a target (default 1)
#
# Needs clang (Debian: clang) for libFuzzer. Starts from the seeds of make_seeds and from tests/fuzz/corpus/,
# keeps what it finds in DIR/corpus/, and puts every input that ends a target badly into DIR/crashes/. Such an
# input belongs into tests/fuzz/corpus/<target>/ with the fix: the ordinary suite replays that folder. Those
# named by their digests take edges that no seed takes. Others are found by
#     cp DIR/seeds/TARGET/* tests/fuzz/corpus/TARGET/* all/
#     DIR/tests/fuzz/fuzz_TARGET -merge=1 -use_counters=0 all DIR/corpus/TARGET
# which copies the shortest ones that do into all/.
# Exit code 1 when there was one, and when a target did not start or ended with an error and left no input.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$here/../..

seconds=60 build=$root/build-fuzz jobs=1 targets=()
fail_usage() {
    echo "run.sh: $1 (--help lists what it knows)" >&2
    exit 2
}
while [ $# -gt 0 ]; do
    case "$1" in
    --seconds | --build | --jobs | --only) [ $# -ge 2 ] || fail_usage "$1 needs a value" ;;
    esac
    case "$1" in
    -h | --help)
        sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"
        exit 0
        ;;
    --seconds) seconds=$2 ;;
    --build) build=$2 ;;
    --jobs) jobs=$2 ;;
    --only) targets+=("$2") ;;
    *) fail_usage "unknown option '$1'" ;;
    esac
    shift 2
done
if [ ${#targets[@]} -eq 0 ]; then
    targets=(checkpoint safetensors state config vocabulary tokenizer csv jsonl)
fi

command -v clang++ >/dev/null || {
    echo "run.sh: clang++ is missing (Debian: apt-get install clang)" >&2
    exit 2
}
cmake -S "$root" -B "$build" -DCMAKE_C_COMPILER=clang -DCMAKE_CXX_COMPILER=clang++ -DCAIRN_FUZZ=ON \
    -DCAIRN_SANITIZE=address,undefined -DCAIRN_CUDA=off -DCMAKE_BUILD_TYPE=Fuzz -DCMAKE_C_FLAGS=-O1 \
    -DCMAKE_CXX_FLAGS=-O1 >/dev/null
cmake --build "$build" --parallel "$(nproc)" --target make_seeds "${targets[@]/#/fuzz_}" >/dev/null
"$build/tests/fuzz/make_seeds" "$build/seeds"

# A number from the last status line of libFuzzer: value_of cov LOG
value_of() { grep -oE "$1: [0-9]+" "$2" | tail -n 1 | grep -oE '[0-9]+' || echo 0; }
stat_of() { sed -n "s/^stat::$1: *//p" "$2" | tail -n 1; }
# With -fork there are no final statistics, only status lines: "#1234: cov: 5 ft: 6 corp: 7 exec/s: 89 ...".
executions_of() {
    local count
    count=$(stat_of number_of_executed_units "$1")
    echo "${count:-$(sed -n 's/^#\([0-9]*\): .*/\1/p' "$1" | tail -n 1)}"
}

# The largest allocation is what a file of that size may account for; more is a finding.
limits=(-max_len=16384 -rss_limit_mb=4096 -malloc_limit_mb=2048 -timeout=20)
export ASAN_OPTIONS=allocator_may_return_null=1:detect_leaks=1 UBSAN_OPTIONS=print_stacktrace=1
crashes=0 broken=()
printf '%-12s %12s %9s %9s %9s %8s %8s\n' target executions "per s" edges features corpus crashes
for target in "${targets[@]}"; do
    corpus=$build/corpus/$target bad=$build/crashes/$target log=$build/$target.log
    mkdir -p "$corpus" "$bad"
    folders=("$corpus" "$build/seeds/$target")
    if [ -d "$here/corpus/$target" ]; then
        folders+=("$here/corpus/$target")
    fi
    workers=()
    if [ "$jobs" -gt 1 ]; then
        workers=(-fork="$jobs")
    fi
    before=$(find "$bad" -type f | wc -l) status=0
    "$build/tests/fuzz/fuzz_$target" "${limits[@]}" "${workers[@]}" -max_total_time="$seconds" \
        -print_final_stats=1 -artifact_prefix="$bad/" "${folders[@]}" >"$log" 2>&1 || status=$?
    found=$(find "$bad" -type f | wc -l)
    crashes=$((crashes + found))
    executions=$(executions_of "$log")
    # Without an input to show for it: it did not start, was killed, or failed before the first execution.
    if [ "$status" -ne 0 ] && [ "$found" -le "$before" ]; then
        broken+=("$target ended with exit code $status and left no input: $log")
    elif [ "$status" -eq 0 ] && ! [[ $executions =~ ^[1-9][0-9]*$ ]]; then
        broken+=("$target executed nothing: $log")
    fi
    printf '%-12s %12s %9s %9s %9s %8s %8s\n' "$target" "${executions:--}" \
        "$(stat_of average_exec_per_sec "$log")" "$(value_of cov "$log")" "$(value_of ft "$log")" \
        "$(find "$corpus" -type f | wc -l)" "$found"
done
if [ "$crashes" -gt 0 ]; then
    echo "$crashes inputs ended a target badly: $build/crashes/" >&2
fi
if [ "${#broken[@]}" -gt 0 ]; then
    printf '%s\n' "${broken[@]}" >&2
fi
[ "$crashes" -eq 0 ] && [ "${#broken[@]}" -eq 0 ]
