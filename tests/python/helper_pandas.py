"""read_history of python/cairn_io.py as a pandas.DataFrame, against pandas' own reader of history.csv.

check(cairn, work) runs everything; `work` is an empty folder.
"""

import pandas

from program import train
import cairn_io  # program.py makes it importable


def check(cairn, work):
    train(cairn, work / "model", "--epochs", 2, "--hidden-size", 8)
    wanted = pandas.read_csv(work / "model" / "history.csv")
    found = cairn_io.read_history(work / "model", pandas=True)
    assert len(found) == 2 and (found.dtypes[wanted.columns] == wanted.dtypes).all(), found.dtypes
    pandas.testing.assert_frame_equal(found[wanted.columns], wanted, check_exact=True)
    found = cairn_io.read_history(work / "model" / "history.csv", pandas=True)
    pandas.testing.assert_frame_equal(found, wanted)
