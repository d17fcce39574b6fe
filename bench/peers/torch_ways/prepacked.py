# SPDX-License-Identifier: Apache-2.0
"""Tensor and sequence parallelism written by hand on torch.distributed: the hardest bar.

What someone who knows both would write to make PyTorch as fast as it goes on a CPU without changing
PyTorch: linears are oneDNN's with weights packed once, SiLU and the gate's product are fused into
them, each rank holds only its shards, and there is one collective (tp) or one pair (sp) per block.
Activations are [tokens, hidden]; under sp, of this rank's tokens, between the blocks.
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F

from weights import rotary_tables, rotate

# oneDNN chooses the packed layout for a number of rows; of 256 to 1024, this one's is good for all.
PACKED_FOR_ROWS = 512


def linear(x, packed, activation="none"):
    return torch.ops.mkldnn._linear_pointwise(x, packed, None, activation, [], "")


def linear_times(x, packed, factor):
    return torch.ops.mkldnn._linear_pointwise.binary(x, factor, packed, None, "mul")


class PrepackedLlama:
    def __init__(self, weights, sequence_parallel):
        self.sizes = weights.sizes
        self.dtype = weights.dtype
        self.rank = weights.rank
        self.ranks = weights.ranks
        self.sequence_parallel = sequence_parallel
        self.embedding = weights.shard("embedding")
        self.packed = {
            name: torch.ops.mkldnn._reorder_linear_weight(weights.shard(name), PACKED_FOR_ROWS)
            for name in weights.shapes
            if name != "embedding"
        }
        self.norm_weight = torch.ones(self.sizes.hidden, dtype=self.dtype)
        self.tables = {}

    def sum_over_ranks(self, x):
        """Partial sums of all tokens -> sums of all tokens (tp) or of this rank's (sp)."""
        if not self.sequence_parallel:
            dist.all_reduce(x)
            return x
        own = torch.empty(x.shape[0] // self.ranks, x.shape[1], dtype=x.dtype)
        dist.reduce_scatter_tensor(own, x)
        return own

    def all_tokens(self, x):
        if not self.sequence_parallel:
            return x
        gathered = torch.empty(x.shape[0] * self.ranks, x.shape[1], dtype=x.dtype)
        dist.all_gather_into_tensor(gathered, x)
        return gathered

    def norm(self, x):
        return F.rms_norm(x, (self.sizes.hidden,), self.norm_weight, self.sizes.norm_epsilon)

    def embed(self, ids):
        """The vocabulary is dealt: a rank adds zeros for tokens of others' rows."""
        rows = self.embedding.shape[0]
        local = ids.flatten() - self.rank * rows
        mine = (local >= 0) & (local < rows)
        return F.embedding(local.clamp(0, rows - 1), self.embedding) * mine[:, None]

    def heads_of(self, x, name, batch):
        """[tokens, ...] -> [batch, heads, length, head_dim]"""
        projected = linear(x, self.packed[name])
        return projected.view(batch, x.shape[0] // batch, -1, self.sizes.head_dim).transpose(1, 2)

    def attention(self, x, layer, batch, tables):
        query, key, value = (
            self.heads_of(x, f"layers.{layer}.{name}", batch) for name in ("query", "key", "value")
        )
        mixed = F.scaled_dot_product_attention(
            rotate(query, tables), rotate(key, tables), value, is_causal=True
        )
        mixed = mixed.transpose(1, 2).reshape(x.shape[0], -1)
        return linear(mixed, self.packed[f"layers.{layer}.output"])

    def feed_forward(self, x, layer):
        gate = linear(x, self.packed[f"layers.{layer}.gate"], "swish")
        product = linear_times(x, self.packed[f"layers.{layer}.up"], gate)
        return linear(product, self.packed[f"layers.{layer}.down"])

    def tables_for(self, length):
        if length not in self.tables:
            self.tables[length] = rotary_tables(self.sizes, length, self.dtype)
        return self.tables[length]

    def __call__(self, ids):
        """Logits [batch, length, vocabulary / ranks] of this rank's part of the vocabulary."""
        batch, length = ids.shape
        tables = self.tables_for(length)
        x = self.sum_over_ranks(self.embed(ids))
        for layer in range(self.sizes.layers):
            normed = self.all_tokens(self.norm(x))
            x = x + self.sum_over_ranks(self.attention(normed, layer, batch, tables))
            normed = self.all_tokens(self.norm(x))
            x = x + self.sum_over_ranks(self.feed_forward(normed, layer))
        return linear(self.all_tokens(self.norm(x)), self.packed["head"]).view(batch, length, -1)
