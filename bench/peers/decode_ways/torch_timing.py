# SPDX-License-Identifier: Apache-2.0
"""What the peers made of PyTorch share: options, dtypes, timing, the JSON object."""

import json
import time

import torch

import shape

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


def options_of(description):
    parser = shape.parser(description)
    parser.add_argument("--dtype", choices=list(DTYPES), required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    return options


@torch.inference_mode()
def measure(step, options):
    """Times `step(ids, cache) -> (likeliest next token, cache)`, where no cache begins a sequence."""
    prompt = torch.randint(3, shape.VOCABULARY, (1, options.prompt))
    step(prompt, None)  # warms up
    prompt_seconds = []
    for _ in range(shape.PROMPT_SAMPLES):
        start = time.perf_counter()
        token, cache = step(prompt, None)
        prompt_seconds.append(time.perf_counter() - start)
    token_seconds = []
    for _ in range(options.tokens):
        start = time.perf_counter()
        token, cache = step(token, cache)
        token_seconds.append(time.perf_counter() - start)
    elements = shape.product_weights() + shape.cache_elements(options.prompt + options.tokens // 2)
    print(json.dumps({"prompt_s": prompt_seconds, "token_s": token_seconds,
                      "bytes": DTYPES[options.dtype].itemsize * elements}))
