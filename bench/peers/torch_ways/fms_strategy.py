# SPDX-License-Identifier: Apache-2.0
"""Tensor parallelism as IBM's Foundation Model Stack ships it (TensorParallelStrategy).

It shards attention and feed-forward and keeps embedding and head whole on every rank, so that each
rank computes the logits of the whole vocabulary.
"""

import torch
import torch.distributed as dist
from fms.models import get_model


def interleaved(weight, head_dim):
    """Rows of each head from the half-split rotary convention to that of pairs, which FMS uses."""
    rows, columns = weight.shape
    by_halves = weight.view(rows // head_dim, 2, head_dim // 2, columns)
    return by_halves.transpose(1, 2).reshape(rows, columns)


def fms_parameters(weights):
    """FMS's name of each matrix -> how to make this rank's part of it."""
    head_dim = weights.sizes.head_dim
    makers = {
        "base_model.embedding.weight": lambda: weights.full("embedding"),
        "head.weight": lambda: weights.full("head"),
    }

    def add_layer(ours, theirs):
        makers[theirs + "attn.in_proj.qkv_fused.weight"] = lambda: torch.cat(
            [
                interleaved(weights.shard(ours + "query"), head_dim),
                interleaved(weights.shard(ours + "key"), head_dim),
                weights.shard(ours + "value"),
            ]
        )
        makers[theirs + "attn.dense.weight"] = lambda: weights.shard(ours + "output")
        makers[theirs + "ff_sub_layer.wg1_fused.weight"] = lambda: torch.cat(
            [weights.shard(ours + "gate"), weights.shard(ours + "up")]
        )
        makers[theirs + "ff_sub_layer.w2.weight"] = lambda: weights.shard(ours + "down")

    for layer in range(weights.sizes.layers):
        add_layer(f"layers.{layer}.", f"base_model.layers.{layer}.")
    return makers


def fms_llama(weights, maximum_length):
    sizes = weights.sizes
    model = get_model(
        "llama",
        "7b",
        device_type="cpu",
        data_type=weights.dtype,
        distributed_strategy="tp",
        group=dist.group.WORLD,
        src_vocab_size=sizes.vocabulary,
        emb_dim=sizes.hidden,
        nheads=sizes.heads,
        nlayers=sizes.layers,
        hidden_grow_factor=sizes.intermediate / sizes.hidden,
        multiple_of=1,
        norm_eps=sizes.norm_epsilon,
        rope_theta=sizes.rope_theta,
        max_expected_seq_len=maximum_length,
    )
    makers = fms_parameters(weights)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(False)
        if parameter.dim() == 1:
            parameter.fill_(1)  # a norm's
        elif name in makers:
            parameter.copy_(makers.pop(name)())
        else:
            raise ValueError(f"ibm-fms: unknown parameter {name}: its names have changed")
    if makers:
        raise ValueError(f"ibm-fms: no parameter {', '.join(makers)}: its names have changed")
    return model.eval()
