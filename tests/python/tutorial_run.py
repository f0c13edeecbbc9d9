"""python/tutorial.py, run as it stands; it compares the logits of every model that it makes by itself.

check(cairn, work) runs it; `work` is an empty folder.
"""

import contextlib
import io
import os
import pathlib
import runpy

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "python" / "tutorial.py"


def check(cairn, work):
    os.environ.update(CAIRN=str(cairn), DATA="demo", MODEL_DIR=str(work / "model"))
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out):
            names = runpy.run_path(str(SCRIPT))
    except BaseException:
        print(out.getvalue())
        raise
    # It has shown what it says it shows.
    assert names["history"]["epoch"].tolist() == [0, 1, 2, 3]
    assert names["history"]["val_accuracy"][-1] > 0.8, names["history"]
    assert (work / "model" / "saved_model" / "saved_model.pb").is_file()
    assert (work / "model" / "model.keras").is_file()
    assert "Positive" in out.getvalue() and "Negative" in out.getvalue(), out.getvalue()
