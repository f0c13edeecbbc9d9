#!/usr/bin/env bash
# read_data.sh - how long it takes to read, tokenise and turn into ids both parts of a data set, on one core.
#
#     bench/read_data.sh DATA [CAIRN] [REPEATS]
#
# Times `cairn train --steps 1 --threads 1` as a whole, pinned to one core: start of the program, reading
# every text of both parts, learning the vocabulary, ids, one training step and two checkpoints. The data
# part is less than that. The first run, which warms the page cache, is not counted. Prints seconds: each
# run, then the median.
set -euo pipefail
if [ $# -lt 1 ] || [ "$1" = --help ]; then
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"
    exit 2
fi
data=$1
cairn=${2:-$(dirname "$0")/../build/cairn}
repeats=${3:-5}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

for ((i = 0; i <= repeats; i++)); do
    begin=$(date +%s.%N)
    taskset -c 0 "$cairn" train --data "$data" --steps 1 --threads 1 --progress none \
        --model-dir "$work/$i" 2>"$work/err" || {
        cat "$work/err" >&2
        exit 1
    }
    end=$(date +%s.%N)
    if [ "$i" -gt 0 ]; then
        awk -v a="$begin" -v b="$end" 'BEGIN { printf "%.2f\n", b - a }'
    fi
done | tee "$work/seconds"
sort -n "$work/seconds" | awk '{ v[NR] = $1 } END { printf "median %.2f s\n", v[int((NR + 1) / 2)] }'
