# SPDX-License-Identifier: Apache-2.0
"""Times PyTorch's causal attention: the peer of `portolan bench attention`.

Prints one JSON object for each dtype, length and way: `sdpa` is scaled_dot_product_attention,
`naive` the same written as two products and a softmax. Operands are contiguous [1, heads, length,
head_dim], which suits PyTorch best, and written anew before each sample, as the layer before does.
"""

import argparse
import json
import time

import torch
import torch.nn.functional as F

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


def sdpa(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def naive(q, k, v):
    scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
    hidden = torch.ones(q.shape[-2], q.shape[-2], dtype=torch.bool).triu(1)
    return torch.softmax(scores.masked_fill_(hidden, float("-inf")), dim=-1) @ v


def measure(way, originals, repeat):
    operands = [tensor.clone() for tensor in originals]
    samples = []
    for sample in range(repeat + 1):  # the first one warms up
        for operand, original in zip(operands, originals):
            operand.copy_(original)
        start = time.perf_counter()
        way(*operands)
        if sample > 0:
            samples.append(time.perf_counter() - start)
    return samples


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lengths", required=True)
    parser.add_argument("--dtypes", required=True)
    parser.add_argument("--heads", type=int, required=True)
    parser.add_argument("--head-dim", type=int, required=True)
    parser.add_argument("--repeat", type=int, required=True)
    parser.add_argument("--longest-naive", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    with torch.inference_mode():
        for dtype in options.dtypes.split(","):
            for length in map(int, options.lengths.split(",")):
                shape = (1, options.heads, length, options.head_dim)
                operands = [torch.randn(shape).to(DTYPES[dtype]) for _ in range(3)]
                for way in (sdpa, naive) if length <= options.longest_naive else (sdpa,):
                    samples = measure(way, operands, options.repeat)
                    print(json.dumps({"way": way.__name__, "dtype": dtype, "length": length,
                                      "samples_s": samples}), flush=True)


if __name__ == "__main__":
    main()
