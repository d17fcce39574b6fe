# SPDX-License-Identifier: Apache-2.0
"""Medians, ratios, the table and the JSON document."""

import statistics

# Above these shares of a core the figures are not to be trusted, and the report says so.
IDLE_LIMIT = 0.02
FOREIGN_LIMIT = 0.10


def summary(samples):
    return {
        "median": statistics.median(samples),
        "min": min(samples),
        "max": max(samples),
        "samples": samples,
    }


class Report:
    """Collects the rounds of one run; their numbers go on over dtypes."""

    def __init__(self, settings, lengths, warmup, passes):
        self.settings = settings
        self.lengths = lengths
        self.warmup = warmup
        self.passes = passes
        self.rows = []
        self.portolan = {}
        self.logit_differences = {}
        self.idle_shares = []
        self.foreign_shares = []
        self.peer_versions = {}
        self.rounds = 0

    def add_round(self, results):
        """`results` as from run_round. Ratios are to Portolan's times in the same round."""
        own = {
            (turn.group.entry.mode, turn.action): turn.samples
            for turn, _ in results
            if turn.group.entry.is_portolan
        }
        for turn, facts in results:
            entry = turn.group.entry
            self.idle_shares += turn.idle_cpu_shares
            self.foreign_shares += turn.foreign_shares
            for length in self.lengths:
                samples = turn.samples[length]
                if entry.is_portolan:
                    key = (entry.dtype, entry.mode, turn.action, length)
                    self.portolan.setdefault(key, []).extend(samples)
                row = {
                    "way": entry.way,
                    "mode": entry.mode,
                    "variant": entry.variant or None,
                    "action": turn.action,
                    "dtype": entry.dtype,
                    "seq_len": length,
                    "batch": self.settings.batch,
                    "layers": self.settings.layers,
                    "ranks": self.settings.ranks,
                    "threads_per_rank": self.settings.threads,
                    "round": self.rounds,
                    "time_s": summary(samples),
                    "cpu_s_of_all_ranks": summary(turn.cpu_samples[length]),
                    "resident_peak_bytes": facts["resident_peak"],
                    "binding": facts["binding"],
                }
                if not entry.is_portolan:
                    self.peer_versions = facts["ready"]["versions"]
                    row["ratio"] = ratio_to(samples, own[entry.mode, "forward"][length])
                elif turn.action == "forward":
                    row["ratio_to_floor"] = ratio_to(samples, own[entry.mode, "floor"][length])
                self.rows.append(row)
        self.rounds += 1

    def table(self, dtype):
        """Lines of text: a row per way, three columns per length."""
        settings = self.settings
        width = max(len(str(length)) for length in self.lengths)
        lines = [
            f"{dtype}, {settings.preset}, {settings.layers} layers, batch {settings.batch},"
            f" {settings.ranks} ranks x {settings.threads} threads: median [min, max] of"
            f" {self.passes} passes, seconds",
            f"{'':22}" + "".join(f"{f'length {length:>{width}}':^36}" for length in self.lengths),
        ]
        lines += self.portolan_lines(dtype)
        names = []
        for row in self.rows:
            name = (row["way"], row["variant"])
            if row["dtype"] == dtype and row["variant"] and name not in names:
                names.append(name)
        for way, variant in names:
            cells = {
                row["seq_len"]: cell(row["time_s"], row["ratio"])
                for row in self.rows
                if (row["way"], row["variant"], row["dtype"]) == (way, variant, dtype)
            }
            lines.append(f"{f'{way} {variant}':22}" + "".join(cells[i] for i in self.lengths))
        return lines

    def portolan_lines(self, dtype):
        lines = []
        for mode in ("tp", "sp"):
            for action in ("forward", "floor"):
                cells = []
                for length in self.lengths:
                    samples = self.portolan.get((dtype, mode, action, length))
                    if samples is None:
                        break
                    floor = self.portolan[dtype, mode, "floor", length]
                    ratio = ratio_to(samples, floor) if action == "forward" else None
                    cells.append(cell(summary(samples), ratio, "floor"))
                if cells:
                    name = f"portolan {mode}" if action == "forward" else "  its products alone"
                    lines.append(f"{name:22}" + "".join(cells))
        return lines

    def notes(self):
        """What a reader has to know before believing the figures."""
        lines = [
            "..x: peer's time over Portolan's in the same mode and the same round (above 1"
            " Portolan is faster); for Portolan: its time over its matrix products alone (floor)."
        ]
        if self.foreign_shares and statistics.median(self.foreign_shares) > FOREIGN_LIMIT:
            lines.append(
                "warning: other programs used"
                f" {statistics.median(self.foreign_shares):.2f} of a core at the median: the"
                " machine was not quiet"
            )
        if self.idle_shares and statistics.median(self.idle_shares) > IDLE_LIMIT:
            lines.append(
                f"warning: waiting groups used {statistics.median(self.idle_shares):.3f} of a core"
                " at the median: they did not sleep"
            )
        for name in sorted({overlap(row) for row in self.rows} - {None}):
            lines.append(f"warning: the ranks of {name} are not pinned to cores of their own")
        return lines

    def document(self, facts):
        return {
            "machine": facts,
            "versions": self.peer_versions,
            "settings": {
                "preset": self.settings.preset,
                "layers": self.settings.layers,
                "batch": self.settings.batch,
                "ranks": self.settings.ranks,
                "threads_per_rank": self.settings.threads,
                "cores": list(self.settings.cores),
                "warmup": self.warmup,
                "passes": self.passes,
            },
            "quietness": {
                "idle_groups_share_of_a_core": median_and_max(self.idle_shares),
                "other_programs_share_of_a_core": median_and_max(self.foreign_shares),
            },
            "largest_logit_difference": self.logit_differences,
            "rows": self.rows,
        }


def ratio_to(samples, reference):
    """`samples` over `reference`: of the medians, and the spread of the ratios pass by pass."""
    paired = [mine / theirs for mine, theirs in zip(samples, reference)]
    return {
        "of_medians": statistics.median(samples) / statistics.median(reference),
        "pass_by_pass": summary(paired),
    }


def cell(times, ratio, suffix=""):
    text = f"{times['median']:.3f} [{times['min']:.3f}, {times['max']:.3f}]"
    factor = f"{ratio['of_medians']:.2f}x" if ratio else ""
    return f"{text:>24} {f'{factor} {suffix}' if ratio else '':<11}"


def overlap(row):
    """The row's group, if two of its processes may run on the same core or one on several."""
    masks = row["binding"]
    pinned = len(set(masks)) == len(masks) and len(masks) == row["ranks"]
    if row["threads_per_rank"] == 1:
        pinned = pinned and all(mask.isdigit() for mask in masks)
    return None if pinned else f"{row['way']} {row['variant'] or row['mode']}"


def median_and_max(values):
    return {"median": statistics.median(values), "max": max(values)} if values else None
