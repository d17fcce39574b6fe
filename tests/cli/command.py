# SPDX-License-Identifier: Apache-2.0
"""What the tests of the command share."""
import html.parser
import os
import pathlib
import re
import stat
import subprocess
import tempfile
import unittest
import xml.etree.ElementTree

PORTOLAN = os.environ["PORTOLAN_BINARY"]
DATA = pathlib.Path(os.environ["PORTOLAN_TEST_DATA"])
HERE = pathlib.Path(__file__).resolve().parent


def clean_environment(**variables):
    """This environment without what a launcher may have left in it."""
    environment = {name: value for name, value in os.environ.items()
                   if not name.startswith(("OMPI_", "PMI", "SLURM_", "PORTOLAN_LOG"))}
    environment.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    environment.update(variables)
    return environment


def run(*arguments, timeout=600, cwd=None, **variables):
    return subprocess.run([PORTOLAN, *map(str, arguments)], capture_output=True, text=True,
                          timeout=timeout, cwd=cwd, env=clean_environment(**variables))


def run_ranks(ranks, *arguments, timeout=600, **variables):
    """On so many ranks of one thread, whatever the number of cores."""
    launch = ["mpirun", "-n", str(ranks), "--oversubscribe", "--bind-to", "none"]
    environment = {"OMP_NUM_THREADS": "1", "OMP_PROC_BIND": "false"} | variables
    return subprocess.run([*launch, PORTOLAN, *map(str, arguments)], capture_output=True, text=True,
                          timeout=timeout, env=clean_environment(**environment))


class CommandTest(unittest.TestCase):
    def assert_refused(self, result, *words, code=2):
        """One stderr line, nothing on stdout, the exit code of bad usage."""
        self.assertEqual(result.returncode, code, result.stderr)
        self.assertEqual(result.stdout, "")
        self.assertRegex(result.stderr, r"\Aportolan: error: [^\n]+\n\Z")
        for word in words:
            self.assertIn(word, result.stderr)


class BenchTest(CommandTest):
    """With a folder for what a benchmark writes."""

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.out = os.path.join(self.folder.name, "results")

    def tearDown(self):
        self.folder.cleanup()

    def read(self, name):
        with open(os.path.join(self.out, name), encoding="utf-8") as file:
            return file.read()

    def assert_times(self, times, most):
        """Of a row: its samples, at most so many, and their summary."""
        self.assertLess(0, times["min"])
        self.assertLessEqual(times["min"], times["median"])
        self.assertLessEqual(times["median"], times["p80"])
        self.assertIn(len(times["samples"]), range(1, most + 1))
        self.assertEqual(min(times["samples"]), times["min"])

    def assert_refused_by_all(self, result, *words):
        """Several ranks say one thing; the launcher may add that they ended."""
        self.assertEqual((result.returncode, result.stdout), (2, ""), result.stderr)
        errors = {line for line in result.stderr.splitlines() if line.startswith("portolan: error: ")}
        self.assertEqual(len(errors), 1, result.stderr)
        for word in words:
            self.assertIn(word, *errors)


class Page(html.parser.HTMLParser):
    """A report: checks on the way that it needs nothing from elsewhere and runs nothing."""

    def __init__(self, path):
        super().__init__()
        self.text = pathlib.Path(path).read_text(encoding="utf-8")
        self.tags = []
        self.ids = []
        self.words = []
        self.outside = []
        self.feed(self.text)
        self.close()
        self.root = xml.etree.ElementTree.fromstring(self.text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href", "xlink:href", "srcset", "action") and not value.startswith("#"):
                self.outside.append(value)
            if name.startswith("on"):
                self.outside.append(name)

    def handle_data(self, data):
        self.words.append(data)

    @property
    def visible(self):
        return re.sub(r"\s+", " ", " ".join(self.words))

    def check(self, test):
        test.assertEqual(self.outside, [])
        test.assertNotIn("@import", self.text)
        test.assertNotRegex(self.text, r"url\((?!#)")
        for tag in ("script", "link", "img", "iframe", "object", "embed", "form"):
            test.assertNotIn(tag, self.tags)
        test.assertEqual(len(self.ids), len(set(self.ids)), "ids are unique in a page")
        references = set(re.findall(r"xlink:href=['\"]#([^'\"]+)", self.text))
        references |= set(re.findall(r"url\(#([^)]+)\)", self.text))
        test.assertLessEqual(references, set(self.ids), "what a plot refers to is in the page")
        test.assertEqual(self.tags.count("html"), 1)
        xhtml = "{http://www.w3.org/1999/xhtml}"
        test.assertEqual(len(self.root.findall(f"{xhtml}head/{xhtml}title")), 1)


def place_programs(folder, **doubles):
    """A PATH on which each program is its test double, a file of this folder."""
    place = pathlib.Path(folder) / "fake-bin"
    place.mkdir(exist_ok=True)
    for program, double in doubles.items():
        (place / program).write_bytes((HERE / double).read_bytes())
        (place / program).chmod(stat.S_IRWXU)
    return f"{place}:{os.environ['PATH']}"


def fake_launcher(folder):
    """A PATH on which `mpirun` is the test double."""
    return place_programs(folder, mpirun="fake_mpirun.py")
