# SPDX-License-Identifier: Apache-2.0
"""`portolan train` as a user calls it: golden curves and gradients, saved models, refusals."""
import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

import tensor_file
from command import DATA, PORTOLAN, clean_environment

MODEL = DATA / "models" / "llama-tiny-gqa"


def read_tensors(path):
    """{name: (shape, values)}"""
    return {name: (shape, values)
            for name, (_, shape, values) in tensor_file.read_tensors(path).items()}


def write_tensors(path, tensors):
    tensor_file.write_tensors(
        path, {name: ("I64", shape, values) for name, (shape, values) in tensors.items()})


def run(arguments, ranks=1, **environment):
    launch = ["mpirun", "-n", str(ranks), "--oversubscribe", "--bind-to", "none"] if ranks > 1 else []
    return subprocess.run(launch + [PORTOLAN, "train", *map(str, arguments)], capture_output=True,
                          text=True, timeout=200,
                          env=clean_environment(OMP_NUM_THREADS="1", **environment))


class Train(unittest.TestCase):
    def setUp(self):
        self.temporary = tempfile.TemporaryDirectory()
        self.folder = pathlib.Path(self.temporary.name)
        self.batch = self.folder / "batch.safetensors"
        self.golden = read_tensors(MODEL / "expected.safetensors")
        self.expected = json.loads((MODEL / "expected.json").read_text())["train"]
        self.write_batch()

    def tearDown(self):
        self.temporary.cleanup()

    def write_batch(self, change=lambda name, shape, values: (shape, values)):
        write_tensors(self.batch, {name: change(name, *self.golden["train." + name]) for name in
                                   ("input_ids", "labels", "attention_mask")})

    def steps(self, arguments, ranks=1):
        result = run(arguments, ranks)
        self.assertEqual(result.returncode, 0, result.stderr)
        return [json.loads(line) for line in result.stdout.splitlines()]

    def golden_run(self, *extra, ranks=1):
        return self.steps(["--model", MODEL, "--batch", self.batch, "--decay-all", *extra], ranks)

    def test_losses_and_norms_follow_the_reference_on_one_rank_and_on_several(self):
        for ranks, options in ((1, []), (2, ["--parallel", "tp"]), (2, ["--parallel", "sp"]),
                               (3, ["--parallel", "ring"])):
            for curve, clip in (("no_clip", []), ("clip_1.0", ["--clip-norm", "1"])):
                with self.subTest(ranks=ranks, options=options, curve=curve):
                    golden = self.expected[curve]
                    steps = self.golden_run("--steps", 10, *options, *clip, ranks=ranks)
                    self.assertEqual([step["step"] for step in steps], list(range(10)))
                    for step, loss, norm in zip(steps, golden["losses"],
                                                golden["grad_norms_before_clipping"]):
                        self.assertAlmostEqual(step["loss"], loss, delta=1e-4)
                        self.assertAlmostEqual(step["grad_norm"], norm, delta=1e-3)
                        self.assertEqual(step["lr"], 1e-3)

    def test_other_architectures_follow_their_golden_curves(self):
        for name in ("gpt-bigcode-tiny", "roberta-tiny"):
            model = DATA / "models" / name
            golden = read_tensors(model / "expected.safetensors")
            batch, gradients = self.folder / "other", self.folder / "gradients.safetensors"
            write_tensors(batch, {part: golden["train." + part]
                                  for part in ("input_ids", "labels", "attention_mask")})
            curve = json.loads((model / "expected.json").read_text())["train"]["no_clip"]
            for ranks, options in ((1, []), (2, ["--parallel", "tp"]), (2, ["--parallel", "sp"]),
                                   (2, ["--parallel", "ring"])):
                with self.subTest(model=name, ranks=ranks, options=options):
                    out = self.folder / "trained"
                    steps = self.steps(["--model", model, "--batch", batch, "--steps", 10, "--lr",
                                        1e-3, "--decay-all", "--save-gradients", gradients, "--out",
                                        out, *options], ranks)
                    for step, loss in zip(steps, curve["losses"]):
                        self.assertAlmostEqual(step["loss"], loss, delta=1e-4)
                    ours = read_tensors(gradients)
                    for tensor, (shape, values) in read_tensors(model / "grads.safetensors").items():
                        self.assertEqual(ours[tensor][0], shape)
                        allowed = max(1e-7, 5e-5 * max(map(abs, values)))
                        worst = max(abs(a - b) for a, b in zip(values, ours[tensor][1]))
                        self.assertLessEqual(worst, allowed, tensor)
                    # The saved model goes on from the last loss.
                    again = self.steps(["--model", out, "--batch", batch, "--steps", 1], 1)
                    self.assertAlmostEqual(again[0]["loss"], curve["losses"][10], delta=1e-4)

    def test_saved_gradients_equal_the_reference(self):
        path = self.folder / "gradients.safetensors"
        golden = read_tensors(MODEL / "grads.safetensors")
        for ranks, options in ((1, ["--device", "serial"]), (2, ["--parallel", "sp"])):
            with self.subTest(ranks=ranks):
                self.golden_run("--steps", 1, "--save-gradients", path, *options, ranks=ranks)
                ours = read_tensors(path)
                self.assertEqual(ours.keys(), golden.keys())
                for name, (shape, values) in golden.items():
                    self.assertEqual(ours[name][0], shape)
                    allowed = max(1e-7, 5e-5 * max(map(abs, values)))
                    worst = max(abs(a - b) for a, b in zip(values, ours[name][1]))
                    self.assertLessEqual(worst, allowed, name)

    def test_a_saved_model_goes_on_where_it_stopped(self):
        out = self.folder / "trained"
        self.golden_run("--steps", 3, "--optimizer", "sgd", "--weight-decay", 0, "--out", out)
        whole = self.golden_run("--steps", 5, "--optimizer", "sgd", "--weight-decay", 0)
        rest = self.steps(["--model", out, "--batch", self.batch, "--steps", 2, "--optimizer", "sgd",
                           "--weight-decay", 0])
        self.assertEqual([step["loss"] for step in rest], [step["loss"] for step in whole[3:]])
        config = json.loads((out / "config.json").read_text())
        self.assertEqual(config["model_type"], "llama")
        self.assertEqual(config["torch_dtype"], "float32")

    def test_no_steps_write_the_initial_model(self):
        for name in ("a", "b"):
            self.assertEqual(self.steps(["--preset", "tiny", "--layers", 1, "--seed", 3, "--data",
                                         __file__, "--seq-len", 16, "--steps", 0, "--out",
                                         self.folder / name]), [])
        first, second = ((self.folder / name / "model.safetensors").read_bytes() for name in "ab")
        self.assertEqual(first, second)

    def test_text_is_learned_and_recomputation_changes_no_bit(self):
        text = self.folder / "text"
        text.write_bytes(b"abcdefgh" * 200)
        arguments = ["--preset", "tiny", "--data", text, "--seq-len", 64, "--batch-size", 2, "--steps",
                     30, "--lr", 3e-3, "--warmup", 5, "--schedule", "cosine"]
        plain = self.steps(arguments)
        self.assertGreater(plain[0]["loss"], 5.0)
        # Less than eight equally likely letters: what comes before them was looked at.
        self.assertLess(plain[-1]["loss"], 1.5)
        for recompute in ("selective", "full"):
            again = self.steps([*arguments, "--recompute", recompute])
            self.assertEqual([step["loss"] for step in again], [step["loss"] for step in plain])

    def test_dropout_is_the_same_from_run_to_run_and_differs_from_none(self):
        losses = [[step["loss"] for step in self.golden_run("--steps", 2, "--dropout", p, "--seed", 5)]
                  for p in (0.5, 0.5, 0)]
        self.assertEqual(losses[0], losses[1])
        self.assertNotEqual(losses[0][0], losses[2][0])

    def test_padding_on_the_left_scores_the_same(self):
        def to_the_left(name, shape, values):
            mask = self.golden["train.attention_mask"][1]
            length, moved = shape[1], []
            for row in range(shape[0]):
                part = values[row * length:(row + 1) * length]
                real = sum(mask[row * length:(row + 1) * length])
                moved += [*part[real:], *part[:real]]
            return shape, moved

        right = self.golden_run("--steps", 1)
        self.write_batch(to_the_left)
        self.assertEqual(self.golden_run("--steps", 1)[0]["loss"], right[0]["loss"])

    def test_lines_that_could_not_be_written_are_an_error(self):
        with open("/dev/full", "w", encoding="utf-8") as full:
            result = subprocess.run(
                [PORTOLAN, "train", "--model", MODEL, "--batch", self.batch, "--steps", "1"],
                stdout=full, stderr=subprocess.PIPE, text=True, timeout=200,
                env=clean_environment(OMP_NUM_THREADS="1"))
        self.assertEqual(result.returncode, 1, result.stderr)
        self.assertRegex(result.stderr, r"\Aportolan: error: stdout: [^\n]+\n\Z")

    def assert_refused(self, arguments, *words, ranks=1):
        out = self.folder / "refused"
        result = run([*arguments, "--out", out], ranks)
        self.assertEqual(result.returncode, 2, result.stderr)
        self.assertEqual(len(result.stderr.strip().splitlines()), 1, result.stderr)
        for word in words:
            self.assertIn(word, result.stderr)
        self.assertEqual(result.stdout, "")
        self.assertFalse((out / "model.safetensors").exists())

    def test_refusals_are_one_line(self):
        model = ["--model", MODEL, "--steps", 1]
        batch = ["--batch", self.batch]
        self.assert_refused(model, "--data", "--batch")
        self.assert_refused(["--steps", 1, *batch], "--model", "--preset")
        self.assert_refused([*model, *batch, "--optimizer", "lion"], "lion", "adamw")
        self.assert_refused([*model, *batch, "--schedule", "steep"], "steep")
        self.assert_refused(["--preset", "roberta-tiny", "--steps", 1, "--data", self.batch], "--data",
                            "--batch")
        self.assert_refused([*model, *batch, "--recompute", "some"], "some")
        self.assert_refused([*model, *batch, "--betas", "1.5,0.9"], "--betas")
        self.assert_refused([*model, *batch, "--betas", "0.9,1"], "--betas")
        self.assert_refused([*model, *batch, "--eps", "0"], "--eps")
        self.assert_refused([*model, *batch, "--batch-size", 2], "--batch-size", "--data")
        self.assert_refused([*model, *batch, "--seq-len", 8], "--seq-len", "--data")
        self.assert_refused([*model, *batch, "--layers", 1], "--layers", "--preset")
        self.assert_refused([*model, *batch, "--momentum", 0.9], "--momentum", "sgd")
        self.assert_refused([*model, *batch, "--optimizer", "sgd", "--betas", "0.9,0.9"], "--betas",
                            "adamw")
        self.assert_refused([*model, *batch, "--optimizer", "sgd", "--eps", 1e-6], "--eps", "adamw")
        self.assert_refused([*model, *batch, "--save-gradients", self.folder / "none" / "file"],
                            "none/file")
        self.assert_refused([*model, *batch, "--lr", "-1"], "--lr")
        self.assert_refused([*model, "--batch", MODEL / "model.safetensors"], "input_ids")
        self.assert_refused([*model, "--batch", self.folder / "absent"], "absent")
        self.assert_refused(["--preset", "tiny", "--steps", 1, "--data", self.batch, "--seq-len",
                             1 << 20], "1048576")
        self.assert_refused([*model, *batch, "--parallel", "tp", "--emulate-link", "fast"], "fast",
                            "bandwidth")
        self.write_batch(lambda name, shape, values: (
            shape[::-1] if name == "labels" else shape, values))
        self.assert_refused([*model, *batch], "'labels'", "[2, 32]", "[32, 2]")
        self.write_batch(lambda name, shape, values: (
            shape, [900, *values[1:]] if name == "labels" else values))
        self.assert_refused([*model, *batch], "900", "800")
        self.write_batch(lambda name, shape, values: (
            shape, [-100] * len(values) if name == "labels" else values))
        self.assert_refused([*model, *batch], "label")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
