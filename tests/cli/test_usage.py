# SPDX-License-Identifier: Apache-2.0
"""Help, version, and what every command does with bad usage."""
import json
import os
import re
import sys
import tempfile
import unittest

from command import DATA, CommandTest, run, run_ranks

COMMANDS = ("compare", "report", "info", "inspect", "convert", "plan", "logits", "generate", "inference",
            "fill-mask", "eval", "train", "tokenize", "attention", "bench")
BENCHES = ("attention", "ring", "collectives", "decode", "latency", "matmul")


class Usage(CommandTest):
    def test_help_lists_all_commands_and_hides_the_worker(self):
        result = run("--help")
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        commands = result.stdout.split("Subcommands:\n")[1].split("\n\n")[0]
        self.assertEqual(re.findall(r"(?m)^  (\S+) ", commands), list(COMMANDS))

    def test_help_of_every_command_has_examples(self):
        for words in [[command] for command in COMMANDS] + [["bench", name] for name in BENCHES]:
            with self.subTest(command=words):
                result = run(*words, "--help")
                self.assertEqual((result.returncode, result.stderr), (0, ""))
                self.assertIn("Examples:", result.stdout)
                self.assertIn(f"Usage: portolan {' '.join(words)} [", result.stdout)
                self.assertNotIn("{false}", result.stdout)

    def test_version_is_one_line(self):
        result = run("--version")
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        self.assertRegex(result.stdout, r"\Aportolan \d+\.\d+\.\d+ \([0-9a-z-]+\)\n\Z")

    def test_bad_usage_is_one_line_that_points_to_help(self):
        for arguments, words in (
                ((), ("subcommand", "portolan --help")),
                (("--frobnicate",), ("--frobnicate", "portolan --help")),
                (("compare", "--frobnicate"), ("--frobnicate", "portolan compare --help")),
                (("compare", "surplus"), ("surplus",)),
                (("compare", "--layers"), ("--layers",)),
                (("report",), ("FILES",)),
                (("report", "a.json"), ("--out",)),
                (("inspect",), ("PATH",)),
                (("bench",), ("subcommand", "portolan bench --help")),
                (("bench", "--json"), ("'--json'", "portolan bench --help")),
                (("bench", "speed"), ("'speed'", *BENCHES, "portolan bench --help")),
                (("bench", "decode", "--frobnicate"), ("portolan bench decode --help",)),
                (("compare-worker",), ("--spec",))):
            with self.subTest(arguments=arguments):
                self.assert_refused(run(*arguments), *words)

    def test_unknown_command_lists_the_known_ones(self):
        self.assert_refused(run("train-me"), "'train-me'", *COMMANDS)
        self.assertNotIn("compare-worker", run("train-me").stderr)

    def test_unknown_values_list_the_valid_ones(self):
        self.assert_refused(run("info", "--device", "tpu"), "'tpu'", "cpu, cuda, serial")
        self.assert_refused(run("plan", "--preset", "tiny", "--dtype", "f8"), "'f8'",
                            "f32, bf16, f16")
        self.assert_refused(run("logits", "--model", "x", "--out", "y", "--parallel", "dp"), "'dp'",
                            "none, tp, sp, ring")
        self.assert_refused(run("info", "--threads", "0"), "--threads", "'0'")
        self.assert_refused(run("info", "--seed", "-1"), "--seed", "'-1'")

    def test_what_would_have_no_effect_is_refused(self):
        model = DATA / "models" / "llama-tiny-gqa"
        for arguments, words in (
                (("info", "--device", "serial", "--threads", "2"), ("--threads 2", "serial")),
                (("info", "--device", "serial", "--attention-tiles", "x"),
                 ("--attention-tiles", "serial")),
                (("info", "--device", "cuda", "--attention-tiles", "x"),
                 ("--attention-tiles", "cuda")),
                (("bench", "attention", "--device", "serial", "--attention-tiles", "x"),
                 ("--attention-tiles", "serial")),
                (("compare", "--device", "serial", "--attention-tiles", "x"),
                 ("--attention-tiles", "serial")),
                (("plan", "--preset", "tiny", "--cp", "2", "--sequence-parallel"),
                 ("--sequence-parallel", "--tp")),
                (("inspect", model, "--cp", "2", "--sequence-parallel"),
                 ("--sequence-parallel", "--tp"))):
            with self.subTest(arguments=arguments):
                self.assert_refused(run(*arguments), *words)

    def test_unknown_log_level_lists_the_valid_ones(self):
        self.assert_refused(run("info", PORTOLAN_LOG="loud"), "PORTOLAN_LOG", "'loud'", "trace")

    def test_control_characters_do_not_reach_the_terminal(self):
        self.assert_refused(run("inspect", "/no\nsuch\x1b[31mfile"), "x1b")

    def test_one_rank_speaks_for_all_under_a_launcher(self):
        for arguments in (("--help",), ("--version",), ("compare", "--frobnicate")):
            first = run(*arguments, OMPI_COMM_WORLD_RANK="0", OMPI_COMM_WORLD_SIZE="2")
            second = run(*arguments, OMPI_COMM_WORLD_RANK="1", OMPI_COMM_WORLD_SIZE="2")
            self.assertNotEqual(first.stdout + first.stderr, "")
            self.assertEqual(second.stdout + second.stderr, "")
            self.assertEqual(first.returncode, second.returncode)

    def test_what_all_ranks_find_wrong_is_one_line(self):
        model = DATA / "models" / "llama-tiny-gqa"
        ids = ("--model", model, "--ids", "1,2")
        for arguments, word in ((("generate", *ids), "3 ranks"),
                                (("generate", *ids, "--tp", "2"), "--tp 2"),
                                (("logits", *ids, "--parallel", "ring", "--out", "/no/such/file"),
                                 "/no/such/file"),
                                (("logits", *ids, "--parallel", "ring", "--out", "/dev/full"),
                                 "/dev/full")):
            with self.subTest(arguments=arguments):
                result = run_ranks(3, *arguments)
                self.assertEqual(result.returncode, 2, result.stderr)
                errors = re.findall(r"(?m)^portolan: error: .*$", result.stderr)
                self.assertEqual(len(errors), 1, result.stderr)
                self.assertIn(word, errors[0])

    def test_one_rank_prints_for_all_where_none_is_needed(self):
        model = DATA / "models" / "llama-tiny-gqa"
        ranks = {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2"}
        for arguments in (("plan", "--preset", "tiny"), ("inspect", model),
                          ("inspect", model, "--json")):
            with self.subTest(arguments=arguments):
                self.assertNotEqual(run(*arguments, **ranks).stdout, "")
                other = run(*arguments, **ranks | {"OMPI_COMM_WORLD_RANK": "1"})
                self.assertEqual((other.returncode, other.stdout, other.stderr), (0, "", ""))


class Info(CommandTest):
    def test_json_is_one_document_with_what_there_is(self):
        result = run("info", "--json")
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        info = json.loads(result.stdout)
        self.assertIn("serial", info["devices"])
        self.assertGreaterEqual(info["machine"]["usable_cores"], 1)
        self.assertGreater(info["machine"]["memory_bytes"], 0)
        self.assertEqual(info["runtime"]["ranks"], 1)
        self.assertRegex(info["runtime"]["kokkos"], r"^\d+\.\d+")

    def test_text_says_the_same_to_people(self):
        result = run("info", "--device", "serial")
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        self.assertRegex(result.stdout, r"(?m)^  cpu model +\S")
        self.assertRegex(result.stdout, r"(?m)^  kokkos +\d")
        self.assertRegex(result.stdout, r"(?m)^  memory +\d+\.\d\d GB$")
        self.assertRegex(result.stdout, r"(?m)^    numa domains +package \d+, nodes \d+, cores \d+")
        self.assertNotIn("{", result.stdout)

    def test_peaks_are_measured_on_request(self):
        self.assertNotIn("peaks", json.loads(run("info", "--json").stdout))
        result = run("info", "--peaks", "--json", "--threads", "1")
        self.assertEqual(result.returncode, 0, result.stderr)
        peaks = json.loads(result.stdout)["peaks"]
        self.assertEqual(list(peaks["matrix_product_flop_per_s"]), ["f32", "bf16", "f16"])
        for figure in (*peaks["matrix_product_flop_per_s"].values(), peaks["read_bytes_per_s"]):
            self.assertGreater(figure["min"], 1e6)
            self.assertLessEqual(figure["min"], figure["median"])
            self.assertLessEqual(figure["median"], figure["max"])
        text = run("info", "--peaks", "--threads", "1").stdout
        self.assertRegex(text, r"(?m)^  matrix product f32 +\S+ GFLOP/s \(\d\) \[\S+, \S+\]$")
        self.assertRegex(text, r"(?m)^  reading memory +\S+ GB/s \(\d\) \[\S+, \S+\]$")

    def test_under_mpirun_one_rank_prints_for_all(self):
        result = run_ranks(2, "info", "--json")
        self.assertEqual(result.returncode, 0, result.stderr)
        info = json.loads(result.stdout)
        self.assertEqual(info["runtime"]["ranks"], 2)
        self.assertEqual(len(info["runtime"]["binding"]), 2)


class Plan(CommandTest):
    def plan(self, *arguments):
        result = run("plan", "--json", *arguments)
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        return json.loads(result.stdout)

    def test_a_mesh_may_be_given_as_one_axis_of_so_many_ranks(self):
        for mode, mesh in (("tp", ["--tp", "2"]), ("sp", ["--tp", "2", "--sequence-parallel"]),
                           ("ring", ["--cp", "2"])):
            self.assertEqual(self.plan("--preset", "tiny", "--parallel", mode, "--ranks", "2"),
                             self.plan("--preset", "tiny", *mesh))

    def test_products_are_counted_for_each_rank(self):
        config = {"hidden": 4096, "wide": 11008, "layers": 32, "vocabulary": 32000}
        weights = (config["layers"] * (4 * config["hidden"] ** 2 + 3 * config["hidden"] * config["wide"])
                   + config["vocabulary"] * config["hidden"])
        plan = self.plan("--preset", "llama-7b", "--tp", "2", "--seq-len", "16")
        self.assertEqual(plan["product_flops"], [2 * 16 * weights / 2] * 2)

    def test_both_layouts_of_folders_are_read(self):
        meta = self.plan("--model", DATA / "meta" / "hidden2", "--tp", "2")
        shapes = {entry["name"]: entry["shape"] for entry in meta["parameters"]}
        self.assertEqual(shapes["model.embed_tokens.weight"][0], 816)
        own = self.plan("--model", DATA / "models" / "llama-tiny-mha-bf16", "--tp", "2")
        self.assertEqual(shapes, {entry["name"]: entry["shape"] for entry in own["parameters"]})

    def test_refusals(self):
        for arguments, words in (
                ((), ("--model", "--preset")),
                (("--preset", "tiny", "--parallel", "tp"), ("--parallel tp", "--ranks")),
                (("--preset", "tiny", "--ranks", "2"), ("--parallel",)),
                (("--preset", "tiny", "--batch", "0"), ("--batch 0",)),
                (("--preset", "tiny", "--batch", "4000000000", "--seq-len", "4000000000"),
                 ("--batch 4000000000", "--seq-len 4000000000"))):
            with self.subTest(arguments=arguments):
                self.assert_refused(run("plan", *arguments), *words)


class Inspect(CommandTest):
    def test_sound_model_is_described(self):
        result = run("inspect", DATA / "models" / "llama-tiny-gqa", "--json")
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        self.assertEqual(json.loads(result.stdout)["kind"], "model")
        text = run("inspect", DATA / "models" / "llama-tiny-gqa")
        self.assertEqual((text.returncode, text.stderr), (0, ""))
        self.assertIn("llama", text.stdout)

    def test_memory_of_a_mesh_is_told_when_asked_for(self):
        model = DATA / "models" / "llama-tiny-gqa"
        whole = json.loads(run("inspect", model, "--tp", "1", "--json").stdout)
        self.assertEqual(whole["memory"]["weight_bytes_per_rank"], [4 * whole["parameters"]])
        shared = json.loads(run("inspect", model, "--tp", "2", "--dtype", "bf16", "--json").stdout)
        self.assertEqual(len(shared["memory"]["weight_bytes_per_rank"]), 2)
        self.assertLess(max(shared["memory"]["weight_bytes_per_rank"]), 2 * whole["parameters"])
        self.assertNotIn("memory", json.loads(run("inspect", model, "--json").stdout))

    def test_a_mesh_may_be_given_as_one_axis_of_so_many_ranks(self):
        model = DATA / "models" / "llama-tiny-gqa"

        def memory(*arguments):
            return json.loads(run("inspect", model, "--json", *arguments).stdout)["memory"]

        tensor = memory("--parallel", "tp", "--ranks", "2")
        self.assertEqual(tensor, memory("--tp", "2"))
        self.assertEqual((tensor["mesh"], tensor["ranks"], tensor["sequence_parallel"]),
                         ("tensor 2", 2, False))
        self.assertTrue(memory("--parallel", "sp", "--ranks", "2")["sequence_parallel"])
        ring = memory("--parallel", "ring", "--ranks", "3")
        self.assertEqual(ring["weight_bytes_per_rank"],
                         3 * memory("--parallel", "none")["weight_bytes_per_rank"])

    def test_activations_are_told_for_a_forward_of_a_given_size(self):
        model = DATA / "models" / "llama-tiny-gqa"

        def activations(*arguments):
            memory = json.loads(run("inspect", model, "--json", *arguments).stdout)["memory"]
            return memory["activation_bytes_per_rank"]

        config = json.loads((model / "config.json").read_text(encoding="utf-8"))
        one = activations("--seq-len", "32")
        # The largest moment of this model: the residual stream, its norm, and logits or MLP.
        widest = max(config["vocab_size"], 3 * config["intermediate_size"])
        self.assertEqual(one, [4 * 32 * (2 * config["hidden_size"] + widest)])
        self.assertEqual(activations("--seq-len", "32", "--batch", "3"), [3 * one[0]])
        ring = activations("--seq-len", "32", "--parallel", "ring", "--ranks", "2")
        self.assertEqual(len(ring), 2)
        self.assertLess(max(ring), one[0])

    def test_memory_is_a_table_for_people(self):
        model = DATA / "models" / "llama-tiny-gqa"
        text = run("inspect", model, "--parallel", "sp", "--ranks", "2", "--dtype", "bf16",
                   "--seq-len", "32").stdout
        self.assertRegex(text, r"(?m)^memory per rank in bf16, tensor 2, sequence parallel, GB, for "
                               r"a forward of 1 x 32 tokens$")
        rows = re.findall(r"(?m)^  (\d+) +([\d.]+) +([\d.]+) +([\d.]+)$", text)
        self.assertEqual([row[0] for row in rows], ["0", "1"])
        for row in rows:
            self.assertAlmostEqual(float(row[1]) + float(row[2]), float(row[3]), delta=2e-6)

    def test_meshes_that_cannot_be_are_refused(self):
        model = DATA / "models" / "llama-tiny-gqa"
        self.assert_refused(run("inspect", model, "--tp", "5"), "5", "heads")
        self.assert_refused(run("inspect", model, "--parallel", "tp"), "--parallel tp", "--ranks")
        self.assert_refused(run("inspect", model, "--ranks", "2"), "--parallel")
        self.assert_refused(run("inspect", model, "--tp", "2", "--ranks", "2"), "--ranks")
        self.assert_refused(run("inspect", model, "--tp", "1048576", "--cp", "1048576"), "ranks")
        self.assert_refused(run("inspect", model, "--batch", "2"), "--seq-len")
        self.assert_refused(run("inspect", model, "--seq-len", "0"), "--seq-len 0")
        self.assert_refused(run("inspect", DATA / "bad" / "controls" / "minimal.safetensors", "--tp",
                                "2"), "minimal.safetensors")

    def test_memory_of_every_architecture_is_shared_out(self):
        for name in ("roberta-tiny", "gpt-bigcode-tiny"):
            model = DATA / "models" / name
            whole = json.loads(run("inspect", model, "--json").stdout)["bytes"]
            shared = json.loads(run("inspect", model, "--tp", "2", "--json").stdout)["memory"]
            ranks = shared["weight_bytes_per_rank"]
            self.assertEqual(len(ranks), 2)
            # Matrices are dealt, norms, biases and positions are on both.
            self.assertGreaterEqual(sum(ranks), whole)
            self.assertLess(max(ranks), 0.7 * whole)

    def test_every_bad_input_is_refused_in_one_line_that_starts_with_its_path(self):
        cases = json.loads((DATA / "bad" / "cases.json").read_text(encoding="utf-8"))
        cases = [case for case in cases["bad"] if case["kind"] != "tokenizer"]
        self.assertGreater(len(cases), 50)
        for case in cases:
            path = DATA / "bad" / case["path"]
            with self.subTest(path=case["path"]):
                result = run("inspect", path)
                self.assert_refused(result, str(path), case.get("error_should_name") or "")

    def test_every_control_is_sound(self):
        cases = json.loads((DATA / "bad" / "cases.json").read_text(encoding="utf-8"))
        controls = [case["path"] for case in cases["controls"]
                    if (DATA / "bad" / case["path"]).exists()]
        self.assertGreater(len(controls), 3)
        for path in controls:
            with self.subTest(path=path):
                result = run("inspect", DATA / "bad" / path)
                self.assertEqual((result.returncode, result.stderr), (0, ""))

    def test_missing_path_is_refused(self):
        with tempfile.TemporaryDirectory() as folder:
            self.assert_refused(run("inspect", os.path.join(folder, "none")), "none")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
