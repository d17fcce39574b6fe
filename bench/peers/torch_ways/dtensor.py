# SPDX-License-Identifier: Apache-2.0
"""Tensor and sequence parallelism by PyTorch's own parallelize_module on DTensors.

The plan is the one of PyTorch's tutorial for LLaMA: column-wise projections, row-wise outputs,
vocabulary dealt in embedding and head, logits left sharded; under sp the norms and residuals are
sharded along the sequence.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

from weights import rotary_tables, rotate


class Attention(nn.Module):
    def __init__(self, sizes):
        super().__init__()
        self.head_dim = sizes.head_dim
        self.query = nn.Linear(sizes.hidden, sizes.hidden, bias=False)
        self.key = nn.Linear(sizes.hidden, sizes.hidden, bias=False)
        self.value = nn.Linear(sizes.hidden, sizes.hidden, bias=False)
        self.output = nn.Linear(sizes.hidden, sizes.hidden, bias=False)

    def forward(self, x, tables):
        batch, length, _ = x.shape
        query, key, value = (
            projection(x).view(batch, length, -1, self.head_dim).transpose(1, 2)
            for projection in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(
            rotate(query, tables), rotate(key, tables), value, is_causal=True
        )
        return self.output(mixed.transpose(1, 2).reshape(batch, length, -1))


class FeedForward(nn.Module):
    def __init__(self, sizes):
        super().__init__()
        self.gate = nn.Linear(sizes.hidden, sizes.intermediate, bias=False)
        self.up = nn.Linear(sizes.hidden, sizes.intermediate, bias=False)
        self.down = nn.Linear(sizes.intermediate, sizes.hidden, bias=False)

    def forward(self, x):
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Block(nn.Module):
    def __init__(self, sizes):
        super().__init__()
        self.attention_norm = nn.RMSNorm(sizes.hidden, eps=sizes.norm_epsilon)
        self.attention = Attention(sizes)
        self.feed_forward_norm = nn.RMSNorm(sizes.hidden, eps=sizes.norm_epsilon)
        self.feed_forward = FeedForward(sizes)

    def forward(self, x, tables):
        x = x + self.attention(self.attention_norm(x), tables)
        return x + self.feed_forward(self.feed_forward_norm(x))


class Llama(nn.Module):
    def __init__(self, sizes):
        super().__init__()
        self.sizes = sizes
        self.embedding = nn.Embedding(sizes.vocabulary, sizes.hidden)
        self.layers = nn.ModuleList(Block(sizes) for _ in range(sizes.layers))
        self.norm = nn.RMSNorm(sizes.hidden, eps=sizes.norm_epsilon)
        self.head = nn.Linear(sizes.hidden, sizes.vocabulary, bias=False)
        self.tables = {}

    def forward(self, ids):
        """Logits [batch, length, vocabulary / ranks] of this rank's part of the vocabulary."""
        length = ids.shape[1]
        if length not in self.tables:
            self.tables[length] = rotary_tables(self.sizes, length, self.norm.weight.dtype)
        x = self.embedding(ids)
        for layer in self.layers:
            x = layer(x, self.tables[length])
        return self.head(self.norm(x))


def parallelize(model, mesh, sequence_parallel, local_logits=True):
    between = Shard(1) if sequence_parallel else Replicate()
    plan = {
        "embedding": RowwiseParallel(input_layouts=Replicate(), output_layouts=between),
        "head": ColwiseParallel(
            input_layouts=between, output_layouts=Shard(-1), use_local_output=local_logits
        ),
    }
    block_plan = {
        "attention.query": ColwiseParallel(),
        "attention.key": ColwiseParallel(),
        "attention.value": ColwiseParallel(),
        "attention.output": RowwiseParallel(output_layouts=between),
        "feed_forward.gate": ColwiseParallel(),
        "feed_forward.up": ColwiseParallel(),
        "feed_forward.down": RowwiseParallel(output_layouts=between),
    }
    if sequence_parallel:
        plan["norm"] = SequenceParallel()
        block_plan |= {
            "attention_norm": SequenceParallel(),
            "feed_forward_norm": SequenceParallel(),
            "attention": PrepareModuleInput(
                input_layouts=(Shard(1), None), desired_input_layouts=(Replicate(), None)
            ),
            "feed_forward": PrepareModuleInput(
                input_layouts=(Shard(1),), desired_input_layouts=(Replicate(),)
            ),
        }
    parallelize_module(model, mesh, plan)
    for block in model.layers:
        parallelize_module(block, mesh, block_plan)


def matrix_name(parameter_name):
    """layers.0.attention.query.weight -> layers.0.query"""
    parts = parameter_name.split(".")[:-1]
    return ".".join(part for part in parts if part not in ("attention", "feed_forward"))


def dtensor_llama(weights, sequence_parallel):
    sizes = weights.sizes
    mesh = init_device_mesh("cpu", (weights.ranks,))
    with torch.device("meta"):
        model = Llama(sizes).to(weights.dtype)
    parallelize(model, mesh, sequence_parallel)
    for name, parameter in list(model.named_parameters()):
        module = model.get_submodule(name.rsplit(".", 1)[0])
        if isinstance(module, nn.RMSNorm):
            value = torch.ones(sizes.hidden, dtype=weights.dtype)
        else:
            value = weights.shard(matrix_name(name))
        if isinstance(parameter, DTensor):
            value = DTensor.from_local(value, mesh, parameter.placements, run_check=False)
        if value.shape != parameter.shape:
            raise ValueError(f"{name}: expected {parameter.shape}, found {value.shape}")
        module.weight = nn.Parameter(value, requires_grad=False)
    return model.eval()
