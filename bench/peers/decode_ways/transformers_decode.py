# SPDX-License-Identifier: Apache-2.0
"""Times transformers' prompt and tokens; prints one JSON object."""

import json
import time

import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

import shape

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


def make_model(dtype):
    config = LlamaConfig(
        hidden_size=shape.HIDDEN, intermediate_size=shape.INTERMEDIATE,
        num_hidden_layers=shape.LAYERS, num_attention_heads=shape.HEADS,
        num_key_value_heads=shape.KEY_VALUE_HEADS, vocab_size=shape.VOCABULARY,
        max_position_embeddings=shape.CONTEXT, rms_norm_eps=shape.EPSILON,
        initializer_range=shape.STANDARD_DEVIATION, tie_word_embeddings=False)
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    model = LlamaForCausalLM(config).eval()
    torch.set_default_dtype(torch.float32)
    return model


def main():
    parser = shape.parser(__doc__)
    parser.add_argument("--dtype", choices=list(DTYPES), required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = make_model(DTYPES[options.dtype])

    @torch.inference_mode()
    def next_token(ids, cache):
        output = model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return output.logits[:, -1].argmax(-1, keepdim=True)

    prompt = torch.randint(3, shape.VOCABULARY, (1, options.prompt))
    next_token(prompt, DynamicCache())  # warms up
    prompt_seconds = []
    for _ in range(shape.PROMPT_SAMPLES):
        cache = DynamicCache()
        start = time.perf_counter()
        token = next_token(prompt, cache)
        prompt_seconds.append(time.perf_counter() - start)
    token_seconds = []
    for _ in range(options.tokens):
        start = time.perf_counter()
        token = next_token(token, cache)
        token_seconds.append(time.perf_counter() - start)
    size = DTYPES[options.dtype].itemsize
    elements = shape.product_weights() + shape.cache_elements(options.prompt + options.tokens // 2)
    print(json.dumps({"prompt_s": prompt_seconds, "token_s": token_seconds,
                      "bytes": size * elements}))


main()
