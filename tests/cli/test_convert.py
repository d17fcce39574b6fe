# SPDX-License-Identifier: Apache-2.0
"""`portolan convert` as a user calls it, and the folders it makes under `logits` and `inspect`."""
import fcntl
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import unittest

from command import DATA, PORTOLAN, CommandTest, clean_environment, run, run_ranks
from tensor_file import read_tensor, read_tensors, write_tensors

MODELS = DATA / "models"


def weights(folder):
    tensors = {}
    for path in sorted(pathlib.Path(folder).glob("model*.safetensors")):
        tensors |= read_tensors(path)
    return tensors


class Convert(CommandTest):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = pathlib.Path(temporary.name)

    def convert(self, *arguments):
        result = run("convert", *arguments)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(result.stderr, "", "no progress where there is no terminal")
        return result.stdout

    def logits(self, model, ids_of, *extra, ranks=1):
        out = self.folder / "logits.safetensors"
        arguments = ["logits", "--model", model, "--input", MODELS / ids_of / "expected.safetensors",
                     "--out", out, *extra]
        result = run(*arguments) if ranks == 1 else run_ranks(ranks, *arguments)
        self.assertEqual(result.returncode, 0, result.stderr)
        return read_tensor(out, "logits")

    def test_there_and_back_through_both_formats_keeps_every_bit(self):
        for model, shards in (("llama-tiny-gqa", 2), ("llama-tiny-mha-bf16", 4),
                              ("llama3-tiny-tied", 2)):
            with self.subTest(model=model):
                folder = self.folder / model
                folder.mkdir()
                self.convert("--from", "hf", "--to", "meta", "--shards", shards, MODELS / model,
                             folder / "meta")
                self.assertEqual(len(list((folder / "meta").glob("consolidated.*.pth"))), shards)
                self.convert("--from", "meta", "--to", "portolan", folder / "meta", folder / "own")
                self.convert("--from", "portolan", "--to", "hf", "--max-shard-size", "100kB",
                             folder / "own", folder / "hf")
                self.assertEqual(weights(folder / "hf"), weights(MODELS / model))
                self.assertGreater(len(list((folder / "hf").glob("*.safetensors"))), 2)

    def test_a_meta_folder_gives_the_golden_logits_under_every_mode(self):
        for name in ("hidden2", "vocabulary4"):
            for ranks, mode in ((1, "none"), (2, "tp"), (2, "sp"), (2, "ring"), (4, "tp")):
                with self.subTest(folder=name, ranks=ranks, mode=mode):
                    shape, found = self.logits(DATA / "meta" / name, "llama-tiny-mha-bf16",
                                               "--dtype", "f32", "--parallel", mode, ranks=ranks)
                    golden_shape, golden = read_tensor(
                        MODELS / "llama-tiny-mha-bf16" / "expected.safetensors", "logits")
                    self.assertEqual(shape, golden_shape)
                    worst = max(abs(a - b) for a, b in zip(found, golden))
                    self.assertLessEqual(worst, 1e-4)

    def test_converted_models_give_the_logits_of_the_original_bit_by_bit(self):
        for model, shards in (("llama-tiny-gqa", 2), ("llama3-tiny-tied", 2), ("mistral-tiny-swa", 1)):
            with self.subTest(model=model):
                self.convert("--to", "meta", "--shards", shards, MODELS / model, self.folder / model)
                self.assertEqual(self.logits(self.folder / model, model),
                                 self.logits(MODELS / model, model))

    def test_json_says_what_was_written(self):
        out = self.folder / "out"
        report = json.loads(self.convert("--to", "hf", "--dtype", "bf16", "--json",
                                         MODELS / "llama-tiny-gqa", out))
        self.assertEqual(report["from"], "hf")
        self.assertEqual(report["weight_bytes"], 241088 * 2)
        self.assertEqual({file["name"]: file["bytes"] for file in report["files"]},
                         {path.name: path.stat().st_size for path in out.iterdir()})
        config = json.loads((out / "config.json").read_text())
        self.assertEqual(config.get("dtype", config.get("torch_dtype")), "bfloat16")

    def test_the_new_folder_is_as_public_as_any_other(self):
        self.convert("--to", "hf", MODELS / "llama-tiny-gqa", self.folder / "out")
        (self.folder / "plain").mkdir()
        self.assertEqual((self.folder / "out").stat().st_mode, (self.folder / "plain").stat().st_mode)

    def assert_leaves_nothing(self, result, *words, code=2):
        self.assert_refused(result, *words, code=code)
        self.assertEqual(sorted(path.name for path in self.folder.iterdir()), [])

    def test_refusals_leave_nothing_behind(self):
        model = MODELS / "llama-tiny-gqa"
        out = self.folder / "out"
        self.assert_leaves_nothing(run("convert", "--to", "meta", "--shards", "3", model, out), "3")
        self.assert_leaves_nothing(run("convert", "--to", "meta", "--shards", "0", model, out),
                                   "--shards")
        self.assert_leaves_nothing(run("convert", "--from", "meta", "--to", "hf", model, out), "meta",
                                   "hf")
        self.assert_leaves_nothing(run("convert", "--to", "gguf", model, out), "--to", "gguf")
        self.assert_leaves_nothing(run("convert", model, out), "--to")
        self.assert_leaves_nothing(run("convert", "--to", "hf", "--shards", "2", model, out),
                                   "--shards")
        self.assert_leaves_nothing(run("convert", "--to", "meta", "--max-shard-size", "1GB", model,
                                       out), "--max-shard-size")
        for size in ("0", "-1GB", "5GiB", "GB", "", "nan", "1e30"):
            self.assert_leaves_nothing(run("convert", "--to", "hf", f"--max-shard-size={size}", model,
                                           out), "--max-shard-size")
        self.assert_leaves_nothing(run("convert", "--to", "hf", self.folder / "absent", out),
                                   "absent")
        self.assert_leaves_nothing(run("convert", "--to", "hf", model, out / "deeper"), "deeper")

    def test_what_exists_is_never_touched(self):
        for name in ("file", "folder", "link"):
            path = self.folder / name
            {"file": path.touch, "folder": path.mkdir,
             "link": lambda: path.symlink_to("nowhere")}[name]()
            self.assert_refused(run("convert", "--to", "hf", MODELS / "llama-tiny-gqa", path), name,
                                "exists")
        self.assertEqual(list((self.folder / "folder").iterdir()), [])

    def test_a_full_disk_is_one_line_and_leaves_nothing(self):
        limited = ["bash", "-c", 'ulimit -f 100; trap "" XFSZ; exec "$@"', "bash", PORTOLAN]
        for target in ("hf", "meta"):
            result = subprocess.run(
                [*limited, "convert", "--to", target, str(MODELS / "llama-tiny-gqa"),
                 str(self.folder / "out")],
                capture_output=True, text=True, timeout=600, env=clean_environment())
            self.assert_leaves_nothing(result, "cannot write", code=1)

    def remains(self):
        return sorted(path.name for path in self.folder.iterdir() if path.name.startswith("."))

    def test_the_next_convert_removes_what_a_killed_one_left(self):
        command = [PORTOLAN, "convert", "--to", "hf", str(MODELS / "llama-tiny-gqa"),
                   str(self.folder / "out")]
        killed = subprocess.run(["bash", "-c", 'ulimit -c 0 -f 100; exec "$@"', "bash", *command],
                                capture_output=True, timeout=600, env=clean_environment())
        self.assertEqual(killed.returncode, -signal.SIGXFSZ)
        (remains,) = self.remains()
        self.assertRegex(remains, r"\A\.out\.portolan-\w{6}\Z")
        # Those of another place, of a convert that still runs, and files are not its business.
        others = [".other.portolan-abcdef", ".out.portolan-abc", ".out.portolan-lockd0"]
        for name in others:
            (self.folder / name).mkdir()
        (self.folder / ".out.portolan-a_file").touch()
        descriptor = os.open(self.folder / others[-1], os.O_RDONLY)
        self.addCleanup(os.close, descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        self.convert(*command[2:])
        self.assertEqual(self.remains(), sorted([*others, ".out.portolan-a_file"]))
        self.assertEqual(weights(self.folder / "out"), weights(MODELS / "llama-tiny-gqa"))

    def test_inspect_reads_the_format_and_its_files(self):
        report = json.loads(run("inspect", DATA / "meta" / "hidden2", "--json").stdout)
        self.assertEqual((report["kind"], report["format"]), ("model", "meta"))
        self.assertEqual(report["parameters"], 205120)
        self.assertEqual(report["config"]["vocab_size"], 816)
        report = json.loads(
            run("inspect", DATA / "meta" / "hidden2" / "consolidated.01.pth", "--json").stdout)
        self.assertEqual(report["kind"], "torch")
        self.assertEqual(len(report["tensors"]), 22)
        report = json.loads(run("inspect", DATA / "meta" / "hidden2" / "params.json", "--json").stdout)
        self.assertEqual(report["kind"], "config")
        memory = run("inspect", DATA / "meta" / "hidden2", "--tp", "2", "--json")
        self.assertEqual(len(json.loads(memory.stdout)["memory"]["weight_bytes_per_rank"]), 2)

    def test_malformed_torch_files_are_refused_in_one_line(self):
        path = self.folder / "model.pth"
        for content in (b"", b"PK\x03\x04", b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.",
                        (DATA / "meta/hidden2/consolidated.00.pth").read_bytes()[:5000]):
            path.write_bytes(content)
            self.assert_refused(run("inspect", path), str(path))


class Memory(CommandTest):
    def test_a_model_beyond_the_memory_is_refused_before_it_is_loaded(self):
        with tempfile.TemporaryDirectory() as temporary:
            folder = pathlib.Path(temporary)
            vocabulary, hidden = 1 << 24, 1 << 16  # 2 x 4.4 TB in f32
            config = json.loads((MODELS / "llama-tiny-gqa" / "config.json").read_text())
            config.update(vocab_size=vocabulary, hidden_size=hidden, num_attention_heads=512,
                          num_key_value_heads=512, head_dim=128, intermediate_size=64,
                          num_hidden_layers=1)
            (folder / "config.json").write_text(json.dumps(config))
            block = "model.layers.0."
            shapes = {"model.embed_tokens.weight": [vocabulary, hidden], "model.norm.weight": [hidden],
                      "lm_head.weight": [vocabulary, hidden],
                      f"{block}input_layernorm.weight": [hidden],
                      f"{block}post_attention_layernorm.weight": [hidden],
                      f"{block}mlp.gate_proj.weight": [64, hidden],
                      f"{block}mlp.up_proj.weight": [64, hidden],
                      f"{block}mlp.down_proj.weight": [hidden, 64]}
            for name in "qkvo":
                shapes[f"{block}self_attn.{name}_proj.weight"] = [hidden, hidden]
            header, end = {}, 0
            for name, shape in shapes.items():
                begin, end = end, end + 4 * shape[0] * (shape[1] if len(shape) > 1 else 1)
                header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
            text = json.dumps(header).encode()
            with open(folder / "model.safetensors", "wb") as file:
                file.write(len(text).to_bytes(8, "little") + text)
                file.truncate(8 + len(text) + end)  # a hole: it takes no space
            out = folder / "out.safetensors"
            result = run("logits", "--model", folder, "--ids", "1,2", "--out", out)
            self.assert_refused(result, "does not fit", "GB", "available", code=1)
            self.assertFalse(out.exists())
            batch = folder / "batch.safetensors"
            ids = ("I64", [1, 4], [1, 2, 3, 4])
            write_tensors(batch, {"input_ids": ids, "labels": ids, "attention_mask": ids[:2] + ([1] * 4,)})
            result = run("train", "--model", folder, "--batch", batch, "--steps", "1")
            self.assert_refused(result, "does not fit", code=1)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
