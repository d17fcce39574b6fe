#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Stands in for mpirun and the ranks: plays a comparison's job by its specification.

FAKE_LOG       file to which each start is appended, as one JSON line
FAKE_TROUBLE   JSON {"mode", "dtype", "what"}: the job to which something happens, and what
FAKE_PIDS      file that gets the process ids of a job that hangs
"""
import json
import os
import signal
import struct
import subprocess
import sys
import time


def main():
    arguments = sys.argv[1:]
    if arguments == ["--version"]:
        print("mpirun (Open MPI) 4.1.4")
        return 0
    with open(arguments[arguments.index("--spec") + 1], encoding="utf-8") as file:
        specification = json.load(file)
    ranks = int(arguments[arguments.index("-n") + 1])
    if "FAKE_LOG" in os.environ:
        with open(os.environ["FAKE_LOG"], "a", encoding="utf-8") as file:
            names = ("OMP_NUM_THREADS", "OMP_PROC_BIND", "OMPI_ALLOW_RUN_AS_ROOT")
            file.write(json.dumps({"arguments": arguments, "specification": specification,
                                   "variables": {n: os.environ.get(n) for n in names}}) + "\n")
    trouble = json.loads(os.environ.get("FAKE_TROUBLE", "{}"))
    what = trouble.get("what", "")
    for key in ("mode", "dtype"):
        if trouble and trouble[key] != specification[key]:
            what = ""
    return play(specification, ranks, what)


def say(event):
    print(json.dumps(event), flush=True)


def play(specification, ranks, what):
    print("a library greets on stdout", flush=True)
    if what == "usage":
        print("portolan: error: the worker does not like this", file=sys.stderr, flush=True)
        return 2
    if what == "crash":
        print("a last word", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGSEGV)
    if what in ("hang", "hang hard"):
        hang(what == "hang hard")
    say({"event": "start", "ranks": ranks, "transport": "fake", "binding": ["0"] * ranks})
    say({"event": "model", "seconds": 0.1, "weight_bytes": [1000] * ranks})
    modes = [specification["mode"]]
    if specification["protocol"] == "published":
        modes = ["sp", "tp"]
    rows = []
    for mode in modes:
        for length in specification["seq_lens"]:
            row = make_row(specification, mode, length, ranks, what)
            say({"event": "forward", "seq_len": length, "repeat": 0, "seconds": 0.1})
            say({"event": "row", **row})
            rows.append(row)
            if what == "die after a row":
                return 1
    if what == "missing row":
        rows.pop()
    if what == "no result":
        return 0
    text = json.dumps({"rows": rows, "environment": {"transport": "fake", "binding": ["0"] * ranks}})
    with open(specification["result"], "w", encoding="utf-8") as file:
        file.write(text[:len(text) // 2] if what == "half a result" else text)
    write_samples(specification, what)
    say({"event": "done"})
    return 0


def make_row(specification, mode, length, ranks, what):
    seconds = [0.01 * length * (1 + 0.01 * i) for i in range(specification["repeat"])]
    if specification["protocol"] == "published":
        seconds = seconds[:1]
    collective = {"none": None, "tp": "all_reduce", "sp": "all_gather", "ring": "ring_shift"}[mode]
    counted = {}
    if collective:
        counted[collective] = {"calls": 4, "bytes": 64 * length * ranks, "seconds": seconds[0] / 10}
    expected = {name: {"calls": use["calls"], "bytes": use["bytes"]}
                for name, use in counted.items()}
    if what == "counters" and collective:
        expected[collective]["bytes"] += 8
    if what == "unexpected collective":
        counted["broadcast"] = {"calls": 1, "bytes": 8, "seconds": 0.0}
    before = 0
    if specification["protocol"] == "published" and mode == "tp" or what == "leftover":
        before = 1000000
    return {
        "mode": mode, "dtype": specification["dtype"], "seq_len": length,
        "batch": specification["batch"], "layers": specification["layers"], "ranks": ranks,
        "threads_per_rank": specification["threads"] + (1 if what == "threads" else 0),
        "proven": True,
        "time_s": {"median": sorted(seconds)[len(seconds) // 2], "min": min(seconds),
                   "max": max(seconds), "samples": seconds},
        "floor_s": None if specification["protocol"] == "published" else 0.9 * min(seconds),
        "memory_bytes": {"allocated_before_model": [before] * ranks,
                         "allocated_peak": [2000000 + 100 * length] * ranks,
                         "reserved_peak": [2100000 + 100 * length] * ranks,
                         "resident_peak": [9000000 + 100 * length] * ranks,
                         "weights": [1000000] * ranks},
        "communication": {"calls": sum(u["calls"] for u in counted.values()),
                          "bytes": sum(u["bytes"] for u in counted.values()),
                          "seconds": sum(u["seconds"] for u in counted.values()),
                          "by_collective": counted, "expected": expected}}


def write_samples(specification, what):
    header, data = {}, b""
    for length in specification["seq_lens"]:
        values = [0.5, -2.0, 1.0, 0.25]
        if specification["mode"] != "none":
            values[0] += 1e-5
        if what == "logits":
            values[1] += 1.0
        if what == "nan":
            values[2] = float("nan")
        for name, dtype, shape, packed in (
                (f"rows.{length}", "I64", [2], struct.pack("<2q", 0, length - 1)),
                (f"logits.{length}", "F32", [2, 2], struct.pack("<4f", *values))):
            header[name] = {"dtype": dtype, "shape": shape,
                            "data_offsets": [len(data), len(data) + len(packed)]}
            data += packed
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(specification["samples"], "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)


def hang(hard):
    """Sleeps for ever, with a rank in a process group of its own, as Open MPI starts them."""
    if hard:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    rank = subprocess.Popen(["sleep", "600"], start_new_session=True)
    with open(os.environ["FAKE_PIDS"] + ".partial", "w", encoding="utf-8") as file:
        file.write(f"{os.getpid()} {rank.pid}")
    os.rename(os.environ["FAKE_PIDS"] + ".partial", os.environ["FAKE_PIDS"])
    time.sleep(600)


if __name__ == "__main__":
    sys.exit(main())
