# SPDX-License-Identifier: Apache-2.0
"""Times the prompt and tokens of IBM's Foundation Model Stack; prints one JSON object."""

import torch
from fms.models import get_model

import shape
import torch_timing


def make_model(dtype):
    model = get_model(
        "llama", "7b", device_type="cpu", data_type=dtype, src_vocab_size=shape.VOCABULARY,
        emb_dim=shape.HIDDEN, nheads=shape.HEADS, kvheads=shape.KEY_VALUE_HEADS,
        nlayers=shape.LAYERS, hidden_grow_factor=shape.INTERMEDIATE / shape.HIDDEN, multiple_of=1,
        norm_eps=shape.EPSILON, rope_theta=shape.ROPE_THETA, max_expected_seq_len=shape.CONTEXT)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=shape.STANDARD_DEVIATION)
    return model.eval()


def main():
    options = torch_timing.options_of(__doc__)
    model = make_model(torch_timing.DTYPES[options.dtype])

    def step(ids, cache):
        logits, cache = model(ids, past_key_value_states=cache, use_cache=True, last_n_tokens=1)
        return logits.view(1, -1).argmax(-1, keepdim=True), cache

    torch_timing.measure(step, options)


main()
