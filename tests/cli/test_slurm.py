# SPDX-License-Identifier: Apache-2.0
"""scripts/slurm/submit: what SLURM is asked for, and real comparisons through its job scripts."""
import json
import os
import pathlib
import re
import subprocess
import tempfile
import unittest

from command import HERE, PORTOLAN, clean_environment, place_programs

SUBMIT = HERE.parent.parent / "scripts" / "slurm" / "submit"
BUILD = pathlib.Path(PORTOLAN).parent.parent
TINY = ("--preset", "tiny", "--layers", "1", "--seq-lens", "8", "--dtypes", "f32", "--threads", "2",
        "--oversubscribe")


class SlurmTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.base = pathlib.Path(folder.name)
        self.results = self.base / "results"
        self.requests = self.base / "requests"
        self.starts = self.base / "starts"

    def submit(self, *arguments, path=None, **variables):
        if path is None:
            path = place_programs(self.base, sbatch="fake_sbatch.py", srun="fake_srun.py")
        variables.setdefault("FAKE_SBATCH_LOG", str(self.requests))
        return subprocess.run(
            [SUBMIT, *map(str, arguments)], capture_output=True, text=True, timeout=600,
            cwd=self.base, env=clean_environment(PATH=path, FAKE_SRUN_LOG=str(self.starts),
                                                 **variables))

    def request(self, *arguments, **variables):
        """What sbatch is asked for by these arguments; the job itself is not run."""
        result = self.submit("--build", BUILD, *arguments, FAKE_SBATCH_ONLY="1", **variables)
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        return json.loads(self.requests.read_text(encoding="utf-8"))

    def assert_refused(self, result, *words):
        self.assertEqual((result.returncode, result.stdout), (2, ""), result.stderr)
        self.assertRegex(result.stderr, r"\A(submit|portolan): [^\n]+\n\Z")
        for word in words:
            self.assertIn(word, result.stderr)
        self.assertFalse(self.requests.exists(), "nothing was submitted")
        self.assertFalse(self.results.exists())


class Submission(SlurmTest):
    def test_gpu_job_asks_for_the_published_resources(self):
        request = self.request("gpu", "--results", self.results)
        options = request["options"]
        for name, value in {"job-name": "portolan-gpu", "nodes": "1", "ntasks": "2", "gres": "gpu:2",
                            "cpus-per-task": "24", "mem": "192G", "time": "00:20:00",
                            "signal": "B:TERM@60", "chdir": str(SUBMIT.parent.parent.parent)}.items():
            self.assertEqual(options.get(name), value, name)
        self.assertNotIn("account", options)
        self.assertRegex(options["output"],
                         rf"\A{re.escape(str(self.results))}/%x_%j_\d{{8}}-\d{{6}}\.out\Z")

    def test_cpu_job_asks_for_one_rank_per_socket_of_a_whole_node(self):
        options = self.request("cpu")["options"]
        for name, value in {"job-name": "portolan-cpu", "nodes": "1", "ntasks": "2",
                            "ntasks-per-socket": "1", "cpus-per-task": "40", "threads-per-core": "1",
                            "exclusive": "", "mem": "0"}.items():
            self.assertEqual(options.get(name), value, name)
        self.assertNotIn("gres", options)

    def test_options_and_site_file_replace_what_the_script_asks_for(self):
        site = self.base / "site"
        site.write_text("# a cluster\n\naccount=hpml\npartition=gpu\nmodule=cuda/13.0\nmpi=pmi2\n"
                        "time=1:00:00", encoding="utf-8")
        request = self.request("gpu", "--partition", "short", "--site", site, "--gres=gpu:l40:4",
                               "--ntasks", 4, "--module", "openmpi/4.1", "--", "--quick")
        options = request["options"]
        self.assertEqual([options[name] for name in ("account", "partition", "time", "gres", "ntasks",
                                                     "mem")],
                         ["hpml", "short", "1:00:00", "gpu:l40:4", "4", "192G"])
        self.assertEqual(request["variables"]["PORTOLAN_MODULES"], "cuda/13.0 openmpi/4.1")
        self.assertEqual(request["variables"]["PORTOLAN_MPI"], "pmi2")
        self.assertEqual(request["arguments"], ["--quick"])

    def test_arguments_reach_compare_as_they_are(self):
        words = ["--seq-lens", "256,512", "--plan", "a b", "--x=*"]
        self.assertEqual(self.request("cpu", "--", *words)["arguments"], words)

    def test_it_says_where_log_and_results_will_be(self):
        result = self.submit("cpu", "--build", BUILD, "--results", self.results, FAKE_SBATCH_ONLY="1")
        name = rf"{re.escape(str(self.results))}/portolan-cpu_4711_\d{{8}}-\d{{6}}"
        self.assertRegex(result.stdout, rf"\Ajob 4711\nlog {name}\.out\nresults {name}\n\Z")
        self.assertTrue(self.results.is_dir(), "SLURM makes no folder for a log")

    def test_dry_run_prints_command_and_script_and_does_nothing(self):
        result = self.submit("gpu", "--dry-run", "--account", "hpml", "--results", self.results, "--",
                             "--quick")
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        command, script = result.stdout.split("\n\n", 1)
        self.assertIn(" sbatch ", command)
        self.assertIn("--account=hpml", command)
        self.assertTrue(command.rstrip().endswith("scripts/slurm/gpu --quick"), command)
        self.assertEqual(script, (SUBMIT.parent / "gpu").read_text(encoding="utf-8"))
        self.assertFalse(self.requests.exists())
        self.assertFalse(self.results.exists())

    def test_refused_job_is_told_and_leaves_nothing(self):
        result = self.submit("cpu", "--build", BUILD, "--results", self.results,
                             FAKE_SBATCH_REFUSE="Invalid account")
        self.assertEqual((result.returncode, result.stdout), (1, ""))
        self.assertIn("Invalid account", result.stderr)
        self.assertIn("submit: sbatch refused the job", result.stderr)
        self.assertFalse(self.results.exists())

    def test_bad_usage_is_one_line_and_submits_nothing(self):
        site = self.base / "site"
        for arguments, words in (
                ((), ("cpu or gpu",)),
                (("tpu",), ("tpu",)),
                (("cpu", "gpu"), ("gpu", "cpu already")),
                (("cpu", "--frobnicate", "x"), ("--frobnicate", "unknown")),
                (("cpu", "--frobnicate"), ("--frobnicate", "unknown")),
                (("cpu", "--account"), ("--account", "value")),
                (("cpu", "--account", "--partition"), ("--account", "--partition")),
                (("cpu", "--account", "a b"), ("--account", "one word")),
                (("cpu", "--time", "soon"), ("--time", "soon")),
                (("cpu", "--mem", "12Q"), ("--mem", "12Q")),
                (("cpu", "--ntasks", "0"), ("--ntasks", "'0'")),
                (("cpu", "--mpi", "openmpi"), ("--mpi", "pmix")),
                (("cpu", "--mpi", "pmixx"), ("--mpi", "'pmixx'")),
                (("cpu", "--launcher", "bash"), ("--launcher", "srun")),
                (("cpu", "--launcher", "srun2"), ("--launcher", "srun2")),
                (("cpu", "--module", "a b"), ("--module",)),
                (("cpu", "--site", "/nowhere"), ("--site", "/nowhere")),
                (("cpu", "--site", site), (f"{site}:2", "colour")),
                (("cpu", "--build", self.base), (str(self.base), "not built", "scripts/setup")),
                (("gpu", "--build", self.base), ("--preset cuda",)),
                (("cpu", "--", "--out", "x"), ("--out", "--results")),
                (("cpu", "--", "--launcher=srun"), ("--launcher",)),
                (("gpu", "--", "--device", "cpu"), ("--device", "gpu"))):
            with self.subTest(arguments=arguments):
                site.write_text("account=a\ncolour=red\n", encoding="utf-8")
                build = () if "--build" in arguments else ("--build", BUILD)
                self.assert_refused(self.submit(*build, "--results", self.results, *arguments), *words)

    def test_without_sbatch_it_says_how_to_go_on(self):
        tools = self.base / "tools"
        tools.mkdir()
        for name in ("bash", "env", "dirname", "date", "realpath", "mkdir"):
            found = subprocess.run(["which", name], capture_output=True, text=True, check=True)
            (tools / name).symlink_to(found.stdout.strip())
        self.assert_refused(self.submit("cpu", "--build", BUILD, "--results", self.results,
                                        path=str(tools)), "sbatch", "--local")


class Runs(SlurmTest):
    def only_run(self, job):
        """The one log and the one folder of results."""
        names = sorted(os.listdir(self.results))
        self.assertEqual(len(names), 2, names)
        self.assertRegex(names[0], rf"\Aportolan-cpu_{job}_\d{{8}}-\d{{6}}\Z")
        self.assertEqual(names[1], names[0] + ".out")
        comparison = json.loads((self.results / names[0] / "compare.json").read_text("utf-8"))
        return (self.results / names[1]).read_text("utf-8"), comparison

    def test_local_run_compares_here(self):
        result = self.submit("cpu", "--local", "--build", BUILD, "--results", self.results, "--mem",
                             "1G", "--", *TINY, OMP_PLACES="{0}", OMP_NUM_THREADS="7")
        self.assertEqual(result.returncode, 0, result.stderr)
        log, comparison = self.only_run("local")
        self.assertEqual({row["mode"] for row in comparison["rows"]}, {"none", "tp", "sp", "ring"})
        self.assertTrue(all(row["proven"] for row in comparison["rows"]))
        self.assertFalse(self.requests.exists())
        self.assertFalse(self.starts.exists())
        self.assertIn("wrote ", result.stdout)
        for line in (result.stdout + result.stderr).splitlines():
            self.assertIn(line, log)
        variables = comparison["environment"]["variables"]
        self.assertNotIn("OMP_PLACES", variables)
        self.assertEqual(variables["OMP_PROC_BIND"], "false")

    def test_local_run_passes_on_how_the_comparison_ended(self):
        result = self.submit("cpu", "--local", "--build", BUILD, "--results", self.results, "--",
                             "--modes", "nothing")
        self.assertEqual(result.returncode, 2)
        self.assertIn("portolan: error: --modes", result.stderr)
        self.assertFalse(self.results.exists(), "nothing is left of what did not start")

    def test_job_starts_its_ranks_by_srun(self):
        modules = self.base / "modules" / "init"
        modules.mkdir(parents=True)
        loaded = self.base / "loaded"
        (modules / "bash").write_text(f'module() {{ echo "$@" $UNSET >>{loaded}; }}\n', "utf-8")
        result = self.submit("cpu", "--build", BUILD, "--results", self.results, "--mpi", "pmix",
                             "--module", "openmpi", "--module", "gcc/12", "--", *TINY,
                             MODULESHOME=str(modules.parent), LMOD_PKG="", OMP_PLACES="{0}")
        self.assertEqual(result.returncode, 0, result.stderr)
        log, comparison = self.only_run("4711")
        self.assertIn("node1: portolan compare --launcher srun", log)
        self.assertIn("wrote ", log)
        self.assertEqual({(row["mode"], row["ranks"]) for row in comparison["rows"]},
                         {("none", 1), ("tp", 2), ("sp", 2), ("ring", 2)})
        self.assertTrue(all(row["proven"] for row in comparison["rows"]))
        self.assertEqual(comparison["environment"]["launcher"], "slurm 22.05.8")
        self.assertEqual(comparison["environment"]["variables"]["SLURM_MPI_TYPE"], "pmix")
        self.assertEqual(loaded.read_text("utf-8"), "load openmpi\nload gcc/12\n")
        starts = [json.loads(line) for line in self.starts.read_text("utf-8").splitlines()]
        self.assertEqual(sorted(start["ranks"] for start in starts), [1, 2, 2, 2])
        for start in starts:
            threads = 2 // start["ranks"]
            self.assertEqual(start["options"],
                             ["-n", str(start["ranks"]), f"--cpus-per-task={threads}",
                              "--cpu-bind=none", "--kill-on-bad-exit=1"])
            self.assertEqual(start["variables"],
                             {"OMP_NUM_THREADS": str(threads), "OMP_PLACES": None,
                              "OMP_PROC_BIND": "false", "SLURM_MPI_TYPE": "pmix"})

    def test_the_signal_before_the_time_is_up_keeps_what_was_measured(self):
        self.submit("cpu", "--build", BUILD, "--results", self.results, "--", *TINY,
                    FAKE_SBATCH_TIME_UP_AT="[2/4] ")
        log, comparison = self.only_run("4711")
        self.assertIn("interrupted by signal 15", comparison["environment"]["interruption"])
        self.assertIn("the ranks were ended", log)
        self.assertGreater(len(comparison["rows"]), 0)
        self.assertLess(len(comparison["rows"]), 4)

    def test_job_without_a_module_command_fails_before_it_compares(self):
        result = self.submit("cpu", "--local", "--build", BUILD, "--results", self.results,
                             "--module", "no/such-module", "--", *TINY)
        self.assertEqual(result.returncode, 1)
        self.assertRegex(result.stderr, r"slurm/job: [^\n]*no/such-module")
        self.assertEqual([path.suffix for path in self.results.iterdir()], [".out"])

    def test_ranks_are_the_tasks_unless_told_otherwise(self):
        for number, extra in ((4, ()), (2, ("--ranks", "2"))):
            self.results = self.base / f"ranks {number}"
            self.submit("cpu", "--build", BUILD, "--results", self.results, "--ntasks", 4, "--", *TINY,
                        "--modes", "tp", *extra)
            _, comparison = self.only_run("4711")
            self.assertEqual([row["ranks"] for row in comparison["rows"]], [number])
            self.assertTrue(all(row["proven"] for row in comparison["rows"]))


if __name__ == "__main__":
    unittest.main(verbosity=2)
