# SPDX-License-Identifier: Apache-2.0
"""One rank of one peer. Answers commands from stdin, one per line, by one JSON line each on stdout:

  forward LENGTH -> {"seconds": ..., "page_faults": ...} of this rank, from a barrier to its logits
  logits LENGTH  -> {"logits": [[token, vocabulary id, value], ...]} sampled, of the last forward
  memory         -> {"resident_peak": bytes} since the model was loaded
  quit

The first line says {"ready": true, ...} with the versions. Every rank gets every command from the
driver: a rank that waits sleeps in a read, and no collective is under way.
"""

import argparse
import gc
import json
import os
import resource
import sys
import time


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--way", required=True)
    parser.add_argument("--dtype", required=True, choices=["f32", "bf16"])
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--ranks", type=int, required=True)
    parser.add_argument("--rendezvous", required=True, help="a file that all ranks see")
    parser.add_argument("--cores", required=True, help="this rank's cores, as 0,1")
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--maximum-length", type=int, required=True)
    for size in ("hidden", "intermediate", "heads", "vocabulary", "layers"):
        parser.add_argument(f"--{size}", type=int, required=True)
    return parser.parse_args()


arguments = parse_arguments()
# Before PyTorch starts threads, so that all of them stay there.
os.sched_setaffinity(0, {int(core) for core in arguments.cores.split(",")})
# Libraries print to stdout; it is the driver's.
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

import datetime  # noqa: E402
import importlib.metadata  # noqa: E402

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402

from weights import RandomWeights, Sizes, token_ids  # noqa: E402

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
SAMPLED_VOCABULARY = 64


def build(way, weights):
    name, _, mode = way.rpartition("_")
    if name == "fms":
        from fms_strategy import fms_llama

        return fms_llama(weights, arguments.maximum_length)
    if name == "dtensor":
        from dtensor import dtensor_llama

        return dtensor_llama(weights, mode == "sp")
    if name == "prepacked":
        from prepacked import PrepackedLlama

        return PrepackedLlama(weights, mode == "sp")
    raise ValueError(f"unknown way {way}")


def answer(values):
    print(json.dumps(values), file=answers, flush=True)


def versions():
    packages = ("torch", "ibm-fms", "transformers", "numpy")
    found = {package: importlib.metadata.version(package) for package in packages}
    found["mkl_onednn"] = [
        line.strip("- ").strip()
        for line in torch.__config__.show().splitlines()
        if "Math Kernel Library" in line or "MKL-DNN" in line
    ]
    found["python"] = sys.version.split()[0]
    return found


def resident_peak():
    with open("/proc/self/status", encoding="ascii") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status: expected a line VmHWM, found none")


def reset_resident_peak():
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5")
    except OSError:
        pass  # some containers forbid it; the peak is then that since the start


class Server:
    def __init__(self, sizes, model):
        self.sizes = sizes
        self.model = model
        self.logits = None

    def forward(self, length):
        ids = token_ids(self.sizes, arguments.batch, length)
        self.logits = None  # its memory is the next result's
        dist.barrier()
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        start = time.perf_counter()
        self.logits = self.model(ids)
        seconds = time.perf_counter() - start
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
        return {"seconds": seconds, "page_faults": faults}

    def sample(self, length):
        """Values spread over this rank's part of the vocabulary, in the middle and the last row."""
        part = self.logits.shape[-1]
        offset = arguments.rank * part if part < self.sizes.vocabulary else 0
        step = max(1, self.sizes.vocabulary // SAMPLED_VOCABULARY)
        rows = (length // 2, length - 1)
        ids = [i for i in range(0, self.sizes.vocabulary, step) if offset <= i < offset + part]
        return {
            "logits": [
                [row, i, float(self.logits[0, row, i - offset])] for row in rows for i in ids
            ]
        }

    def run(self):
        for line in sys.stdin:
            command, *values = line.split()
            if command == "quit":
                return
            if command == "forward":
                answer(self.forward(int(values[0])))
            elif command == "logits":
                answer(self.sample(int(values[0])))
            elif command == "memory":
                answer({"resident_peak": resident_peak()})
            else:
                raise ValueError(f"unknown command {command}")


@torch.inference_mode()
def main():
    threads = len(arguments.cores.split(","))
    torch.set_num_threads(threads)
    torch.set_num_interop_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{arguments.rendezvous}",
        rank=arguments.rank,
        world_size=arguments.ranks,
        timeout=datetime.timedelta(minutes=10),
    )
    sizes = Sizes(
        hidden=arguments.hidden,
        intermediate=arguments.intermediate,
        heads=arguments.heads,
        vocabulary=arguments.vocabulary,
        layers=arguments.layers,
    )
    weights = RandomWeights(sizes, DTYPES[arguments.dtype], arguments.rank, arguments.ranks)
    model = build(arguments.way, weights)
    gc.collect()
    reset_resident_peak()
    answer({"ready": True, "versions": versions(), "threads": torch.get_num_threads()})
    Server(sizes, model).run()
    # Destroying process groups while other ranks leave can abort; there is nothing left to destroy.
    answers.flush()
    os._exit(0)


main()
