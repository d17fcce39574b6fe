#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks that a job ends as a whole when one of its ranks does not go on.

Usage: failures.py PROGRAM WHAT EXIT_CODE LAUNCHER...

Starts `LAUNCHER... PROGRAM WHAT`. The job must end by itself with a code other than 0 (with EXIT_CODE
if that is not "any"), each rank that can must have printed why, and no process may be left.

Nothing here depends on how fast the machine is: PATIENCE only tells a job that hangs from one that
ends, and ranks miss a deadline only where one of them is stopped for good.
"""

import os
import re
import subprocess
import sys
import time

PATIENCE = 120.0
# Of every wait for a peer, in seconds.
DEADLINES = {"kill": "100", "stop": "3", "error": "100"}


def alive(process):
    try:
        with open(f"/proc/{process}/stat", encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def left_of(processes):
    """Those that are still there after the launcher had time to end them."""
    give_up = time.monotonic() + PATIENCE
    left = processes
    while left and time.monotonic() < give_up:
        time.sleep(0.05)
        left = [process for process in left if alive(process)]
    return left


def main():
    program, what, exit_code, *launcher = sys.argv[1:]
    ranks = int(launcher[launcher.index("-n") + 1])
    job = subprocess.run(
        [*launcher, program, what],
        env={**os.environ, "PORTOLAN_DEADLINE": DEADLINES[what]},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    processes = [int(number) for number in re.findall(r"^process (\d+)$", job.stderr, re.M)]
    reports = {int(rank) for rank in re.findall(r"^rank (\d+) error: ", job.stderr, re.M)}
    problems = []
    if job.returncode == 0 or exit_code not in ("any", str(job.returncode)):
        problems.append(f"the exit code is {job.returncode}")
    if len(processes) != ranks:
        problems.append(f"{len(processes)} ranks started, not {ranks}")
    left = left_of(processes)
    if left:
        problems.append(f"processes {left} are left")
    # A killed rank makes the launcher end the others before they can say anything.
    expected = {"kill": set(), "stop": set(range(ranks - 1)), "error": set(range(ranks))}[what]
    if not expected <= reports:
        problems.append(f"ranks {sorted(expected - reports)} did not say why they ended")
    print(job.stderr, end="")
    for problem in problems:
        print("problem:", problem)
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
