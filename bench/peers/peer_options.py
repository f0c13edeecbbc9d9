"""What the options of several scripts have in common."""

import argparse
import os
import pathlib


def new_file(word):
    """A path that can be written, tried before minutes are spent; what the file holds stays."""
    path = pathlib.Path(word)
    existed = os.path.lexists(path)
    try:
        path.open("ab").close()
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{word} cannot be written: {error.strerror}") from error
    if not existed:
        path.unlink()
    return path
