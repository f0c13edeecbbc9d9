#!/usr/bin/env bash
# cpu_epoch.sh - IMDB training epochs of Cairn, Keras, PyTorch and oneDNN on this machine's CPU, in one run.
#
#     bench/peers/cpu_epoch.sh ACLIMDB [--only A,B,...] [--repeats N] [--peer-steps N] [--whole A,B,...]
#         [--threads N] [--batch-size N] [--vocabulary-size N] [--embedding-size N] [--hidden-size N]
#         [--steps N] [--json FILE] [--cairn PATH]
#
# ACLIMDB is the unpacked data set (https://ai.stanford.edu/~amaas/data/sentiment/); only its train part is
# used. All systems train on the same token ids (Cairn's; Keras' own encoder must agree), with the same
# number of threads. What is timed is training only, from ids that lie in memory:
#
#     cairn            whole epochs, `train_seconds` of history.jsonl; -avx2, -portable, -reference: --isa;
#                      -bf16: --precision bf16, where the program and the machine have it;
#                      -random (on request): --bucket-window 0
#     keras-mask       TensorFlow's tutorial, mask_zero=True: the same mathematics; random batches, padded
#     keras-nomask     the same without a mask: runs over the padding, which changes results and is faster
#     torch-packed     PyTorch, PackedSequence: the same mathematics; random batches
#     torch-windows    PyTorch, padded without a mask, batches of similar length from windows of 4,096 reviews
#     torch-padded     (on request) the same with random batches
#     onednn-f32, -bf16   only the LSTM operation, forward and backward, on torch-windows' batch shapes
#
# The systems take turns; each stands next to a measurement of Cairn's, and "times cairn" is taken pair by
# pair. A second table sets each peer against each of Cairn's rows, with the least favourable ratio.
#
# Peers train 40 of the 391 batches (--peer-steps), chosen to stand for all lengths of an epoch, and the
# tables show their seconds scaled to the epoch by padded positions; --whole names peers that train all
# of it. Waiting workers are stopped. Leave the machine alone meanwhile.
#
# KERAS_PYTHON and TORCH_PYTHON name Pythons that have keras and tensorflow, and torch; without them virtual
# environments are made in bench/peers/.venv from PyPI (together about 2 GB). oneDNN is used if a C++
# compiler finds its headers (Debian: libdnnl-dev). Build Cairn first (./quickstart.sh does).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=bench/peers/find_python.sh
. "$here/find_python.sh"

if [ $# -lt 1 ] || [ "$1" = -h ] || [ "$1" = --help ]; then
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"
    [ $# -ge 1 ] && exit 0
    exit 2
fi

only=
previous=
for word in "$@"; do
    if [ "$previous" = --only ]; then
        only=$word
    fi
    case $word in --only=*) only=${word#--only=} ;; esac
    previous=$word
done

wanted() { # KIND: is one of its systems measured?
    case ,$only in ,) return 0 ;; *",$1-"*) return 0 ;; *) return 1 ;; esac
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
arguments=(--cairn "$here/../../build/cairn")
if wanted keras; then
    python=$(find_python keras tensorflow "${KERAS_PYTHON:-}") || exit 1
    arguments+=(--keras-python "$python")
fi
if wanted torch; then
    python=$(find_python torch torch "${TORCH_PYTHON:-}") || exit 1
    arguments+=(--torch-python "$python")
fi
if wanted onednn; then
    if "${CXX:-c++}" -std=c++17 -O2 "$here/onednn_lstm.cc" -ldnnl -o "$work/onednn_lstm" 2>"$work/log"; then
        arguments+=(--onednn "$work/onednn_lstm")
    else
        echo "without oneDNN: $(grep -m 1 error "$work/log" || head -n 1 "$work/log")" >&2
    fi
fi
python3 "$here/cpu_epoch.py" "${arguments[@]}" "$@"
