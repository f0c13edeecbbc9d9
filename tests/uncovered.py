"""uncovered.py ROOT PATTERN: from gcovr's JSON on standard input, each line of the files that match the pattern
with a branch that was never taken: "file:line  not taken/all  source"; then the sums, over all files and these."""
import json
import pathlib
import re
import sys


def main():
    root, pattern = pathlib.Path(sys.argv[1]), re.compile(sys.argv[2])
    lines = branches = taken = total = 0
    for entry in json.load(sys.stdin)["files"]:
        counts = [branch["count"] for line in entry["lines"] for branch in line["branches"]]
        total += len(counts)
        taken += sum(count > 0 for count in counts)
        if not pattern.search(entry["file"]):
            continue
        source = (root / entry["file"]).read_text().split("\n")
        for line in entry["lines"]:
            missed = sum(branch["count"] == 0 for branch in line["branches"])
            if missed:
                number = line["line_number"]
                where = f"{entry['file']}:{number}"
                print(f"{where:<32}{missed}/{len(line['branches'])}  {source[number - 1].strip()}")
                lines += 1
                branches += missed
    print(f"{taken:,} of {total:,} branches taken ({100 * taken / total:.0f} %); left of what is explained: "
          f"{branches} branches in {lines} lines")


if __name__ == "__main__":
    main()
