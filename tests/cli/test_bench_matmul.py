# SPDX-License-Identifier: Apache-2.0
"""`portolan bench matmul`: rates and bytes by their closed forms, results that are right, limits; its
refusals."""
import csv
import io
import json
import sys
import unittest

from command import BenchTest, run, run_ranks

SHAPES = [(3, 70, 50), (1, 128, 33)]
SMALL = ("--shapes", "3x70x50,1x128x33", "--repeat", "2", "--seconds", "0.01")
# Largest error of outputs with a variance of 1: rounding of bf16, half a step of int8 and int4.
BOUNDS = {"f32": 1e-5, "bf16": 0.02, "int8": 0.05, "int4": 0.8}


def round_up(value, unit):
    return -(-value // unit) * unit


def weight_bytes(form, outputs, inputs):
    """As documented for packed weights: panels of 64 outputs."""
    outputs, groups = round_up(outputs, 64), round_up(inputs, 32) // 32
    return {"f32": outputs * round_up(inputs, 16) * 4,
            "bf16": outputs * groups * 32 * 2,
            "int8": outputs * (4 + groups * 32),
            "int4": outputs * (4 + groups + groups * 16)}[form]


class BenchMatmul(BenchTest):
    def document(self, *arguments, ranks=1):
        command = ("bench", "matmul", "--json", *arguments)
        result = (run(*command, "--threads", "1", OMP_PROC_BIND="false") if ranks == 1
                  else run_ranks(ranks, *command))
        self.assertEqual(result.returncode, 0, result.stderr)
        return json.loads(result.stdout)

    def check(self, row, ranks=1):
        form = row["dtype"] if row["quantize"] == "none" else row["quantize"]
        rows, outputs, inputs = row["rows"], row["outputs"], row["inputs"]
        # A CPU without products in bf16 holds f32.
        held = {weight_bytes(form, outputs, inputs), weight_bytes("f32", outputs, inputs)}
        self.assertIn(row["weight_bytes"], held if form == "bf16" else {weight_bytes(form, outputs, inputs)})
        self.assert_times(row["time_s"], 2)
        self.assertGreaterEqual(row["peak_bytes"], 0)
        median = row["time_s"]["median"]
        flops = 2 * rows * outputs * inputs
        self.assertAlmostEqual(row["flop_per_s"] * median / (ranks * flops), 1, places=9)
        self.assertAlmostEqual(row["weight_bytes_per_s"] * median / (ranks * row["weight_bytes"]), 1,
                               places=9)
        times = {"FLOP/s": ranks * flops / row["large_product_flop_per_s"],
                 "read": ranks * row["weight_bytes"] / row["read_bytes_per_s"]}
        self.assertEqual(row["limit"], max(times, key=times.get))
        self.assertAlmostEqual(row["limit_share"] * median / max(times.values()), 1, places=9)
        self.assertGreater(row["max_error"], 0)
        self.assertLess(row["max_error"], BOUNDS[form], row)

    def test_every_form_of_weights_is_measured_and_right(self):
        rows = self.document(*SMALL, "--dtypes", "f32,bf16", "--quantize", "none,int8,int4")["rows"]
        self.assertEqual([(row["dtype"], row["quantize"], row["rows"], row["outputs"], row["inputs"])
                          for row in rows],
                         [(dtype, form, *shape) for dtype in ("f32", "bf16")
                          for form in ("none", "int8", "int4") for shape in SHAPES])
        for row in rows:
            self.check(row)
        errors = [row["max_error"] for row in rows[:6:2]]
        self.assertEqual(errors, sorted(errors))
        self.assertGreater(rows[6]["max_error"], 1e-4)  # rounded to bf16

    def test_many_rows_are_limited_by_arithmetic_and_one_by_memory(self):
        rows = self.document("--shapes", "512x512x512,1x4096x1024", "--dtypes", "f32", "--repeat",
                             "3")["rows"]
        self.assertEqual([row["limit"] for row in rows], ["FLOP/s", "read"])
        # Wrong units would be off by more than other work on the machine, which need not hit both
        # samples alike.
        for row in rows:
            self.assertGreater(row["limit_share"], 0.001)
            self.assertLess(row["limit_share"], 100)

    def test_ranks_multiply_at_once(self):
        for ranks in (2, 4):
            with self.subTest(ranks=ranks):
                document = self.document(*SMALL, "--dtypes", "f32", ranks=ranks)
                self.assertEqual(document["environment"]["ranks"], ranks)
                self.assertEqual(len(document["rows"]), 2)
                for row in document["rows"]:
                    self.check(row, ranks)

    def test_products_of_a_preset(self):
        rows = self.document("--preset", "tiny", "--rows", "5,1", "--dtypes", "f32", "--repeat", "1")["rows"]
        names = ["attention in", "attention out", "mlp in", "mlp out", "head"]
        self.assertEqual([(row["product"], row["rows"]) for row in rows],
                         [(name, count) for count in (1, 5) for name in names])
        plan = json.loads(run("plan", "--preset", "tiny", "--json").stdout)
        shapes = {entry["name"]: entry["shape"] for entry in plan["parameters"]}
        self.assertEqual([rows[4]["outputs"], rows[4]["inputs"]], shapes["lm_head.weight"])
        self.assertEqual([rows[3]["outputs"], rows[3]["inputs"]],
                         shapes["model.layers.0.mlp.down_proj.weight"])

    def test_every_device_has_them(self):
        for row in self.document("--device", "serial", "--shapes", "3x70x50", "--dtypes", "f32",
                                 "--repeat", "1")["rows"]:
            self.check(row)

    def test_the_seed_decides_the_operands(self):
        def errors(seed):
            return [row["max_error"] for row in self.document(*SMALL, "--dtypes", "f32", "--seed",
                                                              seed)["rows"]]
        self.assertEqual(errors(1), errors(1))
        self.assertNotEqual(errors(1), errors(2))

    def test_files_and_lines_say_the_same(self):
        result = run("bench", "matmul", *SMALL, "--threads", "1", "--dtypes", "f32", "--quantize", "int8",
                     "--out", self.out)
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        lines = result.stdout.splitlines()
        self.assertEqual(len(lines), 2 + 2 + 1)
        self.assertEqual(lines[0], "1 rank x 1 thread")
        rows = json.loads(self.read("matmul.json"))["rows"]
        table = list(csv.DictReader(io.StringIO(self.read("matmul.csv"))))
        for row, cells, line, shape in zip(rows, table, lines[2:], SHAPES):
            self.assertEqual(line.split()[:6], ["-", "f32", "int8", *map(str, shape)])
            self.assertEqual(float(cells["median_s"]), row["time_s"]["median"])
            self.assertEqual(float(cells["flop_per_s"]), row["flop_per_s"])
            self.assertEqual((cells["quantize"], cells["refusal"]), ("int8", ""))

    def test_running_out_of_memory_is_a_row(self):
        for ranks in (1, 2):
            rows = self.document("--shapes", "1x64x64,1x100000000x4000000", "--dtypes", "f32", "--repeat",
                                 "1", ranks=ranks)["rows"]
            self.assertNotIn("refusal", rows[0])
            self.assertEqual((rows[1]["refusal"], rows[1].get("time_s")), ("out of memory", None))

    def test_refusals(self):
        for words, options in (
                (["--shapes", "'12x4'"], ["--shapes", "12x4"]),
                (["--shapes", "'0'"], ["--shapes", "1x0x4"]),
                (["--shapes", "'4x5'"], ["--shapes", "2x3x4x5"]),
                (["--preset", "--shapes"], ["--shapes", "1x2x3", "--preset", "tiny"]),
                (["--rows", "--shapes"], ["--shapes", "1x2x3", "--rows", "4"]),
                (["--rows", "'0'"], ["--rows", "0"]),
                (["nothing-7b"], ["--preset", "nothing-7b"]),
                (["'f8'"], ["--dtypes", "f8"]),
                (["'int3'"], ["--quantize", "int3"]),
                (["/dev/null"], ["--shapes", "1x2x3", "--out", "/dev/null/x"]),
                (["--repeat", "'x'"], ["--repeat", "x"])):
            with self.subTest(options=options):
                self.assert_refused(run("bench", "matmul", *options), *words)
                self.assert_refused_by_all(run_ranks(2, "bench", "matmul", *options), *words)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
