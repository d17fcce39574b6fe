# SPDX-License-Identifier: Apache-2.0
"""What is compared: the model's sizes, the peers, their variants and how each is started."""

import dataclasses
import os
import sys

GIB = 1 << 30

SIZES = {
    "llama-7b": {"hidden": 4096, "intermediate": 11008, "heads": 32, "vocabulary": 32000},
    # Of --check only, which runs no Portolan.
    "tiny": {"hidden": 64, "intermediate": 176, "heads": 4, "vocabulary": 256},
}
BYTES = {"f32": 4, "bf16": 2}

# Way -> its mode of Portolan and whether embedding and head are whole on every rank.
PEERS = {
    "fms_tp": ("tp", True),
    "dtensor_tp": ("tp", False),
    "dtensor_sp": ("sp", False),
    "prepacked_tp": ("tp", False),
    "prepacked_sp": ("sp", False),
}
VARIANTS = ("stock", "tuned")
# For the tuned variants. As shipped, glibc returns activations to the system and takes them back as
# fresh 4 KiB pages in every pass; so it keeps what is freed below 256 MiB and asks for huge pages.
TUNED_ALLOCATOR = ":".join(
    (
        "glibc.malloc.mmap_threshold=268435456",
        "glibc.malloc.trim_threshold=17179869184",
        "glibc.malloc.top_pad=67108864",
        "glibc.malloc.hugetlb=1",
    )
)

# Memory of one rank beside its weights: what PyTorch or MPI keep for each process, and
# activations up to 1024 tokens of the 7B sizes.
PEER_OVERHEAD = {"stock": int(0.75 * GIB), "tuned": int(1.1 * GIB)}
PORTOLAN_OVERHEAD = int(0.4 * GIB)

# Settings that would change how a program under measurement computes. The groups get their own.
CLEARED_PREFIXES = (
    *("OMP_", "GOMP_", "KMP_", "MKL_", "DNNL_", "ONEDNN_", "LIBXSMM_", "KOKKOS_", "OPENBLAS_"),
    *("TORCH_", "PYTORCH_", "ATEN_", "GLOO_", "MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD"),
    *("PORTOLAN_", "PYTHON", "RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_"),
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What all groups of one run have in common."""

    preset: str
    layers: int
    batch: int
    ranks: int
    threads: int
    maximum_length: int
    cores: tuple
    portolan: str
    venv: str

    def cores_of(self, rank):
        return self.cores[rank * self.threads : (rank + 1) * self.threads]


@dataclasses.dataclass(frozen=True)
class Entry:
    """One group of processes: Portolan in a mode, or a peer in a variant."""

    way: str
    mode: str
    dtype: str
    variant: str = ""

    @property
    def name(self):
        return f"{self.way} {self.variant}" if self.variant else f"{self.way} {self.mode}"

    @property
    def is_portolan(self):
        return self.way == "portolan"


def portolan_entries(dtype, modes):
    return [Entry("portolan", mode, dtype) for mode in modes]


def peer_entries(dtype, ways, variants):
    return [
        Entry(way, PEERS[way][0], dtype, variant)
        for way in ways
        for variant in variants
    ]


def estimated_bytes(settings, entry):
    """Memory of all ranks of a group, rather too much than too little."""
    sizes = SIZES[settings.preset]
    hidden = sizes["hidden"]
    tables = 2 * sizes["vocabulary"] * hidden
    layers = settings.layers * (4 * hidden + 3 * sizes["intermediate"]) * hidden
    whole = PEERS[entry.way][1] if not entry.is_portolan else False
    elements = layers + tables * (settings.ranks if whole else 1)
    overhead = PORTOLAN_OVERHEAD if entry.is_portolan else PEER_OVERHEAD[entry.variant]
    return elements * BYTES[entry.dtype] + settings.ranks * overhead


def loading_bytes(settings, entry):
    """What exists for a moment while a peer's group starts: a whole matrix of f32 on each rank."""
    sizes = SIZES[settings.preset]
    largest = max(sizes["vocabulary"], sizes["intermediate"]) * sizes["hidden"]
    return settings.ranks * largest * (4 + BYTES[entry.dtype])


def plain_environment():
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(CLEARED_PREFIXES)
    }


def portolan_command(settings, entry):
    """(arguments, environment): mpirun starts the ranks, and Portolan binds them."""
    environment = plain_environment()
    environment |= {"OMP_NUM_THREADS": str(settings.threads), "OMP_PROC_BIND": "false"}
    if os.geteuid() == 0:
        environment |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    arguments = ["mpirun", "-n", str(settings.ranks), "--bind-to", "none"]
    arguments += [settings.portolan, "--serve", "--preset", settings.preset]
    arguments += ["--layers", str(settings.layers), "--batch", str(settings.batch)]
    arguments += ["--mode", entry.mode, "--dtype", entry.dtype]
    arguments += ["--threads", str(settings.threads)]
    arguments += ["--max-seq-len", str(settings.maximum_length)]
    return arguments, environment


def peer_command(settings, entry, rank, rendezvous):
    """(arguments, environment) of one rank."""
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    environment = plain_environment()
    environment |= {"OMP_NUM_THREADS": str(settings.threads), "GLOO_SOCKET_IFNAME": "lo"}
    if entry.variant == "tuned":
        environment["LD_PRELOAD"] = shim_path(settings.venv)
        environment["GLIBC_TUNABLES"] = TUNED_ALLOCATOR
    arguments = [os.path.join(settings.venv, "bin", "python")]
    arguments += [os.path.join(here, "torch_ways", "server.py"), "--way", entry.way]
    arguments += ["--dtype", entry.dtype, "--rank", str(rank), "--ranks", str(settings.ranks)]
    arguments += ["--rendezvous", rendezvous, "--batch", str(settings.batch)]
    arguments += ["--cores", ",".join(str(core) for core in settings.cores_of(rank))]
    arguments += ["--maximum-length", str(settings.maximum_length)]
    arguments += ["--layers", str(settings.layers)]
    for name, value in SIZES[settings.preset].items():
        arguments += [f"--{name}", str(value)]
    return arguments, environment


def shim_path(venv):
    return os.path.join(venv, "lib", "libmkl_intel_path.so")


def rounds(settings, peers, modes, available):
    """Splits the peers into rounds that fit into memory, each beside Portolan's groups."""
    if not peers:
        return []
    dtype = peers[0].dtype
    portolan = portolan_entries(dtype, modes)
    loading = max(loading_bytes(settings, entry) for entry in peers)
    room = available - loading - sum(estimated_bytes(settings, entry) for entry in portolan)
    result, used = [], 0
    for entry in peers:
        size = estimated_bytes(settings, entry)
        if size > room:
            print(
                f"run: {entry.name} and Portolan may need more memory than the"
                f" {available / GIB:.1f} GiB there are",
                file=sys.stderr,
            )
        if not result or used + size > room:
            result.append(list(portolan))
            used = 0
        result[-1].append(entry)
        used += size
    return result
