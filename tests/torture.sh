#!/usr/bin/env bash
# torture.sh - disturb the real program in every way that is known, and demand that nothing is lost.
#
#     tests/torture.sh                    five minutes
#     tests/torture.sh --minutes 120      as long as that: 1,000 faults take about ten
#     tests/torture.sh --quick            half a minute (what the suite runs)
#     tests/torture.sh --binary PATH      this program; otherwise build-torture/ is built
#     tests/torture.sh --seed N --only ATTACK --trial N [--aim WHAT]
#                                         one trial once more, as a failure prints it
#     tests/torture.sh --no-install       install nothing; what is missing is not tried
#
# Attacks: SIGKILL and stop signals at random moments, faults in system calls (strace --inject), a file
# system without room, a limit on the size of files, two trainers in one directory, damaged, exchanged and
# foreign files, clocks that jump (libfaketime). After each the same command must come to the same end, bit
# for bit, as a run that nobody disturbed. The table lists what was hit, and what cannot be tried here. A
# third of the trials with kills, stop signals, system calls, disks train a model so large that the copy of a
# save takes a while; in the table these have lines of their own ("kill, large").
# System calls begin with EIO, ENOSPC, EINTR and a delay in each of open, write, fsync, rename and unlink,
# kills and stop signals with each phase of a run (loading, mid-epoch, saving, validation, between two epochs,
# end), in an order of the seed. A run of five minutes or more aims at what it missed again until it has hit
# them all, and fails where it could not.
#
# Exit code 0 when nothing was lost, 77 when none of the chosen attacks can be tried here, 2 for a wrong
# command, 1 otherwise.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=cmake/packages.sh
. "$here/../cmake/packages.sh"

binary="" install=1 arguments=()
while [ $# -gt 0 ]; do
    case "$1" in
    -h | --help)
        sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"
        exit 0
        ;;
    --binary)
        [ $# -ge 2 ] || {
            echo "torture.sh: --binary needs a path (--help says more)" >&2
            exit 2
        }
        binary=$2
        shift
        ;;
    --no-install) install=0 ;;
    *) arguments+=("$1") ;;
    esac
    shift
done

packages_need python3 "runs the attacks" command python3
packages_need strace "faults in system calls" command strace
if ! ls /usr/lib/*/faketime/libfaketime.so.1 >/dev/null 2>&1; then
    packages_need faketime "clocks that jump" command faketime
fi
if [ "$install" -eq 1 ]; then
    packages_install || echo "warning: not everything could be installed; what is missing is not tried" >&2
fi
if [ -z "$binary" ]; then
    binary=$here/../build-torture/cairn
    cmake -S "$here/.." -B "$here/../build-torture" -DCMAKE_BUILD_TYPE=Release -DCAIRN_TESTS=OFF \
        -DCAIRN_CUDA=off >/dev/null
    cmake --build "$here/../build-torture" --parallel "$(nproc)" --target cairn >/dev/null
fi
exec python3 -B "$here/torture" --binary "$binary" "${arguments[@]}"
