#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks Portolan against Hugging Face transformers on many small random models.

Each round draws a family, a config and weights, saves the model as transformers does, and compares
logits (f32) and, for causal families, greedy and beam-search tokens of the portolan command with
those of transformers. Needs a Python with torch, transformers and safetensors:

  scripts/verify_against_transformers.py --rounds 100
  scripts/verify_against_transformers.py --rounds 20 --ranks 2
"""

import argparse
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile

import torch
import transformers
from safetensors.torch import load_file

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Of the largest logit: f32 rounding of two programs that add in different orders.
TOLERANCE = 1e-4
# Tokens may differ where the best two logits are nearer than this.
MARGIN = 1e-3
NEW_TOKENS = 16


def llama(draw):
    head_dim = draw.choice([4, 8, 12, 16, 20])
    kv_heads = draw.choice([1, 2, 3])
    heads = kv_heads * draw.choice([1, 2, 4])
    scaling = draw.choice([
        None,
        {"rope_type": "linear", "factor": 2.5},
        {"rope_type": "dynamic", "factor": 2.5},
        {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
         "original_max_position_embeddings": 32},
        {"rope_type": "yarn", "factor": draw.choice([4.0, 40.0]),
         "original_max_position_embeddings": draw.choice([8, 512])} | draw.choice([
             {}, {"beta_fast": 16.0, "beta_slow": 0.5, "truncate": False}, {"attention_factor": 0.75},
             {"mscale": 0.7, "mscale_all_dim": 1.2}]),
    ])
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(
        vocab_size=draw.randint(20, 300), hidden_size=heads * draw.choice([5, 8, 12]),
        intermediate_size=draw.randint(17, 150), num_hidden_layers=draw.randint(1, 3),
        num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=head_dim,
        rope_parameters={"rope_theta": draw.choice([1e4, 5e5])} | (scaling or {"rope_type": "default"}),
        rms_norm_eps=draw.choice([1e-5, 1e-6]), tie_word_embeddings=draw.random() < 0.3,
        attention_bias=draw.random() < 0.3, mlp_bias=draw.random() < 0.3))


def mistral(draw):
    kv_heads = draw.choice([1, 2])
    return transformers.MistralForCausalLM(transformers.MistralConfig(
        vocab_size=draw.randint(20, 300), hidden_size=64,
        intermediate_size=draw.randint(17, 150), num_hidden_layers=draw.randint(1, 3),
        num_attention_heads=kv_heads * draw.choice([1, 2, 4]), num_key_value_heads=kv_heads,
        head_dim=draw.choice([8, 16]), sliding_window=draw.choice([3, 8, 4096]),
        attn_implementation="eager"))


def gpt_bigcode(draw):
    heads = draw.choice([2, 4])
    return transformers.GPTBigCodeForCausalLM(transformers.GPTBigCodeConfig(
        vocab_size=draw.randint(20, 300), n_positions=96, n_embd=heads * draw.choice([8, 12, 16]),
        n_layer=draw.randint(1, 3), n_head=heads, n_inner=draw.choice([None, 50, 128]),
        activation_function=draw.choice(["gelu", "gelu_pytorch_tanh", "gelu_fast"]),
        multi_query=draw.random() < 0.7, bos_token_id=0, eos_token_id=0))


def roberta(draw, model=transformers.RobertaForMaskedLM, config=transformers.RobertaConfig):
    heads = draw.choice([2, 4])
    return model(config(
        vocab_size=draw.randint(20, 300), hidden_size=heads * draw.choice([8, 12, 16]),
        intermediate_size=draw.randint(17, 150), num_hidden_layers=draw.randint(1, 3),
        num_attention_heads=heads, max_position_embeddings=80, type_vocab_size=1, pad_token_id=1,
        bos_token_id=0, eos_token_id=2, tie_word_embeddings=draw.random() < 0.7))


def xlm_roberta(draw):
    return roberta(draw, transformers.XLMRobertaForMaskedLM, transformers.XLMRobertaConfig)


def bert(draw):
    heads = draw.choice([2, 4])
    return transformers.BertForMaskedLM(transformers.BertConfig(
        vocab_size=draw.randint(20, 300), hidden_size=heads * draw.choice([8, 16]),
        intermediate_size=draw.randint(17, 150), num_hidden_layers=draw.randint(1, 3),
        num_attention_heads=heads, max_position_embeddings=80, pad_token_id=0,
        tie_word_embeddings=draw.random() < 0.7))


FAMILIES = {"llama": llama, "mistral": mistral, "gpt_bigcode": gpt_bigcode, "roberta": roberta,
            "xlm-roberta": xlm_roberta, "bert": bert}
CAUSAL = ("llama", "mistral", "gpt_bigcode")


class Mismatch(Exception):
    pass


class Portolan:
    def __init__(self, options):
        self.program = options.portolan
        self.ranks = options.ranks

    def run(self, draw, heads, arguments):
        launch = []
        if self.ranks > 1:
            launch = ["mpirun", "--oversubscribe", "--bind-to", "none", "-n", str(self.ranks)]
            modes = ["tp", "sp", "ring"] if heads >= self.ranks else ["ring"]
            arguments = [*arguments, "--parallel", draw.choice(modes)]
        command = [*launch, self.program, *map(str, arguments), "--quiet"]
        result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if result.returncode:
            raise Mismatch(f"{' '.join(command)} failed: {result.stderr.strip()}")
        return result.stdout


def text_of(sequences):
    return ";".join(",".join(map(str, sequence)) for sequence in sequences)


def heads_of(model):
    return model.config.num_attention_heads


def randomize(model, seed):
    """Larger weights than the usual ones, norms and biases that are not all alike."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() > 1:
                parameter.copy_(noise * (0.5 if "emb" in name or "wte" in name else
                                         1.5 / parameter.shape[-1] ** 0.5))
            else:
                parameter.copy_(noise * 0.1 + (1.0 if name.endswith("weight") else 0.0))
    model.tie_weights()


def expected_logits(model, prompts):
    with torch.no_grad():
        return [model(input_ids=torch.tensor([prompt])).logits[0] for prompt in prompts]


def check_logits(portolan, draw, model, prompts, folder):
    out = folder / "logits.safetensors"
    portolan.run(draw, heads_of(model), ["logits", "--model", folder, "--ids", text_of(prompts), "--out", out])
    found = load_file(out)["logits"]
    worst = 0.0
    for row, expected in zip(found, expected_logits(model, prompts)):
        difference = (row[: len(expected)] - expected).abs().max().item()
        worst = max(worst, difference / expected.abs().max().item())
    if not worst <= TOLERANCE:
        raise Mismatch(f"logits differ by {worst:.1e} of the largest")
    return worst


def near_tie(model, prompt, ours, theirs):
    """Whether the first token that differs was all but undecided."""
    same = 0
    while same < min(len(ours), len(theirs)) and ours[same] == theirs[same]:
        same += 1
    logits = expected_logits(model, [prompt + theirs[:same]])[0][-1]
    best = logits.topk(2).values
    return (best[0] - best[1]).item() < MARGIN


def check_tokens(portolan, draw, model, prompts, folder, ends):
    beams = draw.choice([1, 1, 3])
    recorded = [["--graph", "on"]] if beams == 1 and portolan.ranks == 1 else []
    decoding = draw.choice([[], ["--no-cache"], *recorded])
    command = ["generate", "--model", folder, "--ids", text_of(prompts), "--max-new-tokens",
               NEW_TOKENS, "--json", "--beams", beams, *decoding]
    sequences = json.loads(portolan.run(draw, heads_of(model), command))["sequences"]
    compared = 0
    for prompt, sequence in zip(prompts, sequences):
        with torch.no_grad():
            ids = torch.tensor([prompt])
            theirs = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS, num_beams=beams,
                do_sample=False, eos_token_id=ends, pad_token_id=ends[0])[0][len(prompt):].tolist()
        ours = sequence["ids"]
        if ours != theirs and (beams > 1 or not near_tie(model, prompt, ours, theirs)):
            raise Mismatch(f"{beams} beams: {ours} instead of {theirs}")
        compared += len(theirs)
    return compared


def check(portolan, draw, round_number):
    family = draw.choice(list(FAMILIES))
    torch.manual_seed(round_number)
    model = FAMILIES[family](draw).eval()
    randomize(model, round_number)
    vocabulary = model.config.vocab_size
    ends = [draw.randrange(3, vocabulary)]
    if family in CAUSAL:
        model.config.eos_token_id = model.generation_config.eos_token_id = ends[0]
    longest = 60
    prompts = [[draw.randrange(3, vocabulary) for _ in range(draw.randint(1, longest))]
               for _ in range(draw.randint(1, 3))]
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        model.save_pretrained(folder)
        worst = check_logits(portolan, draw, model, prompts, folder)
        tokens = 0
        if family in CAUSAL:
            tokens = check_tokens(portolan, draw, model, prompts, folder, ends)
    return family, worst, tokens


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--first", type=int, default=0, help="number of the first round, its seed")
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--portolan", default=str(ROOT / "build" / "cpu" / "apps" / "portolan"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    portolan = Portolan(options)
    counts, worst, tokens, failures = {}, 0.0, 0, 0
    for round_number in range(options.first, options.first + options.rounds):
        draw = random.Random(round_number)
        try:
            family, difference, compared = check(portolan, draw, round_number)
        except Mismatch as mismatch:
            failures += 1
            print(f"round {round_number}: {mismatch}", file=sys.stderr)
            continue
        counts[family] = counts.get(family, 0) + 1
        worst = max(worst, difference)
        tokens += compared
    print(f"{sum(counts.values())} of {options.rounds} models agree "
          f"({', '.join(f'{count} {family}' for family, count in sorted(counts.items()))}), "
          f"{options.ranks} rank{'s' * (options.ranks > 1)};"
          f" logits differ by at most {worst:.1e} of the largest, {tokens} generated tokens are equal")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
