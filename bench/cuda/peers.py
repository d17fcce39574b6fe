#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Times Portolan's attention kernels beside those of PyTorch, in one process on one GPU.

Usage: peers.py LIBRARY [--quick] [--csv FILE] [--samples N]

LIBRARY is the shared library of the plain launchers that scripts/gpu_check builds. For each shape
the ways take turns, sample by sample, so that all see the same state of the GPU; runs read one of
two sets of random operands in turn. Shapes and FLOPs are those of bench/cuda/main.cu: 16384 tokens in
all, hidden size 2048, bf16; 4 FLOPs per visible score and element of head_dim forward, 10 backward.
Before it is timed, each way's result is compared with that of PyTorch's plain attention in f32.

Exit codes: 0 done, 1 a result is wrong, 2 PyTorch or a GPU is missing.
"""
import argparse
import contextlib
import ctypes
import statistics
import sys

try:
    import torch
    import torch.nn.functional as functional
    from torch.nn.attention import SDPBackend, sdpa_kernel
except ImportError as error:
    print(f"peers: PyTorch is not here ({error})", file=sys.stderr)
    sys.exit(2)

TOKENS = 16384
HIDDEN = 2048
SETS = 2
WARM_UP = 3
# The GPU is idle when a sample starts and waits for Python to enqueue the first run: that is a
# small part of a sample as long as this.
SAMPLE_MILLISECONDS = 2.0
TOLERANCE = 2e-2  # of results in bf16, in the Euclidean norm
POINTERS = ("q", "k", "v", "out", "log_sum_exp", "grad_out", "delta", "dq", "dk", "dv", "workspace",
            "stream")


class Attention(ctypes.Structure):
    """PortolanAttention of bench/cuda/launchers.hpp."""
    _fields_ = ([(name, ctypes.c_int32) for name in ("architecture", "is_bf16", "causal", "reserved")]
                + [(name, ctypes.c_int64) for name in ("batch", "tokens", "heads", "key_heads", "head_dim")]
                + [(name, ctypes.c_void_p) for name in POINTERS])


def load(path):
    library = ctypes.CDLL(path)
    library.portolan_attention_workspace.restype = ctypes.c_int64
    for name in ("workspace", "forward", "backward"):
        getattr(library, f"portolan_attention_{name}").argtypes = [ctypes.POINTER(Attention)]
    return library


class Operands:
    """Dense [batch, tokens, heads, head_dim] tensors, and views of them in PyTorch's order."""

    def __init__(self, batch, tokens, heads, head_dim, seed):
        generator = torch.Generator(device="cuda").manual_seed(seed)
        shape = (batch, tokens, heads, head_dim)

        def random():
            return torch.rand(shape, generator=generator, device="cuda").mul_(2).sub_(1).bfloat16()
        self.q, self.k, self.v, self.grad_out = (random() for _ in range(4))
        self.views = [tensor.transpose(1, 2).detach().requires_grad_()
                      for tensor in (self.q, self.k, self.v)]


class PortolanWay:
    def __init__(self, library, architecture, sets, causal):
        self.library = library
        self.name = f"portolan sm{architecture}"
        self.runs = []
        self.results = []
        for operands in sets:
            batch, tokens, heads, head_dim = operands.q.shape
            results = {name: torch.full_like(operands.q, float("nan"))
                       for name in ("out", "dq", "dk", "dv")}
            for name in ("log_sum_exp", "delta"):
                results[name] = torch.empty(batch, heads, tokens, device="cuda")
            run = Attention(architecture=architecture, is_bf16=1, causal=int(causal), batch=batch,
                            tokens=tokens, heads=heads, key_heads=heads, head_dim=head_dim,
                            q=operands.q.data_ptr(), k=operands.k.data_ptr(), v=operands.v.data_ptr(),
                            grad_out=operands.grad_out.data_ptr(),
                            stream=torch.cuda.current_stream().cuda_stream,
                            **{name: tensor.data_ptr() for name, tensor in results.items()})
            size = library.portolan_attention_workspace(ctypes.byref(run))
            if size < 0:
                raise RuntimeError("the shape is not served")
            results["workspace"] = torch.empty(max(size, 1), dtype=torch.uint8, device="cuda")
            run.workspace = results["workspace"].data_ptr()
            self.runs.append(run)
            self.results.append(results)

    def _call(self, name, index):
        status = getattr(self.library, f"portolan_attention_{name}")(ctypes.byref(self.runs[index]))
        if status != 0:
            raise RuntimeError(f"CUDA error {status}")

    def forward(self, index):
        self._call("forward", index)
        return self.results[index]["out"].transpose(1, 2)

    def backward(self, index):
        self._call("backward", index)
        return [self.results[index][name].transpose(1, 2) for name in ("dq", "dk", "dv")]


class TorchWay:
    def __init__(self, name, backend, sets, causal):
        self.name = f"torch {name}"
        self.backend = backend
        self.sets = sets
        self.causal = causal
        self.outs = [None] * len(sets)

    def forward(self, index):
        with sdpa_kernel([self.backend]) if self.backend else contextlib.nullcontext():
            with torch.no_grad():
                return self._attend(index)

    def _attend(self, index):
        return functional.scaled_dot_product_attention(*self.sets[index].views, is_causal=self.causal)

    def backward(self, index):
        if self.outs[index] is None:
            with sdpa_kernel([self.backend]) if self.backend else contextlib.nullcontext():
                self.outs[index] = self._attend(index)
        return torch.autograd.grad(self.outs[index], self.sets[index].views,
                                   self.sets[index].grad_out.transpose(1, 2), retain_graph=True)


def reference(operands, causal):
    """Out and gradients of the first batch entry in f32 without TF32, a head at a time."""
    results = []
    heads = operands.q.shape[2]
    for head in range(heads):
        parts = [tensor[:1, :, head].float().requires_grad_()
                 for tensor in (operands.q, operands.k, operands.v)]
        q, k, v = parts
        scores = q @ k.transpose(1, 2) * q.shape[-1] ** -0.5
        if causal:
            hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device="cuda").triu(1)
            scores = scores.masked_fill(hidden, float("-inf"))
        out = scores.softmax(-1) @ v
        gradients = torch.autograd.grad(out, parts, operands.grad_out[:1, :, head].float())
        results.append([out.detach(), *gradients])
    return [torch.stack(tensors, dim=1) for tensors in zip(*results)]


def relative_error(found, expected):
    return ((found[:1].float() - expected).norm() / expected.norm()).item()


def ways_of(library, sets, causal):
    """Those that serve the shape; why others do not goes to stderr."""
    makers = [lambda: TorchWay("flash", SDPBackend.FLASH_ATTENTION, sets, causal),
              lambda: TorchWay("cudnn", SDPBackend.CUDNN_ATTENTION, sets, causal),
              lambda: PortolanWay(library, 80, sets, causal)]
    if torch.cuda.get_device_capability() == (9, 0):
        makers.append(lambda: PortolanWay(library, 90, sets, causal))
    ways = []
    for make in makers:
        way = None
        try:
            way = make()
            way.forward(0)
            way.backward(0)
            torch.cuda.synchronize()
            ways.append(way)
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            print(f"peers: left out {way.name if way else 'portolan'}: {reason}", file=sys.stderr)
    return ways


def times_of(ways, run, samples):
    """Milliseconds of a run of each way, taking turns; short runs are timed several at a time."""
    times = {way.name: [] for way in ways}
    repeats = {way.name: 1 for way in ways}
    for sample in range(-WARM_UP, samples):
        for way in ways:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            count = repeats[way.name]
            for i in range(count):
                run(way, (sample + i) % SETS)
            end.record()
            end.synchronize()
            elapsed = start.elapsed_time(end) / count
            if sample < 0:
                repeats[way.name] = 1 + int(SAMPLE_MILLISECONDS / elapsed)
            else:
                times[way.name].append(elapsed)
    return times


def main():
    parser = argparse.ArgumentParser(description="Attention beside PyTorch's on this GPU.")
    parser.add_argument("library")
    parser.add_argument("--quick", action="store_true", help="two lengths only")
    parser.add_argument("--csv", help="write the rows to this file, too")
    parser.add_argument("--samples", type=int, default=15)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("peers: no GPU was found", file=sys.stderr)
        return 2
    torch.backends.cuda.matmul.allow_tf32 = False
    library = load(options.library)
    rows = ["way,pass,mask,head_dim,length,median_ms,min_ms,max_ms,samples,tflops"]
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, TFLOP/s of medians of "
          f"{options.samples} samples, ways taking turns")
    wrong = 0
    for head_dim in (128, 64):
        for causal in (True, False):
            for tokens in (2048, 8192) if options.quick else (512, 1024, 2048, 4096, 8192, 16384):
                wrong += shape_rows(library, head_dim, causal, tokens, options.samples, rows)
    if options.csv:
        with open(options.csv, "w", encoding="utf-8") as file:
            file.write("\n".join(rows) + "\n")
    return 1 if wrong else 0


def shape_rows(library, head_dim, causal, tokens, samples, rows):
    """Prints a line for each pass, appends to `rows`; the number of wrong results."""
    heads = HIDDEN // head_dim
    sets = [Operands(TOKENS // tokens, tokens, heads, head_dim, seed) for seed in range(SETS)]
    ways = ways_of(library, sets, causal)
    mask = "causal" if causal else "full"
    wrong = 0
    if tokens <= 4096:  # the reference holds all scores of a head
        expected = reference(sets[0], causal)
        for way in ways:
            found = [way.forward(0), *way.backward(0)]
            errors = [relative_error(*pair) for pair in zip(found, expected)]
            if not all(error <= TOLERANCE for error in errors):
                wrong += 1
                print(f"FAIL {way.name} {mask} d{head_dim} {tokens}: errors of out, dq, dk, dv "
                      + ", ".join(f"{error:.1e}" for error in errors))
    scores = TOKENS * tokens * heads * (0.5 if causal else 1.0)
    for name, operations in (("forward", 4), ("backward", 10)):
        times = times_of(ways, lambda way, index, name=name: getattr(way, name)(index), samples)
        cells = []
        for way, samples_of_way in times.items():
            median = statistics.median(samples_of_way)
            rate = operations * scores * head_dim / median * 1e-9
            cells.append(f"{way} {rate:6.0f}")
            rows.append(f"{way},{name},{mask},{head_dim},{tokens},{median:.5f},"
                        f"{min(samples_of_way):.5f},{max(samples_of_way):.5f},{samples},{rate:.1f}")
        print(f"{name:8} {mask:6} d{head_dim:<3} {tokens:6}   " + "   ".join(cells), flush=True)
    return wrong


if __name__ == "__main__":
    sys.exit(main())
