# SPDX-License-Identifier: Apache-2.0
"""`portolan bench collectives`: bytes and bandwidths by their closed forms, results that are right,
limits; its refusals."""
import csv
import io
import json
import sys
import unittest

from command import BenchTest, run, run_ranks

COLLECTIVES = ["all_reduce", "reduce_scatter", "all_gather", "broadcast", "ring_shift"]
SIZES = [8, 1001, 100000]
ELEMENT = {"f32": 4, "bf16": 2}


def bus_factor(collective, ranks):
    return {"all_reduce": 2 * (ranks - 1) / ranks, "broadcast": 1}.get(collective, (ranks - 1) / ranks)


class BenchCollectives(BenchTest):
    def bench(self, ranks, *arguments, **variables):
        return run_ranks(ranks, "bench", "collectives", "--repeat", "3", "--seconds", "0.05", *arguments,
                         **variables)

    def document(self, ranks, *arguments, **variables):
        result = self.bench(ranks, "--json", *arguments, **variables)
        self.assertEqual(result.returncode, 0, result.stderr)
        return json.loads(result.stdout)

    def check(self, row, size, ranks):
        """One row, of a tensor of `size` bytes or the few more that make shares even."""
        collective, dtype = row["collective"], row["dtype"]
        unit = ranks * ELEMENT[dtype]
        total = -(-size // unit) * unit
        self.assertEqual(row["bytes"], total)
        passes = 2 if collective == "all_reduce" else 1
        self.assertEqual(row["communicated_bytes"], passes * total * (ranks - 1))
        self.assert_times(row["time_s"], 3)
        self.assertGreaterEqual(row["calls_per_sample"], 1)
        self.assertGreaterEqual(row["peak_bytes"], 0)
        median = row["time_s"]["median"]
        self.assertAlmostEqual(row["algorithm_bytes_per_s"] * median / total, 1, places=9)
        self.assertAlmostEqual(row["bus_bytes_per_s"] / row["algorithm_bytes_per_s"],
                               bus_factor(collective, ranks), places=9)
        self.assertEqual(row["limit"], "memory")
        self.assertGreater(row["limit_s"], 0)
        self.assertAlmostEqual(row["limit_share"] * median / row["limit_s"], 1, places=9)
        self.check_error(row, ranks)

    def check_error(self, row, ranks):
        if row["collective"] not in ("all_reduce", "reduce_scatter"):
            self.assertEqual(row["max_error"], 0, row)  # copies
        elif row["dtype"] == "f32":
            self.assertLess(row["max_error"], ranks * 2 ** -23, row)
        else:  # half of the last of 8 bits of a sum that is below the number of ranks
            self.assertLess(row["max_error"], 1.001 * ranks * 2 ** -9, row)
            if row["bytes"] > 1000:
                self.assertGreater(row["max_error"], 1e-4, row)

    def test_every_collective_is_right_and_has_its_closed_forms(self):
        for ranks in (2, 4):
            for transport in ("auto", "mpi"):
                with self.subTest(ranks=ranks, transport=transport):
                    document = self.document(ranks, "--sizes", ",".join(map(str, SIZES)), "--dtypes",
                                             "f32,bf16", PORTOLAN_TRANSPORT=transport)
                    environment = document["environment"]
                    self.assertEqual((environment["ranks"], environment["threads_per_rank"]), (ranks, 1))
                    self.assertEqual(environment["transport"],
                                     {"auto": "shared memory", "mpi": "MPI"}[transport])
                    self.assertEqual([(row["dtype"], row["collective"]) for row in document["rows"]],
                                     [(dtype, collective) for dtype in ELEMENT
                                      for collective in COLLECTIVES for _ in SIZES])
                    for i, row in enumerate(document["rows"]):
                        self.check(row, SIZES[i % len(SIZES)], ranks)

    def test_an_emulated_link_is_the_limit(self):
        rows = self.document(3, "--sizes", "3000000", "--emulate-link",
                             "bandwidth=1GB/s,latency=5ms")["rows"]
        messages = {"all_reduce": 4, "broadcast": 1}
        for row in rows:
            steps = messages.get(row["collective"], 2)
            received = 3e6 * bus_factor(row["collective"], 3)
            self.assertEqual(row["limit"], "link")
            self.assertAlmostEqual(row["limit_s"], steps * 5e-3 + received * 1e-9, places=9)
            self.assertGreaterEqual(row["time_s"]["min"], row["limit_s"])
            self.assertGreater(row["limit_share"], 0.01)

    def test_the_seed_decides_the_inputs(self):
        def errors(seed):
            return [row["max_error"] for row in self.document(
                2, "--seed", seed, "--collectives", "all_reduce", "--sizes", "4,8,16,32",
                "--dtypes", "bf16,f16")["rows"]]
        self.assertEqual(errors(1), errors(1))
        self.assertNotEqual(errors(1), errors(2))

    def test_files_and_lines_say_the_same(self):
        result = self.bench(2, "--collectives", "all_gather,broadcast", "--sizes", "1kB,20kB", "--out",
                            self.out)
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        lines = result.stdout.splitlines()
        self.assertEqual(len(lines), 2 + 4 + 1)
        self.assertEqual(lines[0], "2 ranks x 1 thread, shared memory")
        rows = json.loads(self.read("collectives.json"))["rows"]
        table = list(csv.DictReader(io.StringIO(self.read("collectives.csv"))))
        self.assertEqual([row["bytes"] for row in rows], [1000, 20000] * 2)
        for row, cells, line in zip(rows, table, lines[2:]):
            self.assertEqual(line.split()[:3], [row["collective"], "f32", str(row["bytes"])])
            self.assertEqual(cells["collective"], row["collective"])
            self.assertEqual(float(cells["median_s"]), row["time_s"]["median"])
            self.assertEqual(float(cells["bus_bytes_per_s"]), row["bus_bytes_per_s"])
            self.assertEqual(int(cells["communicated_bytes"]), row["communicated_bytes"])
            self.assertEqual((cells["ranks"], cells["refusal"]), ("2", ""))

    def test_every_device_has_them(self):
        for row in self.document(2, "--device", "serial", "--sizes", "1001")["rows"]:
            self.check(row, 1001, 2)

    def test_running_out_of_memory_is_a_row(self):
        rows = self.document(2, "--collectives", "all_reduce", "--sizes", "1000,900TB", "--out",
                             self.out)["rows"]
        self.assertNotIn("refusal", rows[0])
        self.assertEqual((rows[1]["refusal"], rows[1].get("time_s")), ("out of memory", None))
        table = list(csv.DictReader(io.StringIO(self.read("collectives.csv"))))
        self.assertEqual([cells["refusal"] for cells in table], ["", "out of memory"])

    def test_one_rank_is_refused(self):
        self.assert_refused(run("bench", "collectives"), "several ranks", "mpirun -n 2")

    def test_a_folder_that_cannot_be_made_is_refused(self):
        self.assert_refused_by_all(run_ranks(2, "bench", "collectives", "--out", "/dev/null/x"), "/dev/null")

    def test_refusals(self):
        for words, options in (
                (["'gossip'", "ring_shift"], ["--collectives", "gossip"]),
                (["--collectives", "appears twice"], ["--collectives", "broadcast,broadcast"]),
                (["--sizes", "'0'"], ["--sizes", "0"]),
                (["--sizes", "'1QB'"], ["--sizes", "1kB,1QB"]),
                (["'f8'"], ["--dtypes", "f8"]),
                (["--repeat", "'0'"], ["--repeat", "0"]),
                (["--seconds", "'-1'"], ["--seconds", "-1"]),
                (["--emulate-link", "'slow'"], ["--emulate-link", "slow"]),
                (["--attention-tiles"], ["--attention-tiles", "x"])):
            with self.subTest(options=options):
                self.assert_refused(run("bench", "collectives", *options), *words)
                self.assert_refused_by_all(run_ranks(2, "bench", "collectives", *options), *words)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
