# SPDX-License-Identifier: Apache-2.0
"""Times transformers' prompt and tokens; prints one JSON object."""

import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

import shape
import torch_timing


def make_model(dtype):
    config = LlamaConfig(
        hidden_size=shape.HIDDEN, intermediate_size=shape.INTERMEDIATE,
        num_hidden_layers=shape.LAYERS, num_attention_heads=shape.HEADS,
        num_key_value_heads=shape.KEY_VALUE_HEADS, vocab_size=shape.VOCABULARY,
        max_position_embeddings=shape.CONTEXT, rms_norm_eps=shape.EPSILON,
        initializer_range=shape.STANDARD_DEVIATION, tie_word_embeddings=False)
    torch.set_default_dtype(dtype)
    model = LlamaForCausalLM(config).eval()
    torch.set_default_dtype(torch.float32)
    return model


def main():
    options = torch_timing.options_of(__doc__)
    model = make_model(torch_timing.DTYPES[options.dtype])

    def step(ids, cache):
        cache = DynamicCache() if cache is None else cache
        output = model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return output.logits[:, -1].argmax(-1, keepdim=True), cache

    torch_timing.measure(step, options)


main()
