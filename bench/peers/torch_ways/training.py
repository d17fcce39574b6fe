# SPDX-License-Identifier: Apache-2.0
"""Trains a LLaMA with PyTorch and prints one JSON object per step: the peer of `portolan train`.

Data, labels, AdamW's options and the order of batches are those of `portolan train --data`: the
bytes of a text are the tokens, sequences follow each other. Initial weights come from a folder in
Hugging Face's layout, or are random. Under several ranks it is PyTorch's tensor parallelism, with
a loss on sharded logits.
"""

import argparse
import contextlib
import json
import math
import os
import pathlib
import time

import torch
import torch.distributed as distributed
import torch.nn.functional as F
from safetensors.torch import load_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.parallel import loss_parallel

import dtensor
from weights import Sizes

# Ours -> the name in a checkpoint.
LAYER_NAMES = {
    "attention_norm": "input_layernorm",
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.output": "self_attn.o_proj",
    "feed_forward_norm": "post_attention_layernorm",
    "feed_forward.gate": "mlp.gate_proj",
    "feed_forward.up": "mlp.up_proj",
    "feed_forward.down": "mlp.down_proj",
}
OUTER_NAMES = {"embedding": "model.embed_tokens", "norm": "model.norm", "head": "lm_head"}


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=pathlib.Path, required=True, help="config.json")
    parser.add_argument("--weights", type=pathlib.Path, help="model.safetensors; else random")
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--seq-len", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--lr", type=float, required=True)
    parser.add_argument("--weight-decay", type=float, default=0.1)
    parser.add_argument("--clip-norm", type=float)
    parser.add_argument("--cosine-after", type=int, metavar="K",
                        help="warm up over K steps, then decay along half a cosine; default constant")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rank", type=int, default=0)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--rendezvous", default="")
    return parser.parse_args()


def rate_factor(options, step):
    warmup = options.cosine_after
    if warmup is None:
        return 1.0
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, options.steps - warmup))
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def checkpoint_name(name):
    stem, _, _ = name.rpartition(".weight")
    if stem in OUTER_NAMES:
        return OUTER_NAMES[stem] + ".weight"
    _, index, rest = stem.split(".", 2)
    return f"model.layers.{index}.{LAYER_NAMES[rest]}.weight"


def make_model(options):
    config = json.loads(options.config.read_text())
    if config["num_key_value_heads"] != config["num_attention_heads"]:
        raise SystemExit("training.py: grouped heads are not supported")
    sizes = Sizes(
        hidden=config["hidden_size"],
        intermediate=config["intermediate_size"],
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        vocabulary=config["vocab_size"],
        norm_epsilon=config["rms_norm_eps"],
        rope_theta=config["rope_theta"],
    )
    torch.manual_seed(0)
    model = dtensor.Llama(sizes)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, 0.0, 0.02)
    if options.weights:
        stored = load_file(options.weights)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(stored[checkpoint_name(name)])
    return model


class Text:
    """Sequence i is the bytes from i * length on, wrapping round at the end."""

    def __init__(self, path, batch_size, length):
        self.bytes = torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)
        self.shape = (batch_size, length)

    def batch(self, step):
        count = self.shape[0] * self.shape[1]
        places = (torch.arange(count) + step * count) % len(self.bytes)
        return self.bytes[places].long().view(self.shape)


def loss_of(model, ids):
    logits = model(ids)[:, :-1]
    return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())


def main():
    options = parse_arguments()
    torch.set_num_threads(options.threads)
    first = options.rank * options.threads
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[first : first + options.threads])
    model = make_model(options)
    if options.ranks > 1:
        distributed.init_process_group(
            "gloo",
            init_method=f"file://{options.rendezvous}",
            rank=options.rank,
            world_size=options.ranks,
        )
        mesh = init_device_mesh("cpu", (options.ranks,))
        dtensor.parallelize(model, mesh, False, local_logits=False)
    matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() == 1]
    optimizer = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": options.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=options.lr,
        betas=(0.9, 0.95),
        eps=1e-8,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_factor(options, step))
    text = Text(options.data, options.batch_size, options.seq_len)
    for step in range(options.steps):
        ids = text.batch(step)
        if options.ranks > 1:
            distributed.barrier()
        begin = time.perf_counter()
        with loss_parallel() if options.ranks > 1 else contextlib.nullcontext():
            loss = loss_of(model, ids)
            loss.backward()
        if options.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), options.clip_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        seconds = time.perf_counter() - begin
        value = loss.detach()
        if options.ranks > 1:
            value = value.full_tensor()
        if options.rank == 0:
            print(json.dumps({"step": step, "loss": value.item(), "seconds": seconds}), flush=True)
    if options.ranks > 1:
        distributed.destroy_process_group()


if __name__ == "__main__":
    main()
