# SPDX-License-Identifier: Apache-2.0
"""`portolan report`: pages of one and of several machines, and refusals of what is no compare.json."""
import copy
import json
import os
import pathlib
import sys
import tempfile
import unittest

from command import CommandTest, Page, run


def make_row(mode, dtype, length, ranks=2, seconds=1.0, protocol="fair"):
    ranks = 1 if mode == "none" else ranks
    counted = {} if mode == "none" else {
        "all_reduce": {"calls": 5 * ranks, "bytes": 1000 * length, "seconds": seconds / 20}}
    return {
        "mode": mode, "dtype": dtype, "protocol": protocol, "seq_len": length, "batch": 2,
        "layers": 2, "ranks": ranks, "threads_per_rank": 2 // ranks or 1, "proven": True,
        "time_s": {"median": seconds, "min": 0.9 * seconds, "max": 1.2 * seconds,
                   "samples": [0.9 * seconds, seconds, 1.2 * seconds]},
        "floor_s": 0.8 * seconds,
        "memory_bytes": {"allocated_before_model": [0] * ranks,
                         "allocated_peak": [3000000000 + 1000 * length] * ranks,
                         "reserved_peak": [3100000000] * ranks,
                         "resident_peak": [3200000000] * ranks},
        "communication": {"calls": sum(u["calls"] for u in counted.values()),
                          "bytes": sum(u["bytes"] for u in counted.values()),
                          "seconds": sum(u["seconds"] for u in counted.values()),
                          "by_collective": counted,
                          "expected": {name: {"calls": use["calls"], "bytes": use["bytes"]}
                                       for name, use in counted.items()}},
        "max_abs_difference": None if mode == "none" else 1e-5}


def make_comparison(cpu, lengths=(256, 512, 1024), ranks=(2,), speed=1.0):
    rows = []
    for dtype in ("f32", "bf16"):
        for length in lengths:
            rows.append(make_row("none", dtype, length, seconds=length / 100 / speed))
            for mode, factor in (("tp", 1.1), ("sp", 1.0), ("ring", 1.05)):
                for count in ranks:
                    rows.append(make_row(mode, dtype, length, count, factor * length / 100 / speed))
    return {"environment": {"date": "2025-01-02T03:04:05Z",
                            "experiment": {"preset": "llama-7b"},
                            "machine": {"cpu_model": cpu, "cores_used": 2}},
            "rows": rows}


class Report(CommandTest):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.base = pathlib.Path(folder.name)

    def write(self, name, document):
        path = self.base / name
        path.write_text(document if isinstance(document, str) else json.dumps(document),
                        encoding="utf-8")
        return path

    def page(self, *documents):
        paths = [self.write(f"{i}.json", document) for i, document in enumerate(documents)]
        result = run("report", *paths, "--out", self.base / "out")
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        self.assertEqual(os.listdir(self.base / "out"), ["report.html"])
        page = Page(self.base / "out" / "report.html")
        page.check(self)
        return page

    def test_one_machine_is_well_formed_self_contained_and_complete(self):
        page = self.page(make_comparison("A CPU"))
        # Per dtype: latency, over none, allocated, resident, communication; then two ratios.
        self.assertEqual(page.tags.count("svg"), 2 * 5 + 2)
        for words in ("llama-7b, 2 layers, batch 2", "A CPU, 2 cores", "2025-01-02 03:04 UTC",
                      "All 24 rows are proven", "10.2 (3) [9.22, 12.3]", "1.10x",
                      "published, CPU 256 16.77 10.25 0.61 2.43 2.27",
                      "published, GPU 1024 0.63 0.61 0.97 28.05 14.31 13.74",
                      "foundation-model-stack, pull request 455",
                      "coms-6998-context-parallelism-project/foundation-model-stack",
                      "On record.", "Inference.", "all-reduce"):
            self.assertIn(words, page.visible)
        self.assertNotIn("Machine 1", page.visible)

    def test_several_machines_stand_side_by_side(self):
        page = self.page(make_comparison("A CPU"), make_comparison("Another CPU", speed=4.0))
        self.assertIn("Machine 1: A CPU, 2 cores", page.visible)
        self.assertIn("Machine 2: Another CPU, 2 cores", page.visible)
        self.assertIn("none f32 1 1024 10.2 (3) [9.22, 12.3] 1.00x 3.001 2.56 (3) [2.30, 3.07]",
                      page.visible)
        self.assertIn("machine 2, bf16", page.visible)

    def test_machine_without_some_rows_has_dashes(self):
        page = self.page(make_comparison("A CPU", lengths=(256,)),
                         make_comparison("Another CPU", lengths=(512,)))
        self.assertIn("none f32 1 256 2.56 (3) [2.30, 3.07] 1.00x 3.000 – – –", page.visible)
        self.assertIn("none f32 1 512 – – – 5.12 (3)", page.visible)

    def test_scaling_is_drawn_where_there_are_several_numbers_of_ranks(self):
        page = self.page(make_comparison("A CPU", ranks=(2, 4)))
        self.assertIn("One forward, length 1024, f32", page.visible)
        self.assertIn("One forward, f32, 4 ranks", page.visible)

    def test_refused_rows_are_told_and_not_drawn(self):
        comparison = make_comparison("A CPU")
        for row in comparison["rows"]:
            if row["mode"] == "sp":
                row.update(proven=False, reason="<b>all_gather</b> & more")
        comparison["rows"].append({"mode": "ring", "dtype": "f16", "seq_len": 8, "batch": 2,
                                   "layers": 2, "ranks": 2, "threads_per_rank": 1, "proven": False,
                                   "reason": "the job failed"})
        page = self.page(comparison)
        self.assertIn("18 of 25 rows are proven", page.visible)
        self.assertIn("Refused: <b>all_gather</b> & more", page.visible)
        self.assertIn("Refused: the job failed", page.visible)
        self.assertNotIn("here, f32", page.visible, "a ratio needs tp and sp")

    def test_hostile_text_stays_text(self):
        page = self.page(make_comparison("<script>alert('x')</script> \"&' \u0007 \u2603"))
        self.assertIn("<script>alert('x')</script> \"&'", page.visible)

    def test_single_length_and_single_mode_are_drawn(self):
        comparison = make_comparison("A CPU", lengths=(128,))
        comparison["rows"] = [row for row in comparison["rows"] if row["mode"] == "none"]
        page = self.page(comparison)
        self.assertEqual(page.tags.count("svg"), 2 * 3)
        self.assertIn("published, CPU", page.visible)

    def test_lengths_of_many_sizes_are_drawn(self):
        self.page(make_comparison("A CPU", lengths=(16, 128, 1024, 8192)))

    def test_page_of_a_comparison_is_drawn_again_into_its_folder(self):
        path = self.write("compare.json", make_comparison("A CPU"))
        (self.base / "report.html").write_text("old", encoding="utf-8")
        result = run("report", path, "--out", self.base)
        self.assertEqual(result.returncode, 0, result.stderr)
        Page(self.base / "report.html").check(self)
        self.assertEqual(sorted(os.listdir(self.base)), ["compare.json", "report.html"])

    def test_broken_documents_are_refused_by_file_and_field(self):
        good = make_comparison("A CPU")

        def changed(change):
            document = copy.deepcopy(good)
            change(document)
            return document

        def row(**members):
            return changed(lambda document: document["rows"][3].update(members))

        def without(name):
            return changed(lambda document: document["rows"][3].pop(name))

        times = good["rows"][3]["time_s"]
        cases = (
            ("", "expected JSON"),
            ("[]", "object"),
            ("{}", "environment"),
            ('{"environment": {}, "rows": [], "rows": []}', "rows"),
            ({"environment": {}}, "'rows'"),
            ({"environment": {}, "rows": []}, "'rows'"),
            ({"environment": [], "rows": good["rows"]}, "'environment'"),
            ({"environment": {}, "rows": [7]}, "rows[0]"),
            (row(mode="dp"), "'rows[3].mode'"),
            (row(dtype="f8"), "'rows[3].dtype'"),
            (row(protocol="unfair"), "'rows[3].protocol'"),
            (row(seq_len=0), "'rows[3].seq_len'"),
            (row(seq_len=1.5), "'rows[3].seq_len'"),
            (row(seq_len=2**64), "'rows[3].seq_len'"),
            (row(ranks=0), "'rows[3].ranks'"),
            (row(ranks=3), "'rows[3].memory_bytes.allocated_before_model'"),
            (row(proven="yes"), "'rows[3].proven'"),
            (row(proven=False), "'rows[3].reason'"),
            (without("time_s"), "'rows[3].time_s'"),
            (without("communication"), "'rows[3].communication'"),
            (row(time_s=dict(times, median=-1)), "'rows[3].time_s.median'"),
            (row(time_s=dict(times, median=100.0)), "'rows[3].time_s.median'"),
            (row(time_s=dict(times, samples=[])), "'rows[3].time_s.samples'"),
            (row(time_s=dict(times, samples=["1"])), "'rows[3].time_s.samples'"),
            (row(memory_bytes={"allocated_peak": [1, -1], "resident_peak": [1, 1]}),
             "'rows[3].memory_bytes.allocated_peak'"),
            (row(memory_bytes={"allocated_peak": [1, 1]}), "'rows[3].memory_bytes.resident_peak'"),
            (row(communication={"calls": 1, "bytes": 1, "seconds": 0, "by_collective": {"x": 1}}),
             "'rows[3].communication.by_collective.x'"),
            (row(max_abs_difference="small"), "'rows[3].max_abs_difference'"))
        for i, (document, words) in enumerate(cases):
            with self.subTest(words=words, case=i):
                path = self.write(f"bad{i}.json", document)
                out = self.base / "out"
                self.assert_refused(run("report", path, "--out", out), str(path), words)
                self.assertFalse(out.exists())

    def test_missing_file_and_folder_in_its_place_are_refused(self):
        out = self.base / "out"
        self.assert_refused(run("report", self.base / "none.json", "--out", out), "none.json")
        self.assert_refused(run("report", self.base, "--out", out), str(self.base))
        path = self.write("good.json", make_comparison("A CPU"))
        self.assert_refused(run("report", path, "--out", path), str(path))
        self.assert_refused(run("report", path, "--out", ""), "--out")
        self.assert_refused(run("report", path, "--out", out, PATH="/nonexistent"), "gnuplot")
        self.assertFalse(out.exists())


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
