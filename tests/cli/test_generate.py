# SPDX-License-Identifier: Apache-2.0
"""`portolan generate`, `fill-mask`, `eval` and `inference` as a user calls them."""
import json
import math
import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest

from command import DATA, PORTOLAN, CommandTest, clean_environment, run
from tensor_file import read_tensor, read_tensors, write_tensors

MODELS = DATA / "models"
NAMES = ("llama-tiny-gqa", "llama-tiny-mha-bf16", "llama3-tiny-tied", "mistral-tiny-swa",
         "gpt-bigcode-tiny")
QUICK = {"OMP_NUM_THREADS": "1"}


def expected(name):
    return json.loads((MODELS / name / "expected.json").read_text("utf-8"))


class WithTokenizers(CommandTest):
    """The golden models with the tokenizer that each was made with."""

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        for name in (*NAMES, "roberta-tiny"):
            folder = pathlib.Path(cls.folder.name) / name
            folder.mkdir()
            tokenizer = DATA / "tokenizers" / expected(name)["tokenizer"]
            for path in (*MODELS.joinpath(name).iterdir(), *tokenizer.glob("tokenizer*")):
                os.symlink(path, folder / path.name)

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def model(self, name):
        return pathlib.Path(self.folder.name) / name

    def run_json(self, *arguments):
        result = run(*arguments, "--json", **QUICK)
        self.assertEqual(result.returncode, 0, result.stderr)
        return json.loads(result.stdout)


class Generate(WithTokenizers):
    def generate(self, name, *arguments):
        return self.run_json("generate", "--model", self.model(name), "--dtype", "f32",
                             "--max-new-tokens", 32, *arguments)["sequences"]

    def test_text_ids_and_reasons_are_the_references(self):
        for name in NAMES:
            for case in expected(name)["generation"]:
                with self.subTest(model=name, prompt=case["prompt"]):
                    (found,) = self.generate(name, "--prompt", case["prompt"])
                    self.assertEqual(found["ids"], case["ids"])
                    self.assertEqual(found["text"], case["text"])
                    self.assertEqual(found["finish_reason"],
                                     "length" if len(case["ids"]) == 32 else "stop")

    def test_a_meta_folder_ends_at_the_tokenizers_end_token(self):
        reference = expected("llama-tiny-mha-bf16")
        folder = pathlib.Path(self.folder.name) / "meta"
        folder.mkdir()
        tokenizer = DATA / "tokenizers" / reference["tokenizer"]
        for path in (*(DATA / "meta" / "hidden2").iterdir(), tokenizer / "tokenizer.model"):
            os.symlink(path, folder / path.name)
        (case,) = [case for case in reference["generation"] if len(case["ids"]) < 32]
        (found,) = self.generate("meta", "--prompt", case["prompt"])
        self.assertEqual(found["ids"], case["ids"])
        self.assertEqual(found["text"], case["text"])
        self.assertEqual(found["finish_reason"], "stop")

    def test_several_prompts_are_continued_as_each_alone(self):
        for name in NAMES:
            cases = expected(name)["generation"]
            prompts = [word for case in cases for word in ("--prompt", case["prompt"])]
            found = self.generate(name, *prompts)
            self.assertEqual([one["ids"] for one in found], [case["ids"] for case in cases])

    def test_a_stop_string_ends_the_text_before_it(self):
        case = expected("llama-tiny-gqa")["generation"][0]
        stop = case["text"][4:9]
        (found,) = self.generate("llama-tiny-gqa", "--prompt", case["prompt"], "--stop", stop)
        self.assertEqual(found["text"], case["text"][: case["text"].index(stop)])
        self.assertEqual(found["finish_reason"], "stop")
        self.assertEqual(found["ids"], case["ids"][: len(found["ids"])])

    def test_an_empty_value_is_not_the_next_argument(self):
        found = self.generate("llama-tiny-gqa", "--prompt=", "--seed", 1)
        self.assertEqual(found, self.generate("llama-tiny-gqa", "--prompt", "", "--seed", 1))
        self.assertEqual([one["prompt_tokens"] for one in found], [1])
        self.assert_refused(run("generate", "--model=", "--ids", "1", **QUICK), "model")

    def test_a_stop_string_in_the_last_bytes_is_a_reason_too(self):
        # The fourth token is a byte, and not a character: that shows when no other byte can follow.
        case = expected("llama-tiny-gqa")["generation"][0]
        (found,) = self.run_json("generate", "--model", self.model("llama-tiny-gqa"), "--prompt",
                                 case["prompt"], "--max-new-tokens", 4, "--stop", "\ufffd")["sequences"]
        self.assertEqual(found["ids"], case["ids"][:4])
        self.assertEqual(found["text"], case["text"][: case["text"].index("\ufffd")])
        self.assertEqual(found["finish_reason"], "stop")

    def test_a_stop_string_ends_the_text_of_beams_alike(self):
        case = expected("llama-tiny-gqa")["generation"][0]
        beams = ("--prompt", case["prompt"], "--beams", 3)
        (whole,) = self.generate("llama-tiny-gqa", *beams)
        stop = whole["text"][4:6]
        (found,) = self.generate("llama-tiny-gqa", *beams, "--stop", stop)
        self.assertEqual(found["text"], whole["text"][: whole["text"].index(stop)])
        self.assertEqual((whole["finish_reason"], found["finish_reason"]), ("length", "stop"))
        self.assertLess(len(found["ids"]), len(whole["ids"]))
        self.assertEqual(found["ids"], whole["ids"][: len(found["ids"])])

    def test_streaming_prints_the_same_text(self):
        case = expected("llama3-tiny-tied")["generation"][0]
        arguments = ("generate", "--model", self.model("llama3-tiny-tied"), "--prompt",
                     case["prompt"], "--max-new-tokens", 32)
        plain = run(*arguments, **QUICK)
        self.assertEqual(plain.returncode, 0, plain.stderr)
        self.assertEqual(plain.stdout, case["text"] + "\n")
        self.assertEqual(run(*arguments, "--stream", **QUICK).stdout, plain.stdout)

    def test_recorded_decoding_finds_the_same_tokens(self):
        for model in ("llama-tiny-gqa", "llama3-tiny-tied", "gpt-bigcode-tiny"):
            with self.subTest(model=model):
                cases = expected(model)["generation"]
                ids = ";".join(",".join(map(str, case["prompt_ids"])) for case in cases)
                document = self.run_json("generate", "--model", self.model(model), "--ids", ids,
                                         "--max-new-tokens", 32, "--graph", "on")
                self.assertTrue(document["recorded"])
                self.assertEqual([found["ids"] for found in document["sequences"]],
                                 [case["ids"] for case in cases])
        self.assertFalse(self.run_json("generate", "--model", self.model("llama-tiny-gqa"), "--ids",
                                       "1,2", "--max-new-tokens", 3, "--graph", "off")["recorded"])

    def test_the_seed_decides_what_is_drawn(self):
        def draw(seed):
            return self.generate("llama-tiny-gqa", "--prompt", "You may", "--temperature", 1.5,
                                 "--top-k", 50, "--top-p", 0.95, "--min-p", 0.001, "--seed", seed)
        self.assertEqual(draw(1), draw(1))
        self.assertNotEqual(draw(1), draw(2))

    def test_top_k_of_one_and_a_tiny_top_p_are_greedy(self):
        case = expected("llama-tiny-gqa")["generation"][0]
        for extra in (("--top-k", 1), ("--top-p", 1e-9), ("--min-p", 1)):
            (found,) = self.generate("llama-tiny-gqa", "--prompt", case["prompt"], "--temperature", 1,
                                     *extra)
            self.assertEqual(found["ids"], case["ids"])

    def test_log_probabilities_are_negative_and_one_for_each_token(self):
        (found,) = self.generate("llama-tiny-gqa", "--prompt", "You may", "--log-probabilities")
        self.assertEqual(len(found["log_probabilities"]), len(found["ids"]))
        self.assertTrue(all(value < 0 for value in found["log_probabilities"]))

    def test_a_repetition_penalty_leaves_no_token_twice(self):
        (found,) = self.generate("llama-tiny-gqa", "--ids", "5,6", "--repetition-penalty", 1e6)
        self.assertEqual(len(set(found["ids"])), len(found["ids"]))

    def test_refusals(self):
        model = ("generate", "--model", self.model("llama-tiny-gqa"))
        without = ("generate", "--model", MODELS / "llama-tiny-gqa")
        for arguments, words in (
                (model, ["--prompt", "--ids"]),
                ((*model, "--prompt", "a", "--ids", "1"), ["--prompt", "--ids"]),
                ((*model, "--ids", "800"), ["800", "vocabulary"]),
                ((*model, "--prompt", "a", "--temperature", "-1"), ["temperature"]),
                ((*model, "--prompt", "a", "--top-p", "0"), ["top-p"]),
                ((*model, "--prompt", "a", "--top-k", "5"), ["--top-k", "--temperature"]),
                ((*model, "--prompt", "a", "--top-p", "0.9"), ["--top-p", "--temperature"]),
                ((*model, "--prompt", "a", "--min-p", "0.1"), ["--min-p", "--temperature"]),
                ((*model, "--prompt", "a", "--length-penalty", "2"), ["--length-penalty", "--beams"]),
                ((*model, "--prompt", "a", "--log-probabilities"), ["--log-probabilities", "--json"]),
                ((*model, "--prompt", "a", "--stream", "--json"), ["--stream", "--json"]),
                ((*model, "--prompt", "a", "--beams", "0"), ["--beams"]),
                ((*model, "--prompt", "a", "--beams", "2", "--temperature", "1"), ["--beams"]),
                ((*model, "--prompt", "a", "--prompt", "b", "--stream"), ["--stream"]),
                ((*model, "--prompt", "a", "--max-new-tokens", "-1"), ["--max-new-tokens"]),
                ((*model, "--prompt", "a", "--graph", "maybe"), ["--graph", "maybe"]),
                ((*model, "--prompt", "a", "--graph", "on", "--no-cache"), ["--graph", "--no-cache"]),
                ((*model, "--prompt", "a", "--graph", "on", "--beams", "2"), ["--graph", "--beams"]),
                ((*without, "--prompt", "a"), ["tokenizer"]),
                ((*without, "--ids", "1", "--stop", "a"), ["--stop"]),
                (("generate", "--model", self.model("gpt-bigcode-tiny"), "--ids", "1,2",
                  "--max-new-tokens", "127"), ["2 tokens", "127 new", "128 of", "gpt-bigcode-tiny"]),
                (("generate", "--model", self.model("roberta-tiny"), "--prompt", "a"), ["causal"]),
                (("fill-mask", "--model", self.model("llama-tiny-gqa"), "--prompt", "a"), ["mask"]),
                (("fill-mask", "--model", self.model("roberta-tiny"), "--prompt", "a"), ["<mask>"]),
                (("eval", "--model", self.model("roberta-tiny"), "--data", "/nowhere"), ["causal"]),
                (("eval", "--model", self.model("llama-tiny-gqa"), "--data", "/nowhere"),
                 ["/nowhere"]),
        ):
            with self.subTest(arguments=arguments[3:]):
                self.assert_refused(run(*arguments, **QUICK), *words)


class OtherVocabularies(WithTokenizers):
    """A tokenizer with more tokens than the model: what it gives must not be taken for nothing."""

    def combine(self, model, tokenizer):
        folder = pathlib.Path(self.folder.name) / f"{model} {tokenizer}"
        folder.mkdir()
        for path in (*MODELS.joinpath(model).iterdir(),
                     *(DATA / "tokenizers" / tokenizer).glob("tokenizer*")):
            os.symlink(path, folder / path.name)
        return folder

    def test_eval_refuses_tokens_that_the_model_has_not(self):
        folder = self.combine("llama-tiny-gqa", "llama2-spm-3k")
        text = folder / "text"
        text.write_text("You may copy and distribute verbatim copies of the program.", "utf-8")
        self.assert_refused(run("eval", "--model", folder, "--data", text, **QUICK), str(text),
                            "vocabulary of 800")

    def test_fill_mask_refuses_tokens_that_the_model_has_not(self):
        folder = self.combine("roberta-tiny", "bert-wordpiece")
        vocabulary = json.loads((folder / "tokenizer.json").read_text("utf-8"))["model"]["vocab"]
        word = next(token for token, id in vocabulary.items() if id >= 601 and token.isalpha())
        self.assert_refused(run("fill-mask", "--model", folder, "--prompt", f"{word} [MASK]", **QUICK),
                            "--prompt", "vocabulary of 601")


class FillMask(WithTokenizers):
    def test_the_likeliest_tokens_are_the_references(self):
        for case in expected("roberta-tiny")["fill_mask"]:
            masks = self.run_json("fill-mask", "--model", self.model("roberta-tiny"), "--prompt",
                                  case["text"], "--top", len(case["top_ids"]))["masks"]
            ids = [[token["id"] for token in mask] for mask in masks]
            self.assertIn(case["top_ids"], ids)
            mask = masks[ids.index(case["top_ids"])]
            self.assertEqual([token["token"] for token in mask], case["top_tokens"])
            for token, logit in zip(mask, case["top_logits"]):
                ratio = math.exp(logit - case["top_logits"][0])
                self.assertAlmostEqual(token["probability"] / mask[0]["probability"], ratio, 4)


class Eval(WithTokenizers):
    def test_perplexity_is_that_of_the_tokens_one_by_one(self):
        text = pathlib.Path(self.folder.name) / "text"
        text.write_text("You may copy and distribute verbatim copies.", "utf-8")
        model = self.model("llama-tiny-gqa")
        tokens = subprocess.run([PORTOLAN, "tokenize", "--model", model], capture_output=True,
                                input=json.dumps(text.read_text("utf-8")) + "\n", text=True,
                                env=clean_environment())
        ids = json.loads(tokens.stdout)
        out = pathlib.Path(self.folder.name) / "logits.safetensors"
        run("logits", "--model", model, "--ids", ",".join(map(str, ids)), "--out", out, **QUICK)
        shape, logits = read_tensor(out, "logits")
        loss = 0.0
        for position, following in enumerate(ids[1:]):
            row = logits[position * shape[2]:(position + 1) * shape[2]]
            loss += math.log(sum(math.exp(value) for value in row)) - row[following]
        found = self.run_json("eval", "--model", model, "--data", text)
        self.assertEqual(found["scored_tokens"], len(ids) - 1)
        self.assertAlmostEqual(found["perplexity"] / math.exp(loss / (len(ids) - 1)), 1.0, 5)

    def test_eval_fails_on_logits_that_are_no_numbers(self):
        folder = pathlib.Path(self.folder.name) / "broken"
        shutil.copytree(self.model("llama-tiny-gqa"), folder)
        tensors = read_tensors(folder / "model.safetensors")
        dtype, shape, values = tensors["model.norm.weight"]
        tensors["model.norm.weight"] = (dtype, shape, (math.nan, *values[1:]))
        write_tensors(folder / "model.safetensors", tensors)
        text = pathlib.Path(self.folder.name) / "text"
        text.write_text("These are the terms and conditions", "utf-8")
        self.assert_refused(run("eval", "--model", folder, "--data", text, **QUICK), "finite", code=1)

    def test_without_a_tokenizer_a_model_of_256_tokens_reads_bytes(self):
        # Blocks that add nothing leave a model whose next byte depends on the present one alone.
        folder = pathlib.Path(self.folder.name) / "bytes"
        folder.mkdir()
        config = json.loads((MODELS / "llama-tiny-gqa" / "config.json").read_text("utf-8"))
        config["vocab_size"] = 256
        (folder / "config.json").write_text(json.dumps(config), "utf-8")
        tensors = read_tensors(MODELS / "llama-tiny-gqa" / "model.safetensors")
        for name, (dtype, shape, values) in tensors.items():
            if name in ("model.embed_tokens.weight", "lm_head.weight"):
                tensors[name] = (dtype, [256, shape[1]], values[:256 * shape[1]])
            elif name.endswith(("o_proj.weight", "down_proj.weight")):
                tensors[name] = (dtype, shape, [0.0] * len(values))
        write_tensors(folder / "model.safetensors", tensors)
        data = folder / "text"
        data.write_text("Zw\u00f6lf Boxk\u00e4mpfer, \u20ac 5\n", "utf-8")

        def rows(name):
            _, (count, width), values = tensors[name]
            return [values[i * width:(i + 1) * width] for i in range(count)]
        embedding, head = rows("model.embed_tokens.weight"), rows("lm_head.weight")
        gain = tensors["model.norm.weight"][2]
        text = data.read_bytes()
        loss = 0.0
        for byte, following in zip(text, text[1:]):
            x = embedding[byte]
            scale = 1.0 / math.sqrt(sum(v * v for v in x) / len(x) + config["rms_norm_eps"])
            x = [v * scale * g for v, g in zip(x, gain)]
            logits = [sum(a * b for a, b in zip(x, row)) for row in head]
            loss += math.log(sum(map(math.exp, logits))) - logits[following]
        for window in (1024, 7):
            found = self.run_json("eval", "--model", folder, "--data", data, "--seq-len", window)
            self.assertEqual(found["scored_tokens"], len(text) - 1)
            self.assertAlmostEqual(found["loss"], loss / (len(text) - 1), 5)
            self.assertAlmostEqual(found["bits_per_byte"], loss / math.log(2) / len(text), 4)

    def test_windows_score_every_token_but_the_first_once(self):
        text = pathlib.Path(self.folder.name) / "text"
        text.write_text("You may copy and distribute verbatim copies. " * 8, "utf-8")
        arguments = ("eval", "--model", self.model("llama-tiny-gqa"), "--data", text)
        whole = self.run_json(*arguments)
        self.assertEqual(self.run_json(*arguments, "--seq-len", 7)["scored_tokens"],
                         whole["scored_tokens"])
        # A window takes no more memory than the text.
        self.assertEqual(self.run_json(*arguments, "--seq-len", 1 << 62)["loss"], whole["loss"])


class Text(WithTokenizers):
    def test_logits_of_a_prompt_are_those_of_its_ids(self):
        case = expected("llama-tiny-gqa")["generation"][0]
        out = [pathlib.Path(self.folder.name) / name for name in ("text.safetensors", "ids.safetensors")]
        model = ("logits", "--model", self.model("llama-tiny-gqa"))
        for arguments in (("--prompt", case["prompt"], "--out", out[0]),
                          ("--ids", ",".join(map(str, case["prompt_ids"])), "--out", out[1])):
            result = run(*model, *arguments, **QUICK)
            self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(read_tensor(out[0], "logits"), read_tensor(out[1], "logits"))

    def test_training_on_text_scores_its_tokens(self):
        text = pathlib.Path(self.folder.name) / "training text"
        text.write_text("You may copy and distribute verbatim copies. " * 4, "utf-8")
        model = self.model("llama-tiny-gqa")
        (first,) = [json.loads(line) for line in run(
            "train", "--model", model, "--data", text, "--batch-size", 1, "--seq-len", 16, "--steps", 1,
            **QUICK).stdout.splitlines()]
        tokens = subprocess.run([PORTOLAN, "tokenize", "--model", model], capture_output=True,
                                input=json.dumps(text.read_text("utf-8")) + "\n", text=True,
                                env=clean_environment())
        ids = json.loads(tokens.stdout)[:16]
        out = pathlib.Path(self.folder.name) / "start.safetensors"
        run("logits", "--model", model, "--ids", ",".join(map(str, ids)), "--out", out, **QUICK)
        shape, logits = read_tensor(out, "logits")
        loss = sum(math.log(sum(math.exp(value) for value in row)) - row[following]
                   for row, following in zip((logits[i * shape[2]:(i + 1) * shape[2]]
                                              for i in range(15)), ids[1:]))
        self.assertAlmostEqual(first["loss"], loss / 15, 4)


    def test_files_beside_the_tokenizer_say_what_goes_round_a_prompt(self):
        folder = pathlib.Path(self.folder.name) / "without bos"
        folder.mkdir()
        for path in (MODELS / "llama-tiny-gqa" / "config.json",
                     MODELS / "llama-tiny-gqa" / "model.safetensors",
                     DATA / "tokenizers" / "llama2-spm" / "tokenizer.model"):
            os.symlink(path, folder / path.name)
        for add_bos in (True, False):
            (folder / "tokenizer_config.json").write_text(json.dumps({"add_bos_token": add_bos}), "utf-8")
            tokens = subprocess.run([PORTOLAN, "tokenize", "--model", folder], capture_output=True,
                                    input='"You may"\n', text=True, env=clean_environment())
            (found,) = self.run_json("generate", "--model", folder, "--prompt", "You may",
                                     "--max-new-tokens", 1)["sequences"]
            ids = json.loads(tokens.stdout)
            self.assertEqual((found["prompt_tokens"], 1 in ids), (len(ids), add_bos))


class Inference(WithTokenizers):
    def test_the_published_command_line_runs(self):
        model = self.model("llama-tiny-gqa")
        arguments = ("inference", "--architecture", "llama", "--variant", "7b", "--model_path", model,
                     "--model_source", "hf", "--tokenizer", model / "tokenizer.model",
                     "--default_dtype", "fp32", "--no_use_cache", "--max_new_tokens", 5)
        result = run(*arguments, "--device_type", "cpu", **QUICK)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertNotEqual(result.stdout.strip(), "")
        self.assert_refused(run(*arguments, "--device_type", "mps", **QUICK), "mps", "cpu")
        meta = [word if word != "hf" else "meta" for word in arguments]
        self.assert_refused(run(*meta, **QUICK), "--model_source meta", "hf")

    def test_all_flags_of_the_published_script_are_taken(self):
        model = self.model("llama-tiny-gqa")
        arguments = ("inference", "--model_path", model, "--max_new_tokens", 5)
        (plain,) = self.run_json(*arguments)["sequences"]
        for extra in (("--compile", "--compile_mode", "reduce-overhead"), ("--deterministic",),
                      ("--unfuse_weights",), ("--min_pad_length", 64), ("--distributed",)):
            with self.subTest(extra=extra):
                self.assertEqual(self.run_json(*arguments, *extra)["sequences"], [plain])
        both = self.run_json(*arguments, "--batch_input")["sequences"]
        self.assertEqual((len(both), both[0]), (2, plain))
        context = pathlib.Path(self.folder.name) / "context"
        context.write_text("You may copy", "utf-8")
        (found,) = self.run_json(*arguments, "--context_file", context, "--prompt", "and")["sequences"]
        (expected,) = self.run_json(*arguments, "--prompt", "You may copy\nand")["sequences"]
        self.assertEqual(found, expected)
        # A text in brackets is a text, not a list of two.
        prompt = "[INST] You, may [/INST]"
        (found,) = self.run_json(*arguments, "--prompt", prompt)["sequences"]
        (expected,) = self.run_json("generate", "--model", model, "--prompt", prompt,
                                    "--max-new-tokens", 5)["sequences"]
        self.assertEqual(found, expected)
        # The folder says what the size is, also where a name of it is known to the script alone.
        result = run(*arguments, "--variant", "granite-7b", **QUICK)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertRegex(result.stderr, r"\A[^\n]*granite-7b[^\n]*\n\Z")


if __name__ == "__main__":
    unittest.main()
