# SPDX-License-Identifier: Apache-2.0
"""`portolan compare`: a real run of a tiny model, and everything that can go wrong with jobs."""
import csv
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
import unittest

from command import PORTOLAN, CommandTest, Page, clean_environment, fake_launcher, run

# Seconds to wait for what is sure to come, on a machine however busy.
PATIENCE = 300
SMALL = ("--preset", "tiny", "--seq-lens", "8,16", "--threads", "2", "--oversubscribe")


def is_alive(process):
    try:
        text = pathlib.Path(f"/proc/{process}/stat").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return text.rsplit(")", 1)[1].split()[0] != "Z"


class CompareTest(CommandTest):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.base = pathlib.Path(self.folder.name)
        self.out = self.base / "results"

    def results(self):
        return json.loads((self.out / "compare.json").read_text(encoding="utf-8"))

    def rows(self, **wanted):
        return [row for row in self.results()["rows"]
                if all(row[name] == value for name, value in wanted.items())]


class RealRun(CompareTest):
    def test_tiny_model_is_proven_in_every_mode(self):
        result = run("compare", *SMALL, "--out", self.out)
        self.assertEqual(result.returncode, 0, result.stderr)
        rows = self.rows()
        self.assertEqual(len(rows), 4 * 2 * 2)
        self.assertTrue(all(row["proven"] for row in rows))
        for row in rows:
            self.assertEqual(row["ranks"] * row["threads_per_rank"], 2)
            self.assertEqual(len(row["time_s"]["samples"]), 3)
            if row["mode"] != "none":
                self.assertGreater(row["communication"]["bytes"], 0)
                self.assertAlmostEqual(
                    sum(use["seconds"] for use in row["communication"]["by_collective"].values()),
                    row["communication"]["seconds"], places=9)
                self.assertLess(row["max_abs_difference"], 0.1)
        for mode in ("none", "tp", "sp", "ring"):
            self.assertRegex(result.stdout, rf"(?m)^{mode} +(f32|bf16)")
        Page(self.out / "report.html").check(self)
        with open(self.out / "compare.csv", newline="", encoding="utf-8") as file:
            table = list(csv.DictReader(file))
        self.assertEqual(len(table), len(rows))
        self.assertEqual([(r["mode"], r["dtype"], int(r["seq_len"])) for r in table],
                         [(r["mode"], r["dtype"], r["seq_len"]) for r in rows])
        self.assertEqual(float(table[0]["time_median_s"]), rows[0]["time_s"]["median"])
        self.assertEqual(sorted(os.listdir(self.out)), ["compare.csv", "compare.json", "report.html"])

    def test_ranks_of_device_serial_have_a_core_each(self):
        result = run("compare", *SMALL, "--device", "serial", "--dtypes", "f32", "--modes", "none,tp",
                     "--out", self.out)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual({(row["mode"], row["ranks"], row["threads_per_rank"]) for row in self.rows()},
                         {("none", 1, 1), ("tp", 2, 1)})
        page = Page(self.out / "report.html")
        page.check(self)
        self.assertIn("different numbers of cores", page.visible)
        self.assertNotIn("same cores", page.visible)

    def test_published_protocol_stands_beside_the_fair_one(self):
        result = run("compare", *SMALL, "--modes", "tp,sp", "--dtypes", "f32", "--protocol",
                     "fair,published", "--out", self.out)
        self.assertEqual(result.returncode, 0, result.stderr)
        published = self.rows(protocol="published")
        self.assertEqual([row["mode"] for row in published], ["tp", "tp", "sp", "sp"])
        for row in published:
            self.assertEqual(len(row["time_s"]["samples"]), 1)
            before = max(row["memory_bytes"]["allocated_before_model"])
            self.assertEqual(before > 0, row["mode"] == "tp", "sp runs first and its model stays")
        page = Page(self.out / "report.html")
        page.check(self)
        self.assertIn("What the published order of events changes", page.visible)
        self.assertIn("*", result.stdout)


class FakeRun(CompareTest):
    """Against a stand-in for mpirun and the ranks."""

    def setUp(self):
        super().setUp()
        self.path = fake_launcher(self.base)
        self.log = self.base / "log"

    def compare(self, *arguments, trouble=None, **variables):
        if trouble:
            mode, dtype, what = trouble
            variables["FAKE_TROUBLE"] = json.dumps({"mode": mode, "dtype": dtype, "what": what})
        defaults = {"--preset": "tiny", "--seq-lens": "8,16", "--threads": "2"}
        for name, value in defaults.items():
            if name not in arguments:
                arguments += (name, value)
        return run("compare", "--oversubscribe", "--out", self.out, *arguments, PATH=self.path,
                   FAKE_LOG=str(self.log), **variables)

    def jobs(self):
        return [json.loads(line) for line in self.log.read_text(encoding="utf-8").splitlines()]

    def test_jobs_get_equal_cores_in_shuffled_order(self):
        result = self.compare("--seed", "3")
        self.assertEqual(result.returncode, 0, result.stderr)
        jobs = self.jobs()
        names = [(job["specification"]["mode"], job["specification"]["dtype"]) for job in jobs]
        self.assertEqual(sorted(names), sorted((mode, dtype) for mode in ("none", "tp", "sp", "ring")
                                               for dtype in ("f32", "bf16")))
        self.assertNotEqual(names, sorted(names))
        self.assertEqual(names[0][1], "bf16", "the cheapest dtype gives the first row")
        for job in jobs:
            arguments = job["arguments"]
            ranks = int(arguments[arguments.index("-n") + 1])
            self.assertEqual(ranks, 1 if job["specification"]["mode"] == "none" else 2)
            self.assertEqual(ranks * job["specification"]["threads"], 2)
            self.assertEqual(job["variables"]["OMP_NUM_THREADS"],
                             str(job["specification"]["threads"]))
            self.assertEqual(arguments[arguments.index("--bind-to") + 1], "none")
            binary = arguments[arguments.index("compare-worker") - 1]
            self.assertTrue(os.path.samefile(binary, PORTOLAN))
            self.assertEqual(job["specification"]["seq_lens"], [8, 16])

    def test_same_seed_gives_the_same_order_and_another_seed_another(self):
        orders = []
        for seed in ("1", "1", "2"):
            self.log.unlink(missing_ok=True)
            self.assertEqual(self.compare("--seed", seed).returncode, 0)
            orders.append([job["specification"]["mode"] + job["specification"]["dtype"]
                           for job in self.jobs()])
        self.assertEqual(orders[0], orders[1])
        self.assertNotEqual(orders[0], orders[2])

    def test_scaling_runs_none_once_and_the_others_at_each_number_of_ranks(self):
        result = self.compare("--ranks", "1,2,4", "--modes", "none,tp", "--dtypes", "f32",
                              "--threads", "4")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual({(row["mode"], row["ranks"], row["threads_per_rank"])
                          for row in self.rows()}, {("none", 1, 4), ("tp", 2, 2), ("tp", 4, 1)})
        self.assertIn("ranks (same cores in total)", Page(self.out / "report.html").visible)

    def test_differences_are_measured_against_none_of_the_same_dtype(self):
        self.assertEqual(self.compare().returncode, 0)
        self.assertNotIn("difference_reference", self.rows(mode="none", dtype="f32")[0])
        self.assertEqual(self.rows(mode="none", dtype="bf16")[0]["difference_reference"], "none f32")
        for row in self.rows(mode="ring"):
            self.assertEqual(row["difference_reference"], "none " + row["dtype"])
            self.assertAlmostEqual(row["max_abs_difference"], 1e-5, delta=1e-7)
            self.assertEqual(row["largest_logit"], 2.0)

    def test_json_is_one_document_on_stdout(self):
        result = self.compare("--json", "--quiet")
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        self.assertEqual(json.loads(result.stdout), self.results())

    def test_rows_are_told_as_they_arrive(self):
        result = self.compare("--modes", "tp", "--dtypes", "f32")
        self.assertRegex(result.stderr, r"(?m)^\[1/1\] tp f32, 2 ranks x 1 thread, length 8: ")
        self.assertNotIn("\x1b", result.stderr)
        self.assertNotIn("a library greets", result.stdout + result.stderr)

    def test_jobs_beyond_the_memory_are_warned_of(self):
        result = self.compare("--preset", "llama-70b", "--layers", "4000", "--modes", "none",
                              "--dtypes", "f32", "--seq-lens", "8")
        self.assertRegex(result.stderr, r"(?m)^none f32, 1 rank x 2 threads needs about \d+\.\d GB, "
                                        r"but this machine has \d+\.\d GB$")
        self.assertNotIn("needs about", self.compare().stderr)

    def test_environment_is_recorded(self):
        self.assertEqual(self.compare("--dtypes", "f32", OMP_WAIT_POLICY="passive").returncode, 0)
        environment = self.results()["environment"]
        self.assertRegex(environment["date"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")
        self.assertIn("portolan compare ", environment["command"])
        self.assertIn("--preset tiny", environment["command"])
        self.assertEqual(environment["experiment"]["preset"], "tiny")
        self.assertEqual(environment["machine"]["cores_used"], 2)
        self.assertEqual(environment["variables"]["OMP_WAIT_POLICY"], "passive")
        self.assertEqual(environment["launcher"], "mpirun (Open MPI) 4.1.4")
        self.assertEqual(len(environment["jobs"]), 4)
        self.assertEqual(environment["jobs"][0]["transport"], "fake")

    def assert_trouble(self, what, reason, refused=2, mode="sp"):
        """The troubled job's rows are refused for the reason, the others stand."""
        result = self.compare("--dtypes", "f32", trouble=(mode, "f32", what))
        self.assertEqual(result.returncode, 1, result.stderr)
        rows = self.rows()
        self.assertEqual(len(rows), 8)
        bad = [row for row in rows if not row["proven"]]
        self.assertEqual([row["mode"] for row in bad], [mode] * refused)
        for row in bad:
            self.assertRegex(row["reason"], reason)
        self.assertRegex(result.stdout, r"(?m)^  refused: .*")
        errors = [line for line in result.stderr.splitlines()
                  if line.startswith("portolan: error: ")]
        self.assertEqual(len(errors), 1)
        self.assertIn(f"{refused} of 8 rows refused", errors[0])
        page = Page(self.out / "report.html")
        page.check(self)
        self.assertIn("Refused: ", page.visible)
        return result

    def test_crash_refuses_the_rows_and_shows_the_workers_last_words(self):
        result = self.assert_trouble("crash", "signal 11")
        self.assertIn("  | a last word\n", result.stderr)

    def test_the_workers_own_error_is_the_reason(self):
        self.assert_trouble("usage", "^the worker does not like this$")

    def test_death_after_a_row_refuses_it_too(self):
        self.assert_trouble("die after a row", "exit code 1")

    def test_counters_that_differ_from_the_plan_refuse_the_row(self):
        self.assert_trouble("counters", "all_gather: counted 4 calls and .* the plan says 4 calls")

    def test_collective_that_the_plan_does_not_have_refuses_the_row(self):
        self.assert_trouble("unexpected collective", "broadcast: counted 1 call")

    def test_memory_allocated_before_the_model_refuses_the_row(self):
        self.assert_trouble("leftover", "already allocated")

    def test_another_number_of_threads_refuses_the_row(self):
        self.assert_trouble("threads", "not what was asked for")

    def test_logits_that_differ_refuse_the_row(self):
        self.assert_trouble("logits", "differ from none f32 by 1")

    def test_logits_that_are_not_numbers_refuse_the_row(self):
        self.assert_trouble("nan", "differ from none f32 by inf")

    def test_missing_result_refuses_the_rows(self):
        self.assert_trouble("no result", "cannot open")

    def test_half_a_result_refuses_the_rows(self):
        self.assert_trouble("half a result", "not valid JSON")

    def test_row_that_never_came_is_refused(self):
        self.assert_trouble("missing row", "no such row", refused=1)

    def wait_for_pids(self, process):
        pids = self.base / "pids"
        for _ in range(int(PATIENCE / 0.02)):
            if pids.exists():
                return [int(pid) for pid in pids.read_text(encoding="utf-8").split()]
            self.assertIsNone(process.poll(), "the comparison ended before its job hung")
            time.sleep(0.02)
        self.fail("the job did not start")

    def start(self, what, modes="tp", trouble_mode="tp"):
        trouble = json.dumps({"mode": trouble_mode, "dtype": "f32", "what": what})
        return subprocess.Popen(
            [PORTOLAN, "compare", *SMALL, "--modes", modes, "--dtypes", "f32", "--out",
             str(self.out)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
            env=clean_environment(PATH=self.path, FAKE_TROUBLE=trouble,
                                  FAKE_PIDS=str(self.base / "pids")))

    def assert_gone(self, pids):
        for _ in range(int(PATIENCE / 0.05)):
            if not any(is_alive(pid) for pid in pids):
                return
            time.sleep(0.05)
        self.fail(f"still there: {[pid for pid in pids if is_alive(pid)]}")

    def test_silent_job_is_ended_and_its_rows_refused(self):
        result = self.compare("--timeout", "5", "--dtypes", "f32", trouble=("tp", "f32", "hang"),
                              FAKE_PIDS=str(self.base / "pids"))
        self.assertEqual(result.returncode, 1)
        self.assertEqual({row["reason"] for row in self.rows(proven=False)},
                         {"the job failed: no sign of life for 5 s"})
        self.assert_gone([int(pid) for pid in (self.base / "pids").read_text().split()])

    def test_interrupt_ends_the_ranks_and_leaves_no_file(self):
        for what, number in (("hang", signal.SIGINT), ("hang hard", signal.SIGTERM)):
            with self.subTest(what=what):
                (self.base / "pids").unlink(missing_ok=True)
                process = self.start(what)
                pids = self.wait_for_pids(process)
                process.send_signal(number)
                _, errors = process.communicate(timeout=PATIENCE)
                self.assertEqual(process.returncode, 1, errors)
                self.assertRegex(errors, r"portolan: error: interrupted by signal \d+ .*\n\Z")
                self.assert_gone(pids)
                self.assertEqual(os.listdir(self.out), [])

    def test_interrupt_keeps_the_rows_of_the_jobs_before_it(self):
        # Jobs run in shuffled order: of two, the one or the other is the second.
        reports = []
        for mode in ("tp", "none"):
            self.out = self.base / mode
            (self.base / "pids").unlink(missing_ok=True)
            process = self.start("hang", modes="none,tp", trouble_mode=mode)
            self.wait_for_pids(process)
            process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=PATIENCE)
            self.assertEqual(process.returncode, 1, errors)
            if not os.listdir(self.out):
                self.assertIn("after 0 of 2 jobs; the ranks were ended", errors)
                self.assertEqual(output, "")
                continue
            self.assertIn("after 1 of 2 jobs; the ranks were ended", errors)
            self.assertIn("after 1 of 2 jobs", self.results()["environment"]["interruption"])
            self.assertEqual({row["mode"] for row in self.results()["rows"]}, {"none", "tp"} - {mode})
            Page(self.out / "report.html").check(self)
            reports.append((self.out / "report.html").read_text(encoding="utf-8"))
        self.assertEqual(len(reports), 1)
        self.assertIn("the rows of the others are missing", reports[0])

    def test_launcher_does_not_outlive_a_killed_comparison(self):
        process = self.start("hang")
        launcher, rank = self.wait_for_pids(process)
        process.kill()
        process.communicate(timeout=PATIENCE)
        self.assert_gone([launcher])
        os.kill(rank, signal.SIGKILL)  # a real launcher takes its ranks along


class Refusals(CompareTest):
    def test_values_that_cannot_be_run_are_refused_before_anything_starts(self):
        for arguments, words in (
                (("--modes", "tp,dp"), ("--modes", "'dp'", "none, tp, sp, ring")),
                (("--modes", "tp,tp"), ("--modes", "twice")),
                (("--modes", ""), ("--modes", "empty")),
                (("--dtypes", "f64"), ("--dtypes", "'f64'", "f32, bf16, f16")),
                (("--preset", "llama-8t"), ("--preset", "llama-7b", "tiny")),
                (("--seq-lens", "0,8"), ("--seq-lens", "'0'")),
                (("--seq-lens", "8,,16"), ("--seq-lens", "empty")),
                (("--seq-lens", "8,16k"), ("--seq-lens", "'16k'")),
                (("--seq-lens", "99999999999999999999"), ("--seq-lens",)),
                (("--ranks", "0"), ("--ranks", "'0'")),
                (("--ranks", "-2"), ("--ranks", "'-2'")),
                (("--ranks", "5", "--oversubscribe", "--preset", "tiny"),
                 ("--ranks 5", "4 query heads")),
                (("--ranks", "1"), ("--ranks 1", "at least 2 ranks")),
                (("--ranks", "2", "--threads", "1"), ("--ranks 2", "--oversubscribe")),
                (("--threads", "100000"), ("--threads",)),
                (("--threads", "50000"), ("--threads 50000", "--oversubscribe")),
                (("--layers", "0"), ("--layers", "'0'")),
                (("--batch", "x"), ("--batch", "'x'")),
                (("--repeat", "0"), ("--repeat", "'0'")),
                (("--warmup", "-1"), ("--warmup", "'-1'")),
                (("--seed", "1.5"), ("--seed", "'1.5'")),
                (("--protocol", "quick"), ("--protocol", "'quick'")),
                (("--protocol", "published", "--modes", "none"), ("--modes", "fair,published")),
                (("--protocol", "published", "--warmup", "2"), ("--warmup", "fair,published")),
                (("--protocol", "published", "--repeat", "2"), ("--repeat", "fair,published")),
                (("--attention-tiles", "/no/tiles", "--oversubscribe"), ("/no/tiles",)),
                (("--launcher", "bash"), ("--launcher", "mpirun, srun")),
                (("--device", "tpu"), ("--device", "cpu, cuda, serial")),
                (("--timeout", "0"), ("--timeout", "'0'"))):
            with self.subTest(arguments=arguments):
                self.assert_refused(run("compare", *arguments, "--out", self.out), *words)
                self.assertFalse(self.out.exists())

    def test_a_folder_that_json_cannot_name_is_refused(self):
        for name in (os.fsdecode(b"a\xff"), "a\nb"):
            out = self.out.with_name(name)
            self.assert_refused(run("compare", *SMALL, "--out", out), "--out", "UTF-8")
            self.assertFalse(out.exists())

    def test_a_device_that_the_build_has_not_is_refused_before_anything_starts(self):
        devices = json.loads(run("info", "--json").stdout)["devices"]
        for device in {"cpu", "cuda", "serial"} - set(devices):
            self.assert_refused(run("compare", *SMALL, "--device", device, "--out", self.out),
                                f"--device {device}", ", ".join(devices))
            self.assertFalse(self.out.exists())

    def test_it_refuses_to_run_inside_a_launch(self):
        for variables in ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"},
                          {"PMI_SIZE": "2", "PMI_RANK": "0"},
                          {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2"}):
            with self.subTest(variables=variables):
                self.assert_refused(run("compare", *SMALL, "--out", self.out, **variables),
                                    "with 2 ranks")

    def test_a_batch_script_of_slurm_is_no_launch(self):
        path = fake_launcher(self.base)
        result = run("compare", *SMALL, "--modes", "none", "--out", self.out, PATH=path,
                     SLURM_PROCID="0", SLURM_NTASKS="2")
        self.assertEqual(result.returncode, 0, result.stderr)

    def tools(self, *names):
        place = self.base / "tools"
        place.mkdir()
        for name in names:
            found = subprocess.run(["which", name], capture_output=True, text=True, check=True)
            (place / name).symlink_to(found.stdout.strip())
        return str(place)

    def test_missing_mpirun_says_what_to_install(self):
        result = run("compare", *SMALL, "--out", self.out, PATH=self.tools("gnuplot"))
        self.assert_refused(result, "mpirun", "scripts/setup")
        self.assertFalse(self.out.exists())

    def test_missing_gnuplot_says_what_to_install_before_anything_runs(self):
        result = run("compare", *SMALL, "--out", self.out, PATH=self.tools("mpirun"))
        self.assert_refused(result, "gnuplot", "scripts/setup")
        self.assertFalse(self.out.exists())

    def test_missing_srun_is_refused(self):
        result = run("compare", *SMALL, "--launcher", "srun", "--out", self.out,
                     PATH=self.tools("gnuplot", "mpirun"))
        self.assert_refused(result, "srun")

    def test_folder_that_cannot_be_written_is_refused_before_anything_runs(self):
        file = self.base / "file"
        file.write_text("in the way", encoding="utf-8")
        path = fake_launcher(self.base)
        log = self.base / "log"
        for out in (file, file / "below", "/proc/portolan", ""):
            with self.subTest(out=out):
                result = run("compare", *SMALL, "--out", out, PATH=path, FAKE_LOG=str(log))
                self.assert_refused(result, str(out) or "--out")
        self.assertFalse(log.exists())
        self.assertEqual(file.read_text(encoding="utf-8"), "in the way")

    def test_default_folder_is_named_by_the_date(self):
        path = fake_launcher(self.base)
        result = run("compare", *SMALL, "--modes", "none", cwd=self.base, PATH=path)
        self.assertEqual(result.returncode, 0, result.stderr)
        made = [name for name in os.listdir(self.base) if name.startswith("compare-")]
        self.assertEqual(len(made), 1)
        self.assertTrue(re.fullmatch(r"compare-\d{8}-\d{6}", made[0]))


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
