#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks that sources include only what the graph of folders allows.

Usage: include_graph.py ROOT

Every `#include "..."` must name a file from the root of the repository, in a folder that the
including folder may know. Headers of device and message-passing libraries may be included only in
the folders that exist for them. Each source also has to begin with its licence and each header to
guard itself. Prints one line per violation and exits 1 if there is any.
"""

import pathlib
import re
import sys

SUFFIXES = {".hpp", ".h", ".cpp", ".cu", ".cuh", ".in"}
LICENCE = "SPDX-License-Identifier: Apache-2.0"
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')

# What a component may include besides itself; "<D>" is the leaf's own name. Components that bring
# the leaves together are listed under ANYTHING.
GRAPH = {
    "core": [],
    "backends/<D>": ["core", "backends/portable", "backends/compat"],
    "attention": ["core"],
    "attention/<D>": ["core", "attention", "backends/<D>", "backends/compat"],
    "parallel": ["core", "attention"],
    # Ranks of one node share memory inside whatever transport joins the nodes.
    "parallel/transport/<D>": ["core", "attention", "parallel", "parallel/transport/shared"],
    "models": ["core", "attention", "parallel"],
    "training": ["core", "attention", "parallel", "models"],
    "apps": ["core", "attention", "parallel", "models", "training", "runtime"],
    "tests/reference": [],
}
ANYTHING = ["runtime", "tests", "bench"]

# Headers of libraries that only some components may know, as (pattern, components); a component
# stands for everything below it.
LIBRARIES = [
    (r"Kokkos", ["backends", "attention/portable", "runtime", "tests", "bench"]),
    (r"mpi(-ext)?\.h$", ["parallel/transport", "runtime", "tests", "bench"]),
    (
        r"(oneapi/)?dnnl",
        ["backends/compat", "backends/openmp", "attention/openmp", "runtime", "tests", "bench"],
    ),
    (r"libxsmm", ["backends/openmp", "attention/openmp", "runtime", "tests", "bench"]),
    (r"hwy/", ["backends/openmp", "attention/openmp", "tests", "bench"]),
    (r"omp\.h$", ["backends", "attention/openmp", "runtime", "tests", "bench"]),
    (r"\w*mmintrin\.h$|immintrin\.h$|arm_neon\.h$", ["backends", "attention/openmp"]),
    (
        r"cuda|cublas|curand|nvtx|nvToolsExt|cooperative_groups|cutlass|cute/",
        ["backends/cuda", "attention/cuda", "parallel/transport/nccl", "tests/cuda", "bench/cuda"],
    ),
    (r"nccl", ["parallel/transport/nccl"]),
]


def component_of(path):
    """(component in GRAPH's terms, the leaf's own name or "") of a path below the root."""
    parts = pathlib.PurePosixPath(path).parts
    if parts[0] in ("backends", "attention") and len(parts) > 2:
        return parts[0] + "/<D>", parts[1]
    if parts[:2] == ("parallel", "transport") and len(parts) > 3:
        return "parallel/transport/<D>", parts[2]
    if parts[:2] == ("tests", "reference"):
        return "tests/reference", ""
    return parts[0], ""


def may_include(source, target):
    component, leaf = component_of(source)
    wanted, wanted_leaf = component_of(target)
    if component in ANYTHING:
        return component in ("tests", "bench") or wanted not in ("apps", "tests", "bench")
    if component not in GRAPH:
        return False
    concrete = wanted.replace("<D>", wanted_leaf)
    if concrete == component.replace("<D>", leaf):
        return True
    return concrete in [allowed.replace("<D>", leaf) for allowed in GRAPH[component]]


def violations_of(root, path):
    text = (root / path).read_text(encoding="utf-8")
    lines = text.splitlines()
    if LICENCE not in "\n".join(lines[:2]):
        yield f"{path}: the first line does not name the licence ({LICENCE})"
    # Highway includes some headers once for each instruction set, behind a guard that toggles.
    guarded = "\n#pragma once\n" in text or "HWY_TARGET_TOGGLE" in text
    if path.endswith((".hpp", ".h", ".cuh")) and not guarded:
        yield f"{path}: no #pragma once"
    for number, line in enumerate(lines, start=1):
        match = INCLUDE.match(line)
        if not match:
            continue
        quote, header = match.groups()
        where = f"{path}:{number}"
        if quote == '"' and (root / header).is_file():
            if not may_include(path, header):
                yield f"{where}: {header} may not be included here"
            continue
        if quote == '"' and (root / path).parent.joinpath(header).is_file():
            yield f"{where}: {header} is not named from the repository's root"
            continue
        for pattern, folders in LIBRARIES:
            if re.match(pattern, header) and not any(
                path.startswith(folder + "/") for folder in folders
            ):
                yield f"{where}: <{header}> may be included only in {', '.join(folders)}"


def sources_of(root):
    top_folders = {name.split("/")[0] for name in GRAPH} | set(ANYTHING)
    for folder in sorted(top_folders):
        for path in sorted((root / folder).rglob("*")):
            name = path.relative_to(root).as_posix()
            if path.is_file() and path.suffix in SUFFIXES and "/violations/" not in name:
                yield name


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    root = pathlib.Path(sys.argv[1])
    sources = list(sources_of(root))
    violations = [line for path in sources for line in violations_of(root, path)]
    for line in violations:
        print(line)
    print(f"{len(sources)} sources, {len(violations)} violations")
    sys.exit(1 if violations or not sources else 0)


if __name__ == "__main__":
    main()
