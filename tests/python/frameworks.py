"""Runs MODULEs in one process, because importing PyTorch or TensorFlow takes longer than most of what is
checked. (Not both of them in one: each brings an LLVM of its own, and they do not agree.)

usage: frameworks.py CAIRN MODULE...
"""

import importlib
import pathlib
import sys
import tempfile
import time

import program  # noqa: F401  (makes python/ importable)


def main():
    cairn = pathlib.Path(sys.argv[1]).resolve()
    for name in sys.argv[2:]:
        begin = time.monotonic()
        module = importlib.import_module(name)
        with tempfile.TemporaryDirectory() as directory:
            module.check(cairn, pathlib.Path(directory))
        print(f"{name}: ok, {time.monotonic() - begin:.1f} s", flush=True)


main()
