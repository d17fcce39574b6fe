# SPDX-License-Identifier: Apache-2.0
"""Sizes and random weights of a LLaMA, the same numbers for every way and any number of ranks.

Linear weights are [out, in]. Norm weights are ones. They are dealt to ranks as in Megatron-LM (M.
Shoeybi et al., 2019): query, key, value, gate, up, embedding and head by rows, output and down by
columns.
"""

import dataclasses
import math
import zlib

import torch


@dataclasses.dataclass(frozen=True)
class Sizes:
    """A LLaMA with as many key and value heads as query heads."""

    hidden: int
    intermediate: int
    heads: int
    vocabulary: int
    layers: int
    norm_epsilon: float = 1e-5
    rope_theta: float = 10000.0

    @property
    def head_dim(self):
        return self.hidden // self.heads

    def linear_shapes(self):
        """Name of each matrix -> (rows, columns, dimension that is sharded)."""
        hidden, intermediate = self.hidden, self.intermediate
        shapes = {"embedding": (self.vocabulary, hidden, 0)}
        for layer in range(self.layers):
            for name in ("query", "key", "value"):
                shapes[f"layers.{layer}.{name}"] = (hidden, hidden, 0)
            shapes[f"layers.{layer}.output"] = (hidden, hidden, 1)
            shapes[f"layers.{layer}.gate"] = (intermediate, hidden, 0)
            shapes[f"layers.{layer}.up"] = (intermediate, hidden, 0)
            shapes[f"layers.{layer}.down"] = (hidden, intermediate, 1)
        shapes["head"] = (self.vocabulary, hidden, 0)
        return shapes


class RandomWeights:
    """One rank's view of the model's weights. Each is made when asked for and not kept, so that a
    rank holds no more than one whole matrix that it does not need."""

    def __init__(self, sizes, dtype, rank, ranks):
        for name in ("heads", "intermediate", "vocabulary"):
            if getattr(sizes, name) % ranks:
                raise ValueError(f"{name} = {getattr(sizes, name)} is no multiple of {ranks} ranks")
        self.sizes = sizes
        self.dtype = dtype
        self.rank = rank
        self.ranks = ranks
        self.shapes = sizes.linear_shapes()

    def full(self, name):
        """Outputs of a linear keep about the variance of its inputs."""
        rows, columns, _ = self.shapes[name]
        bound = math.sqrt(3.0 / columns)
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        weight = torch.empty(rows, columns).uniform_(-bound, bound, generator=generator)
        return weight.to(self.dtype)

    def shard(self, name):
        dimension = self.shapes[name][2]
        return self.full(name).chunk(self.ranks, dimension)[self.rank].clone()


def token_ids(sizes, batch, length):
    """[batch, length], the same for every way."""
    generator = torch.Generator().manual_seed(7)
    return torch.randint(0, sizes.vocabulary, (batch, length), generator=generator)


def rotary_tables(sizes, length, dtype):
    """Cosines and sines, each [length, head_dim], for the half-split convention."""
    powers = torch.arange(0, sizes.head_dim, 2).float() / sizes.head_dim
    angles = torch.outer(torch.arange(length).float(), sizes.rope_theta**-powers)
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x, tables):
    """Rotary embedding of x [..., length, head_dim]."""
    cosines, sines = tables
    first, second = x.chunk(2, dim=-1)
    return x * cosines + torch.cat([-second, first], dim=-1) * sines
