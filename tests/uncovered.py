"""uncovered.py ROOT PATTERN [--write]: from gcovr's JSON on standard input, each line of the files that match
the pattern with a branch that was never taken: "file:line  not taken/all  function: source"; then the sums,
over all files and these. docs/reliability.md has the sums, and gives each such function a reason, in a table
with "file (`function` 2, ...)" in it, the number of its ways that are not taken: exit code 1 where a function
has more than that. --write puts the sums into that page.
"""
import collections
import json
import pathlib
import re
import sys

PAGE = "docs/reliability.md"
SECTION = "## Branches of io/"
SUMS = re.compile(r"^[\d,]+ of [\d,]+ branches taken .*$", re.MULTILINE)
PLACE = re.compile(r"(\w+) \(((?:`\w+` \d+(?:, )?)+)\)")


def explained(page):
    """{"file function": ways not taken} of the table; one with two reasons is in it twice."""
    begin = page.index(SECTION)
    section = page[begin : page.index("\n## ", begin)]
    counts = collections.Counter()
    for place in PLACE.finditer(section):
        for name, count in re.findall(r"`(\w+)` (\d+)", place[2]):
            counts[f"{place[1]} {name}"] += int(count)
    return counts


def function_of(entry, number):
    """The one that begins last before the line."""
    before = [function for function in entry["functions"] if function["lineno"] <= number]
    return max(before, key=lambda function: function["lineno"])["name"]


def main():
    root, pattern = pathlib.Path(sys.argv[1]), re.compile(sys.argv[2])
    lines = branches = taken = total = 0
    found = collections.Counter()
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
                where, function = f"{entry['file']}:{number}", function_of(entry, number)
                text = source[number - 1].strip()
                print(f"{where:<32}{missed}/{len(line['branches'])}  {function}: {text}")
                found[f"{pathlib.Path(entry['file']).stem} {function}"] += missed
                lines += 1
                branches += missed
    sums = (
        f"{taken:,} of {total:,} branches taken ({100 * taken / total:.0f} %); left of what is explained: "
        f"{branches} branches in {lines} lines"
    )
    print(sums)
    sys.exit(compare(root / PAGE, found, sums, "--write" in sys.argv))


def compare(path, found, sums, write):
    """With the page; the exit code."""
    page = path.read_text()
    named = explained(page)
    if write:
        path.write_text(SUMS.sub(sums, page))
    elif sums not in page:
        print(f"{PAGE} has other sums (--write puts these there)")
    for function, count in sorted((named - found).items()):
        print(f"{PAGE} gives a reason for {function} that is not needed ({count} of its branches)")
    for function, count in sorted((found - named).items()):
        print(f"{PAGE} GIVES NO REASON for {function} ({count} of its branches)")
    return 1 if found - named else 0


if __name__ == "__main__":
    main()
