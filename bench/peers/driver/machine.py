# SPDX-License-Identifier: Apache-2.0
"""Facts about the machine and about how quiet it is."""

import os
import platform
import subprocess


def text_of(path):
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def first_line(arguments, folder=None):
    """What a program says of itself, or None where it is missing or refuses."""
    try:
        result = subprocess.run(
            arguments, cwd=folder, capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = result.stdout.strip().splitlines()
    return lines[0] if result.returncode == 0 and lines else None


def available_memory():
    """Bytes that programs can still take without swapping."""
    for line in text_of("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/meminfo: expected a line MemAvailable, found none")


def busy_seconds():
    """(seconds in which any process kept a core busy, seconds the host kept for others)."""
    fields = [int(value) for value in text_of("/proc/stat").split("\n", 1)[0].split()[1:]]
    user, nice, system, _idle, _waiting, interrupts, soft_interrupts, steal = fields[:8]
    ticks = os.sysconf("SC_CLK_TCK")
    return (user + nice + system + interrupts + soft_interrupts) / ticks, steal / ticks


def facts(settings):
    cpu = {}
    for line in text_of("/proc/cpuinfo").split("\n\n", 1)[0].splitlines():
        name, _, value = line.partition(":")
        cpu[name.strip()] = value.strip()
    features = set(cpu.get("flags", "").split())
    wanted = ("avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16", "amx_tile")
    memory = text_of("/proc/meminfo").split("\n", 1)[0].split()
    here = os.path.dirname(os.path.abspath(__file__))
    build = os.path.dirname(os.path.dirname(os.path.abspath(settings.portolan)))
    return {
        "cpu": cpu.get("model name"),
        "cpu_family": cpu.get("cpu family"),
        "cpu_model": cpu.get("model"),
        "features": [name for name in wanted if name in features],
        "cores": len(settings.cores),
        "memory_bytes": int(memory[1]) * 1024 if len(memory) > 1 else None,
        "kernel": platform.release(),
        "system": next(
            (
                line.partition("=")[2].strip('"')
                for line in text_of("/etc/os-release").splitlines()
                if line.startswith("PRETTY_NAME=")
            ),
            None,
        ),
        "mpirun": first_line(["mpirun", "--version"]),
        "portolan": first_line([os.path.join(build, "apps", "portolan"), "--version"]),
        "commit": first_line(["git", "rev-parse", "HEAD"], here),
    }
