# SPDX-License-Identifier: Apache-2.0
"""`portolan logits` as a user calls it: golden logits on one rank and on several, and its refusals."""
import json
import os
import signal
import subprocess
import sys
import tempfile
import unittest

from command import DATA, PORTOLAN, clean_environment
from tensor_file import read_tensor, read_tensors, write_tensors

MODEL = DATA / "models" / "llama-tiny-gqa"


def run(arguments, ranks=1):
    launch = ["mpirun", "-n", str(ranks), "--oversubscribe", "--bind-to", "none"] if ranks > 1 else []
    return subprocess.run(launch + [PORTOLAN] + arguments, capture_output=True, text=True,
                          timeout=600, env=clean_environment(OMP_NUM_THREADS="1"))


def move_to_the_right(source, target):
    """Writes a batch that is padded on the right as one that is padded on the left; its lengths."""
    tensors = read_tensors(source)
    _, (rows, length), mask = tensors["attention_mask"]
    real = [sum(mask[row * length:(row + 1) * length]) for row in range(rows)]

    def moved(name):
        dtype, shape, values = tensors[name]
        parts = (values[row * length:(row + 1) * length] for row in range(rows))
        return dtype, shape, [value for part, count in zip(parts, real)
                              for value in (*part[count:], *part[:count])]

    write_tensors(target, {name: moved(name) for name in ("input_ids", "attention_mask")})
    return real


class Logits(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.out = os.path.join(self.folder.name, "logits.safetensors")

    def tearDown(self):
        self.folder.cleanup()

    def assert_golden(self, extra, ranks, model=MODEL):
        expected = model / "expected.safetensors"
        result = run(["logits", "--model", str(model), "--input", str(expected),
                      "--out", self.out, "--hidden-states", *extra], ranks)
        self.assertEqual(result.returncode, 0, result.stderr)
        # What the file has of these, all but the parts of blocks.
        states = [name for name in read_tensors(expected) if name.startswith("hidden.")
                  and not name.startswith(("hidden.attn", "hidden.mlp"))]
        self.assertEqual(sorted(read_tensors(self.out)), sorted(["logits", *states]))
        for name in ("logits", *states):
            shape, found = read_tensor(self.out, name)
            golden_shape, golden = read_tensor(expected, name)
            self.assertEqual(shape, golden_shape)
            worst = max(abs(a - b) for a, b in zip(found, golden))
            allowed = 1e-4 if name == "logits" else 2e-5 * max(1, max(map(abs, golden)))
            self.assertLessEqual(worst, allowed, name)

    def test_one_rank_gives_the_golden_logits_and_hidden_states(self):
        self.assert_golden([], 1)

    def test_serial_device_gives_the_golden_logits(self):
        self.assert_golden(["--device", "serial"], 1)

    def test_two_ranks_give_the_golden_logits_under_every_mode(self):
        for mode in ("tp", "sp", "ring"):
            with self.subTest(mode=mode):
                self.assert_golden(["--parallel", mode], 2)

    def test_other_architectures_give_the_golden_logits_and_hidden_states(self):
        for name in ("gpt-bigcode-tiny", "roberta-tiny"):
            for ranks, options in ((1, []), (1, ["--device", "serial"]), (2, ["--parallel", "sp"]),
                                   (3, ["--parallel", "tp"]), (3, ["--parallel", "ring"]),
                                   (4, ["--tp", "2", "--cp", "2", "--sequence-parallel"])):
                with self.subTest(model=name, ranks=ranks, options=options):
                    self.assert_golden(options, ranks, DATA / "models" / name)

    def test_padding_on_the_left_gives_the_same_logits(self):
        for name in ("llama-tiny-gqa", "gpt-bigcode-tiny", "roberta-tiny"):
            with self.subTest(model=name):
                model = DATA / "models" / name
                moved = os.path.join(self.folder.name, "left.safetensors")
                real = move_to_the_right(model / "expected.safetensors", moved)
                result = run(["logits", "--model", str(model), "--input", moved, "--out", self.out])
                self.assertEqual(result.returncode, 0, result.stderr)
                shape, found = read_tensor(self.out, "logits")
                _, golden = read_tensor(model / "expected.safetensors", "logits")
                _, length, vocabulary = shape
                for row, count in enumerate(real):
                    start = row * length * vocabulary
                    size = count * vocabulary
                    ours = found[start + length * vocabulary - size:start + length * vocabulary]
                    theirs = golden[start:start + size]
                    self.assertFalse(any(found[start:start + length * vocabulary - size]))
                    self.assertLessEqual(max(abs(a - b) for a, b in zip(ours, theirs)), 1e-4)

    def test_a_mask_of_another_dtype_is_the_same_mask(self):
        tensors = read_tensors(MODEL / "expected.safetensors")
        batch = os.path.join(self.folder.name, "batch.safetensors")
        _, shape, mask = tensors["attention_mask"]
        expected = None
        for dtype in ("I64", "I32", "BOOL", "U8"):
            with self.subTest(dtype=dtype):
                write_tensors(batch, {"input_ids": tensors["input_ids"],
                                      "attention_mask": (dtype, shape, mask)})
                result = run(["logits", "--model", str(MODEL), "--input", batch, "--out", self.out])
                self.assertEqual(result.returncode, 0, result.stderr)
                _, found = read_tensor(self.out, "logits")
                expected = expected or found
                self.assertEqual(found, expected)
        for dtype, value in (("U8", 2), ("F32", 1.0)):
            with self.subTest(dtype=dtype):
                wrong = {"attention_mask": (dtype, shape, [value] * len(mask))}
                write_tensors(batch, {"input_ids": tensors["input_ids"]} | wrong)
                result = run(["logits", "--model", str(MODEL), "--input", batch, "--out", self.out])
                self.assertEqual(result.returncode, 2)
                self.assertIn("'attention_mask': expected", result.stderr)

    def test_mesh_of_four_ranks_gives_the_golden_logits(self):
        self.assert_golden(["--tp", "2", "--cp", "2", "--sequence-parallel"], 4)

    def test_integer_weights_change_logits_by_what_their_steps_explain(self):
        # Relative to a row's or group's spread, a step's error is 2.6 / 127 / sqrt(12) in int8 and
        # 2.2 / 7 / sqrt(12) in int4. Nine products add theirs; twice that leaves room for chance.
        for form, error in (("int8", 0.0059), ("int4", 0.09)):
            for ranks, mode in ((1, "none"), (2, "tp")):
                with self.subTest(form=form, mode=mode):
                    result = run(["logits", "--model", str(MODEL), "--input",
                                  str(MODEL / "expected.safetensors"), "--out", self.out,
                                  "--quantize", form, "--parallel", mode], ranks)
                    self.assertEqual(result.returncode, 0, result.stderr)
                    _, found = read_tensor(self.out, "logits")
                    _, golden = read_tensor(MODEL / "expected.safetensors", "logits")
                    squares = sum((a - b) ** 2 for a, b in zip(found, golden))
                    relative = (squares / sum(value ** 2 for value in golden)) ** 0.5
                    self.assertGreater(relative, 0.1 * error)
                    self.assertLess(relative, 2 * error * 9 ** 0.5)

    def test_an_unknown_form_of_integers_is_refused(self):
        self.assert_refused(["logits", "--model", str(MODEL), "--ids", "1", "--out", self.out,
                             "--quantize", "int3"], "int3", "int8")

    def test_json_says_what_was_written(self):
        for ranks, mode, mesh in ((1, "none", "one rank"), (2, "sp", "tensor 2")):
            result = run(["logits", "--model", str(MODEL), "--ids", "5, 6,7 ; 8", "--out", self.out,
                          "--parallel", mode, "--json"], ranks)
            self.assertEqual(result.returncode, 0, result.stderr)
            document = json.loads(result.stdout)
            self.assertEqual((document["out"], document["shape"]), (self.out, [2, 3, 800]))
            self.assertEqual((document["dtype"], document["device"], document["mesh"]),
                             ("f32", "cpu", mesh))
            self.assertEqual(document["sequence_parallel"], mode == "sp")
            self.assertGreater(document["run_s"], 0)
        bytes_of_no_text = self.out + os.fsdecode(b"\xff")
        result = run(["logits", "--model", str(MODEL), "--ids", "5", "--out", bytes_of_no_text, "--json"])
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(json.loads(result.stdout)["out"], self.out + "\ufffd")
        self.assertTrue(os.path.exists(bytes_of_no_text))
        quiet = run(["logits", "--model", str(MODEL), "--ids", "5", "--out", self.out])
        self.assertEqual((quiet.stdout, quiet.stderr), ("", ""))

    def test_a_killed_run_leaves_nothing_behind(self):
        # On a file system that knows files without a name, as most do.
        with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
            command = [PORTOLAN, "logits", "--model", str(MODEL), "--ids", ",".join(["5"] * 200),
                       "--out", f"{folder}/logits.safetensors"]
            killed = subprocess.run(["bash", "-c", 'ulimit -c 0 -f 100; exec "$@"', "bash", *command],
                                    capture_output=True, timeout=600, check=False)
            self.assertEqual(killed.returncode, -signal.SIGXFSZ)
            self.assertEqual(os.listdir(folder), [])

    def test_sequences_of_unequal_length_are_padded_with_zeros(self):
        result = run(["logits", "--model", str(MODEL), "--ids", "5,6,7;8", "--out", self.out])
        self.assertEqual(result.returncode, 0, result.stderr)
        shape, values = read_tensor(self.out, "logits")
        self.assertEqual(shape, [2, 3, 800])
        self.assertTrue(any(values[3 * 800:4 * 800]))
        self.assertFalse(any(values[4 * 800:]))

    def assert_refused(self, arguments, *words):
        result = run(arguments)
        self.assertEqual(result.returncode, 2, result.stderr)
        self.assertEqual(len(result.stderr.strip().splitlines()), 1, result.stderr)
        for word in words:
            self.assertIn(word, result.stderr)
        self.assertFalse(os.path.exists(self.out), "a refused run must leave no file")

    def test_refusals_are_one_line_and_leave_no_file(self):
        out = ["--out", self.out]
        model = ["logits", "--model", str(MODEL)]
        self.assert_refused([*model, "--ids", "1,900", *out], "900", "800")
        self.assert_refused([*model, "--ids", "1,x", *out], "--ids", "x")
        self.assert_refused([*model, "--ids", "1,-2", *out], "--ids")
        self.assert_refused([*model, "--ids", "1 2", *out], "--ids", "1 2")
        self.assert_refused([*model, "--ids", "1, ", *out], "--ids")
        self.assert_refused([*model, *out], "--ids", "--input")
        self.assert_refused(["logits", "--model", self.folder.name, "--ids", "1", *out],
                            "config.json")
        self.assert_refused([*model, "--ids", "1", "--parallel", "diagonal", *out], "diagonal")
        self.assert_refused([*model, "--ids", "1", "--tp", "2", *out], "--tp 2")
        self.assert_refused([*model, "--ids", "1", "--device", "cuda", *out], "cuda")
        self.assert_refused(["logits", "--model", str(DATA / "models" / "roberta-tiny"), "--ids",
                             ",".join(["5"] * 65), *out], "65", "64")
        self.assert_refused([*model, "--input", str(MODEL / "model.safetensors"), *out],
                            "model.safetensors", "input_ids")

    def test_every_broken_model_folder_is_refused_in_one_line(self):
        folders = sorted((DATA / "bad" / "model").iterdir())
        self.assertGreater(len(folders), 10)
        for folder in folders:
            if not folder.is_dir():
                continue
            with self.subTest(folder=folder.name):
                self.assert_refused(["logits", "--model", str(folder), "--ids", "1", "--out",
                                     self.out], str(folder))


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
