# SPDX-License-Identifier: Apache-2.0
"""`portolan tokenize` as a user calls it: every golden case through a pipe, and its refusals."""
import json
import subprocess
import unittest

from command import DATA, PORTOLAN, CommandTest, clean_environment, run

TOKENIZERS = DATA / "tokenizers"
NAMES = sorted(path.name for path in TOKENIZERS.iterdir() if path.is_dir())


def tokenize(lines, *arguments):
    """Runs the command on `lines`, which are values or, as bytes, taken as they are."""
    data = b"".join(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n"
                    for line in lines)
    return subprocess.run([PORTOLAN, "tokenize", *map(str, arguments)], input=data,
                          capture_output=True, timeout=600, env=clean_environment())


class Tokenize(CommandTest):
    def answers(self, lines, *arguments):
        result = tokenize(lines, *arguments)
        self.assertEqual((result.returncode, result.stderr), (0, b""))
        self.assertTrue(result.stdout.isascii(), "non-ASCII is escaped")
        self.assertEqual(result.stdout.count(b"\n"), len(lines))
        return [json.loads(line) for line in result.stdout.splitlines()]

    def test_every_golden_case(self):
        for name in NAMES:
            with self.subTest(tokenizer=name):
                golden = json.loads((TOKENIZERS / name / "tokenizer_cases.json").read_text("utf-8"))
                model = ("--model", TOKENIZERS / name)
                cases = golden["cases"]
                texts = [case["text"] for case in cases]
                ids = [case["ids"] for case in cases]
                special = [case["ids_special"] for case in cases]
                self.assertEqual(self.answers(texts, *model, "--no-special"), ids)
                self.assertEqual(self.answers(texts, *model), special)
                self.assertEqual(self.answers(ids, *model, "--decode"),
                                 [case["decoded"] for case in cases])
                self.assertEqual(self.answers(special, *model, "--decode", "--skip-special"),
                                 [case["decoded_skip"] for case in cases])
                any_ids = [case["ids"] for case in golden["decode_cases"]]
                self.assertEqual(self.answers(any_ids, *model, "--decode"),
                                 [case["decoded"] for case in golden["decode_cases"]])
                if golden["kind"] != "spm":
                    continue
                pieces = ("--tokenizer", TOKENIZERS / name / "tokenizer.model")
                spm_ids = [case["spm_ids"] for case in cases]
                self.assertEqual(self.answers(texts, *pieces, "--no-special"), spm_ids)
                self.assertEqual(self.answers(texts, *model, *pieces),
                                 [[1] + each for each in spm_ids])
                self.assertEqual(self.answers(spm_ids, *pieces, "--decode"),
                                 [case["spm_decoded"] for case in cases])

    def test_each_line_is_answered_before_the_next_one_comes(self):
        process = subprocess.Popen(
            [PORTOLAN, "tokenize", "--model", str(TOKENIZERS / "gpt2-bbpe"), "--json"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=clean_environment())
        with process:
            for text in ("one", "two\u00e4\U0001f642", ""):
                process.stdin.write(json.dumps(text).encode() + b"\n")
                process.stdin.flush()
                self.assertIsInstance(json.loads(process.stdout.readline()), list)
            process.stdin.write(b'"no end of line"')
            process.stdin.close()
            self.assertIsInstance(json.loads(process.stdout.readline()), list)
            self.assertEqual(process.stdout.read(), b"")
            self.assertEqual(process.wait(), 0)

    def test_a_bad_line_ends_it_with_its_number(self):
        model = ("--model", TOKENIZERS / "llama2-spm")
        for lines, arguments, words in (
                ([b'"a"\n', b"a\n", b'"b"\n'], (), ("line 2", "JSON")),
                ([b'"a"\n', b"\n"], (), ("line 2",)),
                ([b'"a"\n', b'"\xff"\n'], (), ("line 2", "UTF-8")),
                ([b'"a"\n', b'"\\ud800"\n'], (), ("line 2",)),
                ([b'"a"\n', b'"b" "c"\n'], (), ("line 2",)),
                ([b'"a"\n', b"[1]\n"], (), ("line 2", "expected a string")),
                ([b"[1]\n", b'"a"\n'], ("--decode",), ("line 2", "list of ids")),
                ([b"[1]\n", b"[1.5]\n"], ("--decode",), ("line 2", "1.5")),
                ([b"[1]\n", b"[-1]\n"], ("--decode",), ("line 2", "-1")),
                ([b"[1]\n", b"[800]\n"], ("--decode",), ("line 2", "800")),
                ([b"[1]\n", b"[18446744073709551615]\n"], ("--decode",), ("line 2",)),
                ([b"[1]\n", b'["1"]\n'], ("--decode",), ("line 2",)),
                ([b"[1]\n", b"[" * 100000 + b"\n"], ("--decode",), ("line 2",))):
            with self.subTest(lines=lines[-1][:40]):
                result = tokenize(lines, *model, *arguments)
                self.assertEqual(result.returncode, 2)
                self.assertEqual(result.stdout.count(b"\n"), 1, "what came before is answered")
                error = result.stderr.decode()
                self.assertRegex(error, r"\Aportolan: error: stdin: [^\n]+\n\Z")
                for word in words:
                    self.assertIn(word, error)

    def test_bad_usage(self):
        folder = TOKENIZERS / "gpt2-bbpe"
        self.assert_refused(run("tokenize"), "--model", "--tokenizer")
        self.assert_refused(run("tokenize", "--model", folder, "--skip-special"), "--decode")
        self.assert_refused(run("tokenize", "--model", folder, "--decode", "--no-special"),
                            "--no-special")
        self.assert_refused(run("tokenize", "--model", DATA / "absent"), "absent")
        self.assert_refused(run("tokenize", "--model", DATA / "bad"), "tokenizer.json")

    def test_every_malformed_tokenizer_is_one_error_that_names_the_file(self):
        cases = [case for case in json.loads((DATA / "bad" / "cases.json").read_text())["bad"]
                 if case["kind"] == "tokenizer"]
        self.assertGreater(len(cases), 30)
        for case in cases:
            path = DATA / "bad" / case["path"]
            with self.subTest(path=case["path"]):
                self.assert_refused(run("tokenize", "--tokenizer", path), str(path))
                self.assert_refused(run("inspect", path), str(path))


if __name__ == "__main__":
    unittest.main()
