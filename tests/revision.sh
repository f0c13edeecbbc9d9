#!/usr/bin/env bash
# revision.sh - what cmake/revision.cmake says of a checkout, of changed files, and of sources without a
# repository, and that it leaves a header alone that says so already.
#
#     tests/revision.sh
#
# Exit code 77: there is no git.
set -euo pipefail
script=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/cmake/revision.cmake
git=$(command -v git) || exit 77
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE
export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1 HOME=$work

# expect REVISION SOURCE [GIT]
expect() {
    cmake -DGIT="${3-$git}" -DSOURCE="$2" -DHEADER="$work/revision.h" -P "$script"
    printf '#define CAIRN_REVISION "%s"\n' "$1" | diff - "$work/revision.h"
}

as_somebody=(-c user.name=somebody -c user.email=somebody@example.org)
tree=$work/tree
mkdir -p "$tree/below"
expect unknown "$tree"
git -C "$tree" init -q
expect unknown "$tree" # no commit yet
echo one >"$tree/file"
git -C "$tree" add file
git -C "$tree" "${as_somebody[@]}" commit -qm one
git -C "$tree" "${as_somebody[@]}" tag -a release -m release
commit=$(git -C "$tree" rev-parse HEAD)
expect "${commit:0:12}" "$tree"
expect unknown "$tree/below" # an unpacked archive inside somebody's repository
expect unknown "$tree" ''
GIT_DIR=$work/none expect "${commit:0:12}" "$tree"

touch -d '2001-01-01' "$work/revision.h"
touch "$tree/untracked"
expect "${commit:0:12}" "$tree"
[ "$(stat -c %Y "$work/revision.h")" = "$(date -d '2001-01-01' +%s)" ]

echo two >"$tree/file"
expect "${commit:0:12}-dirty" "$tree"
