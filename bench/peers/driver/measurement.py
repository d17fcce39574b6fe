# SPDX-License-Identifier: Apache-2.0
"""The measuring itself: groups take turns, one pass each, and only one computes at a time."""

import contextlib
import random
import sys
import time

from driver import machine
from driver.groups import Group, GroupError

# Between an answer and the next command: for the ranks that did not answer to come to rest.
SETTLE_SECONDS = 0.02
# Largest difference of sampled logits between ways, relative to the largest sampled logit.
LOGIT_TOLERANCE = {"f32": 1e-4, "bf16": 6e-2}


def say(text):
    print(text, file=sys.stderr, flush=True)


class Turn:
    """One group's forward or floor, and its samples per length."""

    def __init__(self, group, action):
        self.group = group
        self.action = action
        self.samples = {}
        self.cpu_samples = {}
        self.idle_cpu_shares = []
        self.foreign_shares = []

    @property
    def name(self):
        return f"{self.group.entry.name} {self.action}"


class LogitCheck:
    """Compares sampled logits of every peer with those of the first one asked."""

    def __init__(self, dtype):
        self.tolerance = LOGIT_TOLERANCE[dtype]
        self.references = {}
        self.largest_difference = 0.0

    def add(self, group, length):
        values = {}
        for answer in group.ask(f"logits {length}"):
            for row, token, value in answer["logits"]:
                values[row, token] = value
        name, reference = self.references.setdefault(length, (group.entry.name, values))
        if values.keys() != reference.keys():
            raise GroupError(f"{group.entry.name}: expected logits at the positions of {name}'s")
        scale = max(abs(value) for value in reference.values())
        difference = max(abs(values[key] - reference[key]) for key in reference) / scale
        # Written so that a NaN fails too.
        if not difference <= self.tolerance:
            raise GroupError(
                f"{group.entry.name}: logits at length {length} differ from those of {name} by"
                f" {difference:.2g} of the largest, expected at most {self.tolerance:g}"
            )
        self.largest_difference = max(self.largest_difference, difference)


def take_turn(turn, groups, length, keep):
    time.sleep(SETTLE_SECONDS)
    others = [group for group in groups if group is not turn.group]
    own_before, others_before = turn.group.cpu_seconds(), [other.cpu_seconds() for other in others]
    busy_before, steal_before = machine.busy_seconds()
    start = time.monotonic()
    seconds = turn.group.seconds(f"{turn.action} {length}")
    wall = time.monotonic() - start
    busy, steal = machine.busy_seconds()
    own = turn.group.cpu_seconds() - own_before
    idle = sum(other.cpu_seconds() for other in others) - sum(others_before)
    if keep:
        turn.samples.setdefault(length, []).append(seconds)
        turn.cpu_samples.setdefault(length, []).append(own)
        turn.idle_cpu_shares.append(idle / wall)
        foreign = busy - busy_before - own - idle + steal - steal_before
        turn.foreign_shares.append(max(0.0, foreign / wall))


def run_round(settings, entries, lengths, warmup, passes, check):
    """Starts the groups of one round, times them and stops them; [(Turn, facts of its group)]."""
    with contextlib.ExitStack() as stack:
        groups = []
        for entry in entries:
            say(f"run: starting {entry.name} ({entry.dtype})")
            groups.append(stack.enter_context(Group(settings, entry)))
        say(f"run: {machine.available_memory() / 1e9:.1f} GB of memory left")
        turns = []
        for group in groups:
            turns.append(Turn(group, "forward"))
            if group.entry.is_portolan:
                turns.append(Turn(group, "floor"))
        for length in lengths:
            for number in range(warmup + passes):
                keep = number >= warmup
                label = f"pass {number - warmup + 1}" if keep else f"warm-up {number + 1}"
                say(f"run: length {length}, {label}")
                # Another order each time, so that no way always follows the same other one.
                for turn in random.Random(f"{length} {number}").sample(turns, len(turns)):
                    take_turn(turn, groups, length, keep)
            for group in groups:
                if not group.entry.is_portolan:
                    check.add(group, length)
        return [(turn, closing_facts(turn.group)) for turn in turns]


def closing_facts(group):
    answers = group.ask("memory")
    peaks = [answer["resident_peak"] for answer in answers]
    if group.entry.is_portolan:
        peaks = peaks[0]
    return {"resident_peak": peaks, "binding": group.binding(), "ready": group.ready[0]}
