# SPDX-License-Identifier: Apache-2.0
"""`portolan attention` as a user calls it: another framework's results by every method and device, and its
refusals."""
import json
import math
import os
import struct
import sys
import tempfile
import unittest

from command import DATA, CommandTest, run, run_ranks
from tensor_file import read_tensors, write_tensors

CASES = json.loads((DATA / "attention" / "cases.json").read_text(encoding="utf-8"))["cases"]


def options_of(case):
    options = ["--scale", str(case["scale"]), "--layout", case["layout"]]
    if case["causal"]:
        options.append("--causal")
    if case["window"]:
        options += ["--window", str(case["window"])]
    if "block" in case:
        options += ["--block", ",".join(map(str, case["block"]))]
    return options


def case_named(name):
    return next(case for case in CASES if case["name"] == name)


def path_of(case):
    return DATA / "attention" / case["file"]


def bfloat16_bits(value):
    return struct.unpack("<I", struct.pack("<f", value))[0] >> 16  # exact for values that are bf16


def worst_difference(found, expected):
    return max((abs(a - b) for a, b in zip(found, expected) if a != b), default=0.0)


class AttentionTest(CommandTest):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.out = os.path.join(self.folder.name, "out.safetensors")
        self.input = os.path.join(self.folder.name, "in.safetensors")

    def tearDown(self):
        self.folder.cleanup()


class Attention(AttentionTest):
    def run_case(self, case, *extra, source=None):
        return run("attention", "--input", source or path_of(case), "--out", self.out,
                   *options_of(case), *extra, OMP_PROC_BIND="false")

    def assert_results(self, case, names, tolerance, gradient_tolerance):
        found, golden = read_tensors(self.out), read_tensors(path_of(case))
        self.assertEqual(sorted(found), sorted(names))
        if case["name"] == "causal_large_scores":
            tolerance = gradient_tolerance = max(2e-3, gradient_tolerance)
        for name in names:
            dtype, shape, values = found[name]
            self.assertEqual((dtype, shape), ("F32", golden[name][1]), name)
            self.assertFalse(any(map(math.isnan, values)), name)
            limit = gradient_tolerance if name.startswith("d") else tolerance
            self.assertLessEqual(worst_difference(values, golden[name][2]), limit, name)

    def assert_golden(self, case, *extra, backward=True, tolerance=1e-5, gradient_tolerance=5e-5,
                      source=None):
        flags = ["--backward"] if backward else []
        result = self.run_case(case, *extra, *flags, source=source)
        self.assertEqual(result.returncode, 0, result.stderr)
        names = ["o", "lse"] + (["dq", "dk", "dv"] if backward else [])
        self.assert_results(case, names, tolerance, gradient_tolerance)
        os.remove(self.out)
        return result

    def test_every_case_agrees_with_the_other_framework(self):
        self.assertEqual(len(CASES), 30)
        for case in CASES:
            with self.subTest(case=case["name"]):
                result = self.assert_golden(case)
                self.assertEqual(result.stdout, "")
                self.assertRegex(result.stderr, r"\Aattention forward: [^\n]+; backward: [^\n]+\n\Z")

    def test_window_and_block_sparse_take_the_cases_made_for_them(self):
        self.assert_golden(case_named("window7_gqa"), "--method", "window")
        self.assert_golden(case_named("chunk_prefill_window7"), "--method", "window")
        self.assert_golden(case_named("varlen_window7"), "--method", "window")
        self.assert_golden(case_named("block_sparse_16"), "--method", "block-sparse")
        self.assert_golden(case_named("block_sparse_causal_ragged"), "--method", "block-sparse")
        self.assert_golden(case_named("block_sparse_rect_empty_rows"), "--method", "block-sparse")

    def test_forward_alone_writes_no_gradients_and_needs_no_do(self):
        case = case_named("causal_gqa")
        tensors = read_tensors(path_of(case))
        write_tensors(self.input, {name: tensors[name] for name in ("q", "k", "v")})
        self.assert_golden(case, backward=False, source=self.input)

    def test_scale_is_one_over_the_root_of_head_dim_by_default(self):
        case = case_named("causal_mha")
        result = run("attention", "--input", path_of(case), "--out", self.out, "--causal")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assert_results(case, ["o", "lse"], 1e-5, 0)
        self.assertEqual(run("attention", "--input", path_of(case), "--out", self.out, "--causal",
                             "--scale", "0.5").returncode, 0)
        golden = read_tensors(path_of(case))["o"][2]
        self.assertGreater(worst_difference(read_tensors(self.out)["o"][2], golden), 1e-3)

    def test_half_precision_is_near(self):
        case = case_named("causal_d64")
        for dtype, tolerance in (("bf16", 2e-2), ("f16", 3e-3)):
            with self.subTest(dtype=dtype):
                self.assert_golden(case, "--dtype", dtype, tolerance=tolerance,
                                   gradient_tolerance=20 * tolerance)

    def test_stored_bf16_gives_the_bits_of_converted_f32(self):
        case = case_named("causal_d64")
        tensors = read_tensors(path_of(case))
        stored = {name: ("BF16", tensors[name][1], [bfloat16_bits(x) for x in tensors[name][2]])
                  for name in ("q", "k", "v", "do")}
        write_tensors(self.input, stored)
        results = []
        for extra, source in ((("--dtype", "bf16"), None), ((), self.input)):
            self.assertEqual(self.run_case(case, "--backward", *extra, source=source).returncode, 0)
            with open(self.out, "rb") as file:
                results.append(file.read())
        self.assertEqual(results[0], results[1])
        self.assert_golden(case, "--dtype", "f32", source=self.input)

    def test_offsets_of_64_bits_are_taken(self):
        case = case_named("varlen_empty_sequence")
        tensors = read_tensors(path_of(case))
        for name in ("cu_seqlens_q", "cu_seqlens_k"):
            tensors[name] = ("I64",) + tensors[name][1:]
        write_tensors(self.input, tensors)
        self.assert_golden(case, source=self.input)

    def test_rows_that_see_nothing_are_zero(self):
        # One query head, tokens of one number each: 2 queries over no key, then 2 over 1 causally.
        tensors = {name: ("F32", [1, 1, 2, 1], [1.0, 2.0]) for name in ("q", "do")}
        tensors |= {name: ("F32", [1, 1, 0, 1], []) for name in ("k", "v")}
        for keys, lse, out in ((0, [-math.inf] * 2, [0.0, 0.0]), (1, [-math.inf, 6.0], [0.0, 3.0])):
            with self.subTest(keys=keys):
                tensors |= {name: ("F32", [1, 1, keys, 1], [3.0] * keys) for name in ("k", "v")}
                write_tensors(self.input, tensors)
                result = run("attention", "--input", self.input, "--out", self.out, "--causal",
                             "--backward")
                self.assertEqual(result.returncode, 0, result.stderr)
                found = {name: list(tensor[2]) for name, tensor in read_tensors(self.out).items()}
                self.assertEqual(found["lse"], lse)
                self.assertEqual(found["o"], out)
                # One key: its weight is 1 whatever the score, so only v has a gradient.
                self.assertEqual(found["dq"], [0.0, 0.0])
                self.assertEqual(found["dk"], [0.0] * keys)
                self.assertEqual(len(found["dv"]), keys)
                self.assertLess(worst_difference(found["dv"], [2.0] * keys), 1e-6)

    def test_no_query_gives_empty_results_and_gradients_of_zero(self):
        tensors = {name: ("F32", [1, 1, 0, 2], []) for name in ("q", "do")}
        tensors |= {name: ("F32", [1, 1, 2, 2], [1.0, 2.0, 3.0, 4.0]) for name in ("k", "v")}
        write_tensors(self.input, tensors)
        result = run("attention", "--input", self.input, "--out", self.out, "--backward")
        self.assertEqual(result.returncode, 0, result.stderr)
        found = read_tensors(self.out)
        self.assertEqual(found["o"][1:], ([1, 1, 0, 2], ()))
        self.assertEqual(found["lse"][1:], ([1, 1, 0], ()))
        self.assertEqual(found["dk"][2], (0.0,) * 4)
        self.assertEqual(found["dv"][2], (0.0,) * 4)

    def test_kernel_is_told_unless_quiet(self):
        case = case_named("causal_gqa")
        result = self.run_case(case, "--device", "serial", "--method", "flash")
        self.assertRegex(result.stderr, r"\Aattention forward: flash on serial \(asked for\)\n\Z")
        self.assertEqual(self.run_case(case, "--quiet").stderr, "")
        result = self.run_case(case, "--json", "--quiet")
        self.assertEqual(result.stderr, "")
        self.assertEqual(json.loads(result.stdout)["forward"]["device"], "cpu")

    def test_same_call_same_bytes(self):
        results = []
        for threads in (1, 2, 2):
            self.assertEqual(self.run_case(case_named("causal_d128"), "--backward", "--threads",
                                           threads).returncode, 0)
            with open(self.out, "rb") as file:
                results.append(file.read())
        self.assertEqual(results[0], results[1])
        self.assertEqual(results[1], results[2])

    def test_several_ranks_are_refused(self):
        result = run_ranks(2, "attention", "--input", path_of(CASES[0]), "--out", self.out)
        self.assertEqual(result.returncode, 2, result.stderr)
        self.assertIn("2 ranks", result.stderr)
        self.assertFalse(os.path.exists(self.out))


def good_tensors():
    return {"q": ("F32", [1, 4, 3, 2], [0.5] * 24), "k": ("F32", [1, 2, 5, 2], [0.5] * 20),
            "v": ("F32", [1, 2, 5, 2], [0.5] * 20), "do": ("F32", [1, 4, 3, 2], [0.5] * 24)}


def good_packed_tensors():
    return {"q": ("F32", [3, 4, 2], [0.5] * 24), "k": ("F32", [5, 2, 2], [0.5] * 20),
            "v": ("F32", [5, 2, 2], [0.5] * 20), "cu_seqlens_q": ("I32", [3], [0, 1, 3]),
            "cu_seqlens_k": ("I32", [3], [0, 2, 5])}


class Refusals(AttentionTest):
    def assert_input_refused(self, tensors, words, *options):
        write_tensors(self.input, {name: tensor for name, tensor in tensors.items() if tensor})
        result = run("attention", "--input", self.input, "--out", self.out, *options)
        self.assert_refused(result, self.input, *words)
        self.assertEqual(os.listdir(self.folder.name), ["in.safetensors"], "no file is left")

    def assert_usage_refused(self, words, *options):
        write_tensors(self.input, good_tensors())
        self.assert_refused(run("attention", "--input", self.input, "--out", self.out, *options),
                            *words)
        self.assertEqual(os.listdir(self.folder.name), ["in.safetensors"], "no file is left")

    def test_good_tensors_are_taken(self):
        for tensors, options in ((good_tensors(), ["--backward"]),
                                 (good_packed_tensors(), ["--layout", "packed"])):
            write_tensors(self.input, tensors)
            result = run("attention", "--input", self.input, "--out", self.out, *options)
            self.assertEqual(result.returncode, 0, result.stderr)

    def test_tensors_that_do_not_fit(self):
        for change, words, options in (
                ({"q": None}, ["'q'"], []),
                ({"k": None}, ["'k'"], []),
                ({"v": None}, ["'v'"], []),
                ({"do": None}, ["'do'"], ["--backward"]),
                ({"q": ("F32", [4, 3, 2], [0.5] * 24)}, ["'q'", "[4, 3, 2]", "head_dim]"], []),
                ({"k": ("F32", [1, 2, 10], [0.5] * 20)}, ["'k'", "[1, 2, 10]"], []),
                ({"k": ("F32", [1, 2, 2, 5], [0.5] * 20)}, ["'k'", "[1, 2, 2, 2]"], []),
                ({"k": ("F32", [1, 3, 5, 2], [0.5] * 30)}, ["'k'", "4 query heads", "3"], []),
                ({"k": ("F32", [1, 0, 5, 2], [])}, ["'k'", "4 query heads", "0"], []),
                ({"k": ("F32", [2, 2, 5, 2], [0.5] * 40)}, ["'k'", "[1, 2, 5, 2]"], []),
                ({"v": ("F32", [1, 2, 4, 2], [0.5] * 16)}, ["'v'", "[1, 2, 5, 2]"], []),
                ({"do": ("F32", [1, 4, 2, 2], [0.5] * 16)}, ["'do'", "[1, 4, 3, 2]"], ["--backward"]),
                ({"q": ("I32", [1, 4, 3, 2], [1] * 24)}, ["'q'", "I32"], []),
                ({"v": ("F64", [1, 2, 5, 2], [0.5] * 20)}, ["'v'", "F64"], []),
                ({"k": ("F16", [1, 2, 5, 2], [0.5] * 20)}, ["'k'", "F16", "--dtype"], []),
                ({"do": ("F16", [1, 4, 3, 2], [0.5] * 24)}, ["'do'", "F16"], ["--backward"]),
                ({"q": ("F32", [1, 4, 1, 257], [0.5] * 1028)}, ["'q'", "257"], []),
                ({"q": ("F32", [1, 4, 3, 0], [])}, ["'q'", "head_dim", "0"], []),
                ({"cu_seqlens_q": ("I32", [2], [0, 3])}, ["'cu_seqlens_q'", "packed"], []),
                ({}, ["'q'", "[tokens, heads, head_dim]"], ["--layout", "packed"])):
            with self.subTest(change=change, options=options):
                self.assert_input_refused(good_tensors() | change, words, *options)

    def test_offsets_that_do_not_fit(self):
        for name, tensor, words in (
                ("cu_seqlens_q", None, ["not"]),
                ("cu_seqlens_k", None, ["not"]),
                ("cu_seqlens_q", ("I32", [3], [0, 4, 3]), ["descend", "3 after 4"]),
                ("cu_seqlens_q", ("I32", [3], [1, 2, 3]), ["start with 0", "1"]),
                ("cu_seqlens_q", ("I32", [3], [0, 1, 2]), ["3 tokens", "2"]),
                ("cu_seqlens_k", ("I32", [3], [0, 1, 6]), ["5 tokens", "6"]),
                ("cu_seqlens_k", ("I32", [4], [0, 1, 2, 5]), ["2 sequences", "3"]),
                ("cu_seqlens_k", ("I32", [1], [0]), ["[1]"]),
                ("cu_seqlens_k", ("I32", [1, 3], [0, 2, 5]), ["[1, 3]"]),
                ("cu_seqlens_k", ("F32", [3], [0, 2, 5]), ["F32"])):
            with self.subTest(name=name, tensor=tensor):
                words = [f"'{name}'"] + [word for word in words if word != "not"]
                self.assert_input_refused(good_packed_tensors() | {name: tensor}, words, "--layout",
                                          "packed")

    def test_block_maps_that_do_not_fit(self):
        good = ("U8", [4, 2, 3], [1] * 24)
        for tensor, words, options in (
                (None, ["block_map"], ["--block", "2,2"]),
                (None, ["block_map"], ["--method", "block-sparse", "--block", "2,2"]),
                (good, ["--block"], []),
                (good, ["--block"], ["--method", "block-sparse"]),
                (good, ["[4, 3, 5]"], ["--block", "1,1"]),
                (("U8", [2, 2, 3], [1] * 12), ["[4, 2, 3]"], ["--block", "2,2"]),
                (("I32", [4, 2, 3], [1] * 24), ["U8", "I32"], ["--block", "2,2"])):
            with self.subTest(tensor=tensor, options=options):
                self.assert_input_refused(good_tensors() | {"block_map": tensor}, words, *options)

    def test_options_that_mean_nothing(self):
        for words, options in (
                (["'fast'", "memory-efficient"], ["--method", "fast"]),
                (["'sbhd'", "bhsd, packed"], ["--layout", "sbhd"]),
                (["'f64'"], ["--dtype", "f64"]),
                (["--window", "'0'"], ["--window", "0"]),
                (["--window"], ["--method", "window"]),
                (["--block", "'16'"], ["--block", "16"]),
                (["--block", "'0'"], ["--block", "0,16"]),
                (["--block", "'x'"], ["--block", "16,x"]),
                (["--scale", "'nan'"], ["--scale", "nan"]),
                (["--scale", "'0'"], ["--scale", "0"]),
                (["--scale", "'1x'"], ["--scale", "1x"]),
                (["'tpu'"], ["--device", "tpu"])):
            with self.subTest(options=options):
                self.assert_usage_refused(words, *options)

    def test_files_that_are_not_there_or_broken(self):
        self.assert_refused(run("attention", "--out", self.out), "--input")
        self.assert_refused(run("attention", "--input", self.input), "--out")
        self.assert_refused(run("attention", "--input", self.input, "--out", self.out), self.input)
        for case in sorted((DATA / "bad" / "safetensors").glob("*.safetensors"))[:20]:
            with self.subTest(file=case.name):
                self.assert_refused(run("attention", "--input", case, "--out", self.out), str(case))
        write_tensors(self.input, good_tensors())
        nowhere = os.path.join(self.folder.name, "none", "out.safetensors")
        result = run("attention", "--input", self.input, "--out", nowhere)
        self.assert_refused(result, nowhere)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
