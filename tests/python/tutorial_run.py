"""python/tutorial.py, run as a notebook is; it compares the logits of every model that it makes by itself.

check(cairn, work) runs it; `work` is an empty folder.
"""

import contextlib
import importlib.util
import io
import os
import pathlib

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "python" / "tutorial.py"


def check(cairn, work):
    os.environ.update(CAIRN=str(cairn), DATA="demo", MODEL_DIR=str(work / "model"), MPLBACKEND="agg")
    out = io.StringIO()
    names = {"__name__": "__main__"}  # and no __file__: cells have none
    before = os.getcwd()
    os.chdir(SCRIPT.parents[1])
    try:
        with contextlib.redirect_stdout(out):
            exec(compile(SCRIPT.read_text(encoding="utf-8"), "tutorial", "exec"), names)
    except BaseException:
        print(out.getvalue())
        raise
    finally:
        os.chdir(before)
    assert names["HERE"] == SCRIPT.parent
    # It has shown what it says it shows.
    assert names["history"]["epoch"].tolist() == [0, 1, 2, 3]
    assert names["history"]["val_accuracy"][-1] > 0.8, names["history"]
    assert (work / "model" / "film-saved-model" / "saved_model.pb").is_file()
    assert (work / "model" / "history.png").is_file() == bool(importlib.util.find_spec("matplotlib"))
    assert (work / "model" / "model.keras").is_file()
    assert "Positive" in out.getvalue() and "Negative" in out.getvalue(), out.getvalue()
