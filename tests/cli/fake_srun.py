#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Stands in for srun: starts real ranks by mpirun.

FAKE_SRUN_LOG  file to which each start is appended, as one JSON line
"""
import json
import os
import sys


def main():
    arguments = sys.argv[1:]
    if arguments == ["--version"]:
        print("slurm 22.05.8")
        return 0
    ranks = int(arguments[arguments.index("-n") + 1])
    end = next(i for i, word in enumerate(arguments) if word.startswith("/"))
    names = ("OMP_NUM_THREADS", "OMP_PLACES", "OMP_PROC_BIND", "SLURM_MPI_TYPE")
    with open(os.environ["FAKE_SRUN_LOG"], "a", encoding="utf-8") as file:
        file.write(json.dumps({"ranks": ranks, "options": arguments[:end],
                               "variables": {n: os.environ.get(n) for n in names}}) + "\n")
    # mpirun itself would start ranks by srun where it finds a job.
    environment = {name: value for name, value in os.environ.items()
                   if not name.startswith("SLURM_")}
    command = ["mpirun", "-n", str(ranks), "--oversubscribe", "--bind-to", "none", *arguments[end:]]
    os.execvpe(command[0], command, environment)


if __name__ == "__main__":
    sys.exit(main())
