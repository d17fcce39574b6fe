#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes a Hugging Face LLaMA folder in the format of Meta's releases, by PyTorch alone.

Usage: make.py MODEL OUT SHARDS hidden|vocabulary

The last argument says along which dimension the embedding is dealt: LLaMA 1 and 2 deal the hidden
size, LLaMA 3 the vocabulary. Needs torch and safetensors.
"""
import json
import pathlib
import sys

import torch
from safetensors import safe_open


def read(folder):
    tensors = {}
    for path in sorted(folder.glob("model*.safetensors")):
        with safe_open(path, framework="pt") as file:
            tensors.update({name: file.get_tensor(name) for name in file.keys()})
    return tensors


def interleave(weight, head_dim):
    """Rows of each head from [first half, second half] to pairs that turn together."""
    heads = weight.shape[0] // head_dim
    return (weight.reshape(heads, 2, head_dim // 2, -1).transpose(1, 2)
            .reshape(weight.shape).contiguous())


def main():
    model, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    shards, embedding = int(sys.argv[3]), sys.argv[4]
    config = json.loads((model / "config.json").read_text())
    weights = read(model)
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]

    def cut(weight, dimension, shard):
        return weight.chunk(shards, dimension)[shard].clone()

    out.mkdir()
    for shard in range(shards):
        state = {"tok_embeddings.weight": cut(weights["model.embed_tokens.weight"],
                                              1 if embedding == "hidden" else 0, shard),
                 "norm.weight": weights["model.norm.weight"],
                 "output.weight": cut(weights.get("lm_head.weight",
                                                  weights["model.embed_tokens.weight"]), 0, shard)}
        for layer in range(config["num_hidden_layers"]):
            theirs, ours = f"model.layers.{layer}.", f"layers.{layer}."
            get = lambda name: weights[f"{theirs}{name}.weight"]
            state |= {
                f"{ours}attention.wq.weight": cut(interleave(get("self_attn.q_proj"), head_dim), 0, shard),
                f"{ours}attention.wk.weight": cut(interleave(get("self_attn.k_proj"), head_dim), 0, shard),
                f"{ours}attention.wv.weight": cut(get("self_attn.v_proj"), 0, shard),
                f"{ours}attention.wo.weight": cut(get("self_attn.o_proj"), 1, shard),
                f"{ours}feed_forward.w1.weight": cut(get("mlp.gate_proj"), 0, shard),
                f"{ours}feed_forward.w2.weight": cut(get("mlp.down_proj"), 1, shard),
                f"{ours}feed_forward.w3.weight": cut(get("mlp.up_proj"), 0, shard),
                f"{ours}attention_norm.weight": get("input_layernorm"),
                f"{ours}ffn_norm.weight": get("post_attention_layernorm")}
        state["rope.freqs"] = torch.zeros(head_dim // 2)
        torch.save(state, out / f"consolidated.{shard:02}.pth")
    params = {"dim": config["hidden_size"], "n_layers": config["num_hidden_layers"],
              "n_heads": config["num_attention_heads"], "n_kv_heads": config["num_key_value_heads"],
              "norm_eps": config["rms_norm_eps"], "vocab_size": -1}
    two_thirds = int(8 * config["hidden_size"] / 3)
    if head_dim * config["num_attention_heads"] != config["hidden_size"]:  # as Mistral says it
        params |= {"head_dim": head_dim, "hidden_dim": config["intermediate_size"]}
    else:
        params["multiple_of"] = 16
        if -(-two_thirds // 16) * 16 != config["intermediate_size"]:
            params["ffn_dim_multiplier"] = (config["intermediate_size"] - 8) / two_thirds
    theta = (config.get("rope_parameters") or config)["rope_theta"]
    if theta != 10000:
        params["rope_theta"] = theta
    scaling = config.get("rope_scaling")
    if scaling:
        params |= {"use_scaled_rope": True, "rope_scaling_factor": scaling["factor"],
                   "rope_original_max_position_embeddings":
                       scaling["original_max_position_embeddings"]}
    (out / "params.json").write_text(json.dumps(params, indent=1) + "\n")


if __name__ == "__main__":
    main()
