#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Stands in for sbatch: tells what was asked for, and runs the job at once.

As SLURM does, it runs a copy of the script in the folder of --chdir, with what the job was given in the
environment and its output in the file of --output.

FAKE_SBATCH_LOG     file that gets the request as JSON
FAKE_SBATCH_REFUSE  text: refuse the job with it
FAKE_SBATCH_ONLY    if set, the job is not run
FAKE_SBATCH_TIME_UP_AT  text: when the log has it, the time is up soon, and the script gets the signal
                    that it asked for by --signal=B:
"""
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

JOB = "4711"


def options_of(words):
    """{name: value} of `--name=value` and `--name`."""
    return {name: value for name, _, value in (word.lstrip("-").partition("=") for word in words)}


def main():
    words = sys.argv[1:]
    end = next(i for i, word in enumerate(words) if not word.startswith("--"))
    script, arguments = pathlib.Path(words[end]), words[end + 1:]
    requested = []
    for line in script.read_text(encoding="utf-8").splitlines():
        if line.startswith("#SBATCH "):
            requested.append(line.removeprefix("#SBATCH "))
        elif line and not line.startswith("#"):
            break  # as in SLURM, what follows the first command does not count
    options = options_of(requested) | options_of(words[:end])
    variables = {name: value for name, value in os.environ.items() if name.startswith("PORTOLAN_")}
    if "FAKE_SBATCH_REFUSE" in os.environ:
        print("sbatch: error: " + os.environ["FAKE_SBATCH_REFUSE"], file=sys.stderr)
        return 1
    with open(os.environ["FAKE_SBATCH_LOG"], "w", encoding="utf-8") as file:
        json.dump({"options": options, "script": str(script), "arguments": arguments,
                   "variables": variables}, file)
    if "FAKE_SBATCH_ONLY" not in os.environ:
        run(script, arguments, options)
    print(JOB + ";cluster")
    return 0


def run(script, arguments, options):
    environment = dict(os.environ, SLURM_JOB_ID=JOB, SLURM_JOB_NAME=options["job-name"],
                       SLURM_NTASKS=options["ntasks"], SLURM_JOB_NUM_NODES=options["nodes"],
                       SLURM_CPUS_PER_TASK=options["cpus-per-task"], SLURM_PROCID="0",
                       SLURM_JOB_NODELIST="node1")
    output = options["output"].replace("%x", options["job-name"]).replace("%j", JOB)
    with tempfile.TemporaryDirectory() as spool, open(output, "wb") as log:
        copy = pathlib.Path(spool) / "slurm_script"
        copy.write_bytes(script.read_bytes())
        copy.chmod(0o700)
        job = subprocess.Popen([copy, *arguments], cwd=options["chdir"], env=environment, stdout=log,
                               stderr=subprocess.STDOUT)
        text = os.environ.get("FAKE_SBATCH_TIME_UP_AT")
        while text and job.poll() is None:
            if text in pathlib.Path(output).read_text(encoding="utf-8"):
                name = options["signal"].removeprefix("B:").partition("@")[0]
                job.send_signal(getattr(signal, "SIG" + name))
                break
            time.sleep(0.01)
        job.wait()


if __name__ == "__main__":
    sys.exit(main())
