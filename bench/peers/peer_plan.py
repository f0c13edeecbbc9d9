"""What cpu_epoch.py computes without running anything: batches, samples of an epoch, schedules, statistics.

An epoch is a list of batches, a batch a list of indices of examples. Its cost for a system that pads is
taken from `positions`: the number of examples times the length of the longest, summed over batches.
"""

import argparse
import math
import random
import statistics


def at_least_one(text):
    """The type of an option of argparse."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, not {text!r}")
    return value


def random_batches(count, batch_size, seed):
    """All examples in one random order, cut into batches; the last may be smaller."""
    order = list(range(count))
    random.Random(seed).shuffle(order)
    return [order[i : i + batch_size] for i in range(0, count, batch_size)]


def window_batches(lengths, batch_size, window, seed):
    """Batches of similar length, as Cairn's --bucket-window and every length-bucketing loader makes them.

    A random order is cut into windows of `window` examples (rounded up to whole batches), each is sorted
    by length and cut into batches; the batches are then taken in random order.
    """
    generator = random.Random(seed)
    order = list(range(len(lengths)))
    generator.shuffle(order)
    window = math.ceil(window / batch_size) * batch_size
    batches = []
    for begin in range(0, len(order), window):
        part = sorted(order[begin : begin + window], key=lengths.__getitem__)
        batches += [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
    generator.shuffle(batches)
    return batches


def longest(batch, lengths):
    return max(lengths[i] for i in batch)


def positions(batches, lengths):
    """Padded positions: what a padding system computes, in tokens."""
    return sum(len(batch) * longest(batch, lengths) for batch in batches)


def tokens(batches, lengths):
    return sum(lengths[i] for batch in batches for i in batch)


def sample_batches(batches, lengths, count):
    """`count` of an epoch's batches that stand for all of them, in the epoch's order.

    The batches are ranked by their longest example and the middle one of each of `count` equal parts of
    that ranking is taken, so that short and long batches have the shares that they have in the epoch.
    0, or at least as many as there are, means all.
    """
    if count <= 0 or count >= len(batches):
        return list(batches)
    ranked = sorted(range(len(batches)), key=lambda i: (longest(batches[i], lengths), i))
    chosen = {ranked[(2 * k + 1) * len(ranked) // (2 * count)] for k in range(count)}
    return [batches[i] for i in sorted(chosen)]


def scale_of(sample, batches, lengths):
    """The factor from the sample's seconds to the epoch's: by padded positions, 1 for a whole epoch."""
    return positions(batches, lengths) / positions(sample, lengths)


def round_schedule(names, baseline, round_index):
    """The measurements of one round: pairs (system, baseline), in turn.

    Every other system is measured next to a measurement of the baseline, so that a slow minute of the
    machine hits both sides of a ratio. Odd rounds go backwards through the systems, and in every round
    the baseline comes first in every second pair: a drift of the machine cancels.
    """
    others = [name for name in names if name != baseline]
    if round_index % 2 == 1:
        others.reverse()
    schedule = []
    for index, name in enumerate(others):
        pair = [name, baseline] if baseline in names else [name]
        if (index + round_index) % 2 == 1:
            pair.reverse()
        schedule.append(pair)
    return schedule if others else [[baseline]]


def spread(values):
    """Median, smallest and largest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def show_spread(values, digits):
    a = spread(values)
    return f"{a['median']:.{digits}f} ({a['min']:.{digits}f} to {a['max']:.{digits}f})"


def summarise(names, baseline, pairs, steps_per_epoch):
    """One entry per system from `pairs`, a list of {system: seconds per epoch} with one or two keys.

    `ratio` is the system's seconds over those of the baseline in the same pair: above 1, the baseline is
    faster by that factor. The baseline has no ratio.
    """
    entries = []
    for name in names:
        seconds = [pair[name] for pair in pairs if name in pair]
        entry = {
            "system": name,
            "seconds": seconds,
            "seconds_per_epoch": spread(seconds),
            "ms_per_step": spread([1e3 * s / steps_per_epoch for s in seconds]),
        }
        if name != baseline and baseline in names:
            entry["ratios"] = [pair[name] / pair[baseline] for pair in pairs if name in pair]
            entry["ratio"] = spread(entry["ratios"])
        entries.append(entry)
    return entries


def compare(peers, ours, entries, baseline):
    """{peer: {one of ours: {"ratio", "worst"}}} from the entries of `summarise`.

    To the baseline a peer has pairs: their median and the worst of them. To the others it has none: the
    ratio of the medians, and the peer's least seconds over our most.
    """
    by_name = {entry["system"]: entry for entry in entries}
    result = {}
    for peer in peers:
        result[peer] = {}
        for name in ours:
            if name == baseline:
                spread_of = by_name[peer]["ratio"]
                result[peer][name] = {"ratio": spread_of["median"], "worst": spread_of["min"]}
            else:
                theirs, own = by_name[peer]["seconds_per_epoch"], by_name[name]["seconds_per_epoch"]
                ratio = theirs["median"] / own["median"]
                result[peer][name] = {"ratio": ratio, "worst": theirs["min"] / own["max"]}
    return result
