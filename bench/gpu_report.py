"""The JSON and the table of gpu.sh. Called by it; standard library only.

gpu_report.py COMMAND ARGUMENTS...; each command prints what its section of the file will hold, but
`assemble`, which puts the sections together, writes the file and prints the table.
"""

import csv
import datetime
import json
import pathlib
import platform
import re
import statistics
import sys
import xml.etree.ElementTree

NEGATIVE = ("boring", "dull", "awful", "slow")
POSITIVE = ("superb", "lovely", "brilliant", "warm")


def small_data():
    """A data set that even the simulated device trains on in a moment."""
    print("text,label")
    for i in range(48):
        words = (NEGATIVE, POSITIVE)[i % 2]
        text = " ".join(["the", "film", "was"][: 1 + i % 3] + [words[i // 2 % 4]] * (1 + i % 2))
        print(f"{text},{i % 2}")


def read_history(folder):
    lines = (pathlib.Path(folder) / "history.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


# ---- what the sections hold ----


def machine(work):
    data = {"host": platform.machine(), "system": platform.platform()}
    card = pathlib.Path(work, "card.csv")
    if card.exists():
        data["card"] = read_card(card)
    data["text"] = pathlib.Path(work, "machine.txt").read_text(encoding="utf-8").splitlines()
    return data


def read_card(path):
    """nvidia-smi's CSV: one line of names, one of values."""
    with open(path, encoding="utf-8") as file:
        names, values = list(csv.reader(file))[:2]
    return {name.split("[")[0].strip(): value.strip() for name, value in zip(names, values)}


def architecture(path):
    return read_card(path)["compute_cap"].replace(".", "")


def result_name(work):
    card = pathlib.Path(work, "card.csv")
    device = read_card(card)["name"] if card.exists() else "unknown"
    slug = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    return f"gpu-{slug}-{datetime.datetime.now(datetime.timezone.utc):%Y%m%d-%H%M}"


def tests(path):
    """Counts and slowest tests of a JUnit file of ctest."""
    cases = xml.etree.ElementTree.parse(path).getroot().findall("testcase")
    states = [case.get("status") for case in cases]
    if "run" not in states:
        sys.exit("no test ran: where tests find no device they are skipped")
    slow = sorted(cases, key=lambda case: -float(case.get("time", 0)))[:5]
    return {
        "passed": states.count("run"),
        "failed": [c.get("name") for c in cases if c.get("status") == "fail"],
        "skipped": [c.get("name") for c in cases if c.get("status") == "notrun"],
        "slowest": {c.get("name"): float(c.get("time", 0)) for c in slow},
    }


def origin(path, device):
    """Refuse figures that are not of the device they will be published for."""
    figures = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))["figures_of"]
    wanted = {"cuda": "gpu", "sim": "simulated device"}[device]
    if figures != wanted:
        pathlib.Path(path).unlink()
        sys.exit(f"these are figures of the {figures}, not of the {wanted}: not published")


def checkpoint(path, device):
    """What `cairn bench checkpoint` measured, if it was on the device that is said."""
    figures = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    kernel_path = figures["device"]["kernel_path"]
    if kernel_path.startswith("simulated") != (device == "sim") or "cuda" not in kernel_path:
        sys.exit(f"these are figures of the path {kernel_path}: not published")
    for entries, name in ((figures["options"], "data"), (figures["facts"], "data of the real state")):
        entries[name] = pathlib.Path(entries[name]).name  # where it lies is nobody's business
    for entries, name in ((figures["options"], "dir"), (figures["options"], "json"), (figures["facts"], "dir")):
        entries.pop(name, None)
    return figures


def epochs(work, variants):
    data = {}
    for variant in variants:
        folder = pathlib.Path(work, f"epochs-{variant}")
        if not (folder / "history.jsonl").exists():
            continue
        events = read_history(folder)
        rows = [event for event in events if event["event"] == "epoch"]
        seconds = [row["train_seconds"] for row in rows]
        # The first epoch has warm-up in it: loading of kernels, recording of the graph.
        later = seconds[1:] or seconds
        data[variant] = {
            "kernel_path": events[0]["kernel_path"],
            "steps_per_epoch": rows[0]["step"],
            "train_seconds": seconds,
            "median_after_first": statistics.median(later),
            "loss": [row["loss"] for row in rows],
        }
    recorded, plain = data.get("fused-graph"), data.get("fused-no-graph")
    if recorded and plain and recorded["loss"] != plain["loss"]:
        sys.exit("a recorded step gives other losses than the same step without a graph")
    if not data:
        sys.exit("no run left a history")
    return data


def percentile(values, part):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def saves(folder):
    events = read_history(folder)
    stalls = [e["stall_us"] for e in events if e["event"] == "save" and "stall_us" in e]
    end = events[-1]
    return {
        "saves": end["saves"],
        "skipped": end["saves_skipped"],
        "failed": end["saves_failed"],
        "steps": end["steps"],
        "stall_us": {
            "median": statistics.median(stalls),
            "p99": percentile(stalls, 0.99),
            "max": max(stalls),
        },
        "durable_ms_median": statistics.median(
            e["durable_ms"] for e in events if e["event"] == "save" and "durable_ms" in e
        ),
    }


# ---- the file and the table ----


def read_sections(work):
    sections = {}
    for line in pathlib.Path(work, "sections.tsv").read_text(encoding="utf-8").splitlines():
        name, status, code, seconds = line.split("\t")
        entry = {"status": status, "seconds": int(seconds)}
        log = pathlib.Path(work, f"{name}.log").read_text(encoding="utf-8", errors="replace")
        tail = log.strip().splitlines()[-40:]
        if status == "skipped":
            entry["why"] = tail[-1] if tail else ""
        elif status == "failed":
            entry["exit_code"] = int(code)
            entry["error"] = tail
        data = pathlib.Path(work, f"{name}.json")
        if data.exists() and data.stat().st_size:
            entry["data"] = json.loads(data.read_text(encoding="utf-8"))
        sections[name] = entry
    return sections


def per_step_rows(ops):
    for entry in ops["entries"]:
        if entry["op"].endswith("per step"):
            yield (
                f"{entry['op']}, H={entry['shape']['hidden']} B={entry['batch']['sequences']}"
                f" ({entry['variant']})",
                f"{entry['median']:.3f} us",
            )


def table(sections):
    """Rows of two columns; the whole is in the JSON."""
    rows = [(name, f"{s['status']}, {s['seconds']} s") for name, s in sections.items()]
    data = {name: s["data"] for name, s in sections.items() if "data" in s}
    if "ops" in data:
        rows += per_step_rows(data["ops"])
        for entry in data["ops"]["entries"]:
            if entry["section"] in ("step", "save"):
                what = f"{entry['op']}, {entry['batch']['lengths']} ({entry['variant']})"
                rows.append((what, f"{entry['median']:.1f} {entry['unit']}"))
    for variant, run in data.get("epochs", {}).items():
        rows.append((f"epoch of {run['steps_per_epoch']} steps ({variant})",
                     f"{run['median_after_first']:.3f} s"))
    if "saves" in data:
        stall = data["saves"]["stall_us"]
        rows.append((f"training stood still, {data['saves']['saves']} saves: median, p99, max",
                     f"{stall['median']:.0f}, {stall['p99']:.0f}, {stall['max']:.0f} us"))
    for figure in data.get("checkpoint", {}).get("figures", []):
        usual = figure["section"].endswith(("every 10", "every 50"))
        if usual and figure["name"] in ("stall p50", "durable p50") and figure["median"] is not None:
            rows.append((f"{figure['section']}: {figure['name']}", f"{figure['median']:.4g} {figure['unit']}"))
    for entry in data.get("torch", {}).get("entries", []):
        rows.append((f"PyTorch {entry['what']}, {entry['lengths']}, TF32 {entry['tf32']}",
                     f"{entry['median']:.1f} us"))
    return rows


def assemble(work, output, device, quick, data):
    sections = read_sections(work)
    simulated = device == "sim"
    result = {
        "program": "bench/gpu.sh",
        "format": 1,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "simulated": simulated,
        "quick": quick == "1",
        "data": pathlib.Path(data).name,  # where it lies is nobody's business
        "failed": [name for name, entry in sections.items() if entry["status"] == "failed"],
        "sections": sections,
    }
    pathlib.Path(output).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print()
    if simulated:
        print("SIMULATED device: these figures say nothing about a GPU.")
    for what, value in table(sections):
        print(f"{what:64} {value}")


def main():
    command, arguments = sys.argv[1], sys.argv[2:]
    if command == "small-data":
        small_data()
    elif command == "origin":
        origin(*arguments)
    elif command == "assemble":
        assemble(*arguments)
    elif command == "name":
        print(result_name(*arguments))
    elif command == "architecture":
        print(architecture(*arguments))
    else:
        makers = {
            "machine": machine,
            "tests": tests,
            "epochs": lambda work, *variants: epochs(work, variants),
            "saves": saves,
            "checkpoint": checkpoint,
            "text": lambda path: pathlib.Path(path).read_text(encoding="utf-8").splitlines(),
        }
        print(json.dumps(makers[command](*arguments), indent=1))


if __name__ == "__main__":
    main()
