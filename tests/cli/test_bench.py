# SPDX-License-Identifier: Apache-2.0
"""`portolan bench`: what it measures is there and of the right kind; its refusals."""
import csv
import io
import json
import os
import sys
import unittest
import xml.etree.ElementTree

from command import BenchTest, run, run_ranks

SMALL = ("--lengths", "40,130", "--head-dims", "16", "--heads", "4", "--kv-heads", "2", "--repeat", "3",
         "--seconds", "0.05", "--window", "20", "--block", "16", "--threads", "1")
# What tile sizes are measured by.
SHAPE = ("--lengths", "40,130", "--head-dims", "16", "--heads", "4", "--kv-heads", "2", "--repeat", "3",
         "--threads", "1")
METHODS = ["standard", "memory-efficient", "flash", "window", "block-sparse"]


class BenchAttention(BenchTest):
    def bench(self, *arguments):
        return run("bench", "attention", *SMALL, *arguments, OMP_PROC_BIND="false")

    def test_every_method_is_measured_and_right(self):
        for device in ("cpu", "serial"):
            with self.subTest(device=device):
                result = self.bench("--json", "--device", device)
                self.assertEqual((result.returncode, result.stderr), (0, ""))
                rows = json.loads(result.stdout)["rows"]
                self.assertEqual([(row["pass"], row["length"], row["method"]) for row in rows],
                                 [(direction, length, method) for direction in ("forward", "backward")
                                  for length in (40, 130) for method in METHODS])
                for row in rows:
                    self.assertNotIn("refusal", row)
                    self.assert_times(row["time_s"], 3)
                    self.assertGreater(row["flop_per_s"], 0)
                    self.assertGreater(row["gemm_flop_per_s"], 0)
                    self.assertGreaterEqual(row["peak_bytes"], 0)
                    self.assertLess(row["max_error"], 1e-5, row)
                    self.assertGreater(row["max_error"], 0)

    def test_tiles_are_measured_kept_and_used(self):
        tiles = os.path.join(self.folder.name, "tiles.json")
        result = run("bench", "attention", *SHAPE, "--tune", tiles, "--dtypes", "f32,bf16")
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        self.assertIn("best: block", result.stdout)
        with open(tiles, encoding="utf-8") as file:
            document = json.load(file)
        self.assertEqual([(entry["dtype"], entry["head_dim"]) for entry in document["attention_tiles"]],
                         [("f32", 16), ("bf16", 16)])
        used = self.bench("--attention-tiles", tiles, "--methods", "flash", "--json")
        self.assertEqual((used.returncode, used.stderr), (0, ""))
        self.assertEqual(json.loads(used.stdout)["environment"]["runtime"]["attention_tiles"],
                         document["attention_tiles"])
        unused = self.bench("--methods", "flash", "--json")
        self.assertNotIn("attention_tiles", json.loads(unused.stdout)["environment"]["runtime"])

    def test_tiles_are_told_as_one_document(self):
        tiles = os.path.join(self.folder.name, "tiles.json")
        result = run("bench", "attention", *SHAPE, "--tune", tiles, "--json")
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        document = json.loads(result.stdout)
        candidates = document.pop("candidates")
        with open(tiles, encoding="utf-8") as file:
            self.assertEqual(document, json.load(file))
        self.assertEqual({candidate["block_kib"] for candidate in candidates},
                         {128, 256, 512, 1024, 2048})
        for candidate in candidates:
            self.assertEqual((candidate["dtype"], candidate["head_dim"]), ("f32", 16))
            self.assertGreater(candidate["relative_time"], 0)

    def test_what_tuning_does_not_heed_is_refused(self):
        tiles = os.path.join(self.folder.name, "tiles.json")
        nowhere = os.path.join(self.folder.name, "none", "tiles.json")
        for words, options in (
                (["--tune", "serial"], ["--tune", tiles, "--device", "serial"]),
                (["--tune", "cuda"], ["--tune", tiles, "--device", "cuda"]),
                (["--methods", "--tune"], ["--tune", tiles, "--methods", "flash"]),
                (["--passes", "--tune"], ["--tune", tiles, "--passes", "forward"]),
                (["--window", "--tune"], ["--tune", tiles, "--window", "8"]),
                (["--out", "--tune"], ["--tune", tiles, "--out", self.out]),
                (["--attention-tiles", "--tune"], ["--tune", tiles, "--attention-tiles", tiles]),
                ([nowhere], ["--tune", nowhere]),
                ([self.folder.name], ["--tune", self.folder.name])):
            with self.subTest(options=options):
                self.assert_refused(run("bench", "attention", *options), *words)
                self.assertEqual(os.listdir(self.folder.name), [])

    def test_the_seed_decides_the_operands(self):
        def errors(seed):
            result = self.bench("--json", "--seed", seed, "--methods", "flash", "--passes", "forward")
            self.assertEqual(result.returncode, 0, result.stderr)
            return [row["max_error"] for row in json.loads(result.stdout)["rows"]]
        self.assertEqual(errors(1), errors(1))
        self.assertNotEqual(errors(1), errors(2))

    def test_tiles_of_another_processor_are_refused(self):
        tiles = os.path.join(self.folder.name, "tiles.json")
        with open(tiles, "w", encoding="utf-8") as file:
            json.dump({"cpu": "abacus", "attention_tiles": []}, file)
        self.assert_refused(self.bench("--attention-tiles", tiles), tiles, "cpu", "abacus")

    def test_rounding_shows_in_the_error(self):
        result = self.bench("--json", "--dtypes", "bf16", "--methods", "flash")
        self.assertEqual(result.returncode, 0, result.stderr)
        for row in json.loads(result.stdout)["rows"]:
            self.assertGreater(row["max_error"], 1e-5)
            self.assertLess(row["max_error"], 5e-2)

    def test_files_say_what_is_printed(self):
        result = self.bench("--out", self.out, "--methods", "flash,window")
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        lines = result.stdout.splitlines()
        self.assertEqual(len(lines), 1 + 8 + 1)
        rows = json.loads(self.read("attention.json"))["rows"]
        table = list(csv.DictReader(io.StringIO(self.read("attention.csv"))))
        self.assertEqual([row["method"] for row in table], [row["method"] for row in rows])
        for row, cells in zip(rows, table):
            self.assertEqual(float(cells["median_s"]), row["time_s"]["median"])
            self.assertEqual(cells["refusal"], "")
        plots = sorted(name for name in os.listdir(self.out) if name.endswith(".svg"))
        self.assertEqual(plots, [f"attention-{quantity}-{direction}-f32-d16.svg"
                                 for quantity in ("memory", "rate", "time")
                                 for direction in ("backward", "forward")])
        for name in plots:
            root = xml.etree.ElementTree.fromstring(self.read(name))
            self.assertEqual(root.tag, "{http://www.w3.org/2000/svg}svg")

    def test_running_out_of_memory_is_a_row(self):
        result = self.bench("--memory-limit", "0.000001", "--methods", "standard,flash", "--json",
                            "--passes", "forward", "--device", "serial")
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        rows = json.loads(result.stdout)["rows"]
        self.assertEqual(len(rows), 4)
        for row in rows:
            if row["method"] == "standard":
                self.assertEqual(row["refusal"], "out of memory")
                self.assertNotIn("time_s", row)

    def test_refusals(self):
        for words, options in (
                (["'fast'", "memory-efficient"], ["--methods", "fast"]),
                (["'f8'"], ["--dtypes", "f8"]),
                (["'sideways'"], ["--passes", "sideways"]),
                (["--lengths", "'0'"], ["--lengths", "0"]),
                (["--head-dims", "'257'"], ["--head-dims", "257"]),
                (["--heads 4", "--kv-heads 3"], ["--kv-heads", "3"]),
                (["--seconds", "'x'"], ["--seconds", "x"])):
            with self.subTest(options=options):
                name = options[0]
                kept = [item for pair in zip(SMALL[::2], SMALL[1::2]) if pair[0] != name
                        for item in pair]
                self.assert_refused(run("bench", "attention", *kept, *options), *words)
        self.assert_refused(run("bench"), "subcommand")
        file = os.path.join(self.folder.name, "file")
        with open(file, "w", encoding="utf-8"):
            pass
        self.assert_refused(self.bench("--out", file), file)


class BenchGeneration(BenchTest):
    def rows(self, *arguments, command="decode"):
        result = run("bench", command, "--preset", "tiny", "--tokens", "6", "--threads", "1", "--json",
                     *arguments, OMP_PROC_BIND="false")
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        return json.loads(result.stdout)["rows"]

    def test_decoding_is_timed_token_by_token_and_takes_no_new_memory(self):
        rows = self.rows("--prompt", "9", "--dtypes", "f32,bf16", "--quantize", "none,int8,int4")
        self.assertEqual([(row["dtype"], row["quantize"]) for row in rows],
                         [(dtype, form) for dtype in ("f32", "bf16")
                          for form in ("none", "int8", "int4")])
        for row in rows:
            self.assert_times(row["token_s"], 6)
            self.assertEqual(len(row["token_s"]["samples"]), 6)
            self.assertEqual(row["token_reserved_bytes"], 0)
            self.assertAlmostEqual(row["read_share"] * row["read_bytes_per_second"],
                                   row["bytes_per_token_and_rank"] / row["token_s"]["median"], delta=1)

    def test_bytes_of_a_token_are_those_of_weights_and_cache(self):
        f32, bf16, int8, int4 = (
            self.rows("--prompt", "9", "--dtypes", dtype, "--quantize", form)[0]
            ["bytes_per_token_and_rank"]
            for dtype, form in (("f32", "none"), ("bf16", "none"), ("bf16", "int8"), ("bf16", "int4")))
        # About a half, a half and a half: panels round sizes up.
        for larger, smaller in ((f32, bf16), (bf16, int8), (int8, int4)):
            self.assertLess(smaller, 0.75 * larger)
            self.assertGreater(smaller, 0.45 * larger)
        longer = self.rows("--prompt", "41", "--dtypes", "f32")[0]["bytes_per_token_and_rank"]
        # 32 tokens more: keys and values, 2 layers, 2 heads of 16, 4 bytes.
        self.assertEqual(longer - f32, 32 * 2 * 2 * 2 * 16 * 4)

    def test_the_record_says_what_was_measured(self):
        result = run("bench", "decode", "--preset", "tiny", "--layers", "1", "--tokens", "2", "--prompt",
                     "5", "--threads", "1", "--seed", "7", "--out", self.out)
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        document = json.loads(self.read("generation.json"))
        self.assertEqual((document["model"], document["layers"]), ("tiny", 1))
        environment = document["environment"]
        self.assertEqual((environment["ranks"], environment["sequence_parallel"], environment["seed"]),
                         (1, False, 7))
        table = list(csv.DictReader(io.StringIO(self.read("generation.csv"))))
        self.assertEqual([row["dtype"] for row in table], ["f32", "bf16"])
        for cells, row in zip(table, document["rows"]):
            self.assertEqual(float(cells["token_median_s"]), row["token_s"]["median"])
            self.assertEqual(int(cells["bytes_per_token_and_rank"]), row["bytes_per_token_and_rank"])
        self.assertIn("tiny, 1 layer, 1 rank x 1 thread, 5 + 2 tokens, batch 1\n", result.stdout)

    def test_the_record_says_the_mesh(self):
        result = run_ranks(2, "bench", "decode", "--preset", "tiny", "--tokens", "2", "--prompt", "5",
                           "--dtypes", "f32", "--parallel", "sp", "--json")
        self.assertEqual(result.returncode, 0, result.stderr)
        environment = json.loads(result.stdout)["environment"]
        self.assertEqual((environment["ranks"], environment["mesh"], environment["sequence_parallel"]),
                         (2, "tensor 2", True))

    def test_latency_has_both_ways_of_the_cache(self):
        rows = self.rows("--prompt", "9", command="latency")
        self.assertEqual([row["cache"] for row in rows], [True, False])

    def test_decoding_is_recorded_where_it_is_asked_for(self):
        self.assertEqual([row["recorded"] for row in self.rows("--prompt", "9", "--graph", "off")],
                         [False, False])
        rows = self.rows("--prompt", "9", "--graph", "on")
        self.assertEqual([row["recorded"] for row in rows], [True, True])
        self.assertEqual([row["token_reserved_bytes"] for row in rows], [0, 0])
        rows = self.rows("--prompt", "9", "--graph", "on", command="latency")
        self.assertEqual([(row["cache"], row["recorded"]) for row in rows],
                         [(True, True), (False, False)])
        self.assert_refused_by_all(run_ranks(2, "bench", "decode", "--preset", "tiny", "--parallel",
                                             "tp", "--graph", "on"), "recorded", "one rank")

    def test_refusals(self):
        self.assert_refused(run("bench", "decode", "--tokens", "0"), "--tokens", "'0'")
        self.assert_refused(run("bench", "decode", "--quantize", "int3"), "'int3'")
        self.assert_refused(run("bench", "latency", "--preset", "none"), "none")
        self.assert_refused(run("bench", "decode", "--preset", "roberta-tiny"), "roberta-tiny", "masks")
        self.assert_refused(run("bench", "decode", "--preset", "gpt-bigcode-tiny", "--prompt", "9000"),
                            "--prompt 9000", "gpt-bigcode-tiny")


class BenchRing(BenchTest):
    def bench(self, ranks, *arguments):
        return run_ranks(ranks, "bench", "ring", "--preset", "tiny", "--prompt-n", "1,4,30", "--tokens",
                         "2", *arguments)

    def test_ring_and_one_rank_write_the_same_tokens(self):
        for ranks in (2, 3):
            with self.subTest(ranks=ranks):
                result = self.bench(ranks, "--json", "--out", self.out)
                self.assertEqual(result.returncode, 0, result.stderr)
                document = json.loads(result.stdout)
                self.assertEqual(document, json.loads(self.read("ring.json")))
                # "0", "0, 1, 2, 3" and "0, ..., 29": a number, a comma and a space are a token each.
                self.assertEqual([row["prompt_tokens"] for row in document["rows"]], [1, 10, 88])
                for row in document["rows"]:
                    self.assertTrue(row["same_tokens"], row)
                    self.assertEqual(len(row["ring"]["ids"]), 2)
                    self.assertEqual(len(row["ring"]["samples_s"]), 2)
                    self.assertEqual(len(row["ring"]["allocated_peak_bytes"]), ranks)
                    self.assertEqual(len(row["alone"]["allocated_peak_bytes"]), 1)
                    self.assertAlmostEqual(row["efficiency"] * ranks, row["speed_up"], places=9)
                table = list(csv.DictReader(io.StringIO(self.read("ring.csv"))))
                self.assertEqual([row["strategy"] for row in table], ["alone", "ring"] * 3)
                self.assertEqual(table[0]["ids"], table[1]["ids"])

    def test_one_rank_is_refused(self):
        self.assert_refused(run("bench", "ring"), "mpirun")
        self.assert_refused(run("bench", "ring", "--preset", "none"), "none")
        self.assert_refused(run("bench", "ring", "--prompt-n", "0"), "--prompt-n")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
