# SPDX-License-Identifier: Apache-2.0
"""scripts/gpu_check where it has nothing to run on."""
import os
import pathlib
import stat
import subprocess
import tempfile
import unittest

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "scripts" / "gpu_check"


class GpuCheck(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def command(self, name, text):
        path = self.folder / name
        path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return str(path)

    def run_script(self, *arguments, **variables):
        environment = {**os.environ, "PATH": f"{self.folder}:{os.environ['PATH']}", **variables}
        return subprocess.run([SCRIPT, "--out", self.folder / "out", *arguments], text=True,
                              capture_output=True, timeout=60, env=environment, check=False)

    def assert_refused(self, result, words):
        self.assertEqual((result.returncode, result.stdout), (2, ""), result.stderr)
        self.assertRegex(result.stderr, rf"\Agpu_check: [^\n]*{words}[^\n]*\n\Z")
        self.assertFalse((self.folder / "out").exists())

    def test_without_a_compiler(self):
        self.command("nvidia-smi", "echo 9.0")
        self.assert_refused(self.run_script(NVCC="/nonexistent/nvcc"), "nvcc was not found")

    def test_without_a_gpu(self):
        nvcc = self.command("nvcc", "exit 1")
        self.command("nvidia-smi", "echo 'No devices were found'; exit 6")
        self.assert_refused(self.run_script(NVCC=nvcc), "no GPU was found")

    def test_on_a_gpu_that_is_too_old(self):
        nvcc = self.command("nvcc", "exit 1")
        self.command("nvidia-smi", "echo 7.5")
        self.assert_refused(self.run_script(NVCC=nvcc), r"need compute capability 8\.0.* 7\.5")

    def test_bad_usage(self):
        self.assert_refused(self.run_script("--fast"), "unknown option --fast")
        self.assert_refused(self.run_script("--jobs", "many"), "many")
        self.assert_refused(self.run_script("--jobs"), "--jobs needs a value")

    def test_help(self):
        result = self.run_script("--help")
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        self.assertIn("Exit codes", result.stdout)


if __name__ == "__main__":
    unittest.main()
