#!/usr/bin/env python3
"""tests/uncovered.py on a made-up page and made-up counts: what needs a reason, and how many."""
import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

SCRIPT = pathlib.Path(__file__).resolve().parent / "uncovered.py"
PAGE = """# Reliability
| elsewhere | store (`open` 9) |
## Branches of io/ that nothing takes
```
0 of 0 branches taken (0 %)
```
| reason | where |
| --- | --- |
| cannot be | store (`open` 2, `close` 1), file (`read` 1) |
| is rare | store (`close` 1) |

## Next
"""


def file_of(name, *functions):
    """Of (function, [(branches, not taken), ... for each of its lines])."""
    entry = {"file": f"io/{name}.c", "functions": [], "lines": []}
    number = 0
    for function, lines in functions:
        entry["functions"].append({"name": function, "lineno": number + 1})
        for branches, missed in lines:
            number += 1
            counts = [{"count": int(i >= missed)} for i in range(branches)]
            entry["lines"].append({"line_number": number, "branches": counts})
    return entry


class Uncovered(unittest.TestCase):
    def run_on(self, *files, write=False):
        """(exit code, lines, the page afterwards)"""
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            (root / "docs").mkdir()
            (root / "io").mkdir()
            page = root / "docs" / "reliability.md"
            page.write_text(PAGE, encoding="utf-8")
            for entry in files:
                (root / entry["file"]).write_text("source\n" * len(entry["lines"]), encoding="utf-8")
            done = subprocess.run(
                [sys.executable, "-B", SCRIPT, root, r"io/(store|file)\.c", *["--write"][: int(write)]],
                input=json.dumps({"files": files}), capture_output=True, text=True, check=False)
            self.assertEqual("", done.stderr)
            return done.returncode, done.stdout.splitlines(), page.read_text(encoding="utf-8")

    def test_what_the_page_says(self):
        store = file_of("store", ("open", [(4, 1), (2, 0), (2, 1)]), ("close", [(2, 2)]))
        code, lines, page = self.run_on(store, file_of("file", ("read", [(2, 1)])),
            file_of("other", ("unasked", [(8, 8)])), write=True)
        self.assertEqual(0, code)
        self.assertFalse([line for line in lines if "reliability.md" in line])
        self.assertIn("7 of 20 branches taken (35 %); left of what is explained: 5 branches in 4 lines", page)

    def test_one_more_in_a_function_that_has_a_reason(self):
        code, lines, _ = self.run_on(file_of("store", ("open", [(4, 2), (2, 1)]), ("close", [(2, 2)])),
            file_of("file", ("read", [(2, 1)])))
        self.assertEqual(1, code)
        self.assertIn("docs/reliability.md GIVES NO REASON for store open (1 of its branches)", lines)

    def test_one_of_a_function_without_a_reason(self):
        code, lines, _ = self.run_on(file_of("store", ("lock", [(4, 3)])))
        self.assertEqual(1, code)
        self.assertIn("docs/reliability.md GIVES NO REASON for store lock (3 of its branches)", lines)

    def test_a_reason_too_many_is_said(self):
        code, lines, _ = self.run_on(file_of("store", ("open", [(4, 1)]), ("close", [(2, 2)])),
            file_of("file", ("read", [(2, 1)])))
        self.assertEqual(0, code)
        said = "docs/reliability.md gives a reason for store open that is not needed (1 of its branches)"
        self.assertIn(said, lines)


if __name__ == "__main__":
    unittest.main()
