# SPDX-License-Identifier: Apache-2.0
"""Groups of processes that answer one JSON line per command and sleep in between."""

import json
import os
import selectors
import signal
import subprocess
import tempfile
import time

from driver import ways

START_SECONDS = 600
ANSWER_SECONDS = 600
LEAVE_SECONDS = 20


class GroupError(RuntimeError):
    """A group could not be started, ended early or answered what it should not."""


class Process:
    """A child in a process group of its own, so that the terminal's Ctrl-C is the driver's alone.

    It stays in the driver's session: Linux may share out processor time by sessions first, and a
    way with one session for all ranks would then get less of a busy machine than one with several.
    """

    def __init__(self, arguments, environment, log):
        self.log = log
        self.buffer = b""
        try:
            self.child = subprocess.Popen(
                arguments,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                preexec_fn=os.setpgrp,
                bufsize=0,
            )
        except OSError as error:
            raise GroupError(f"{arguments[0]}: cannot be started: {error.strerror}") from None
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.child.stdout, selectors.EVENT_READ)

    def send(self, line):
        try:
            self.child.stdin.write(line.encode() + b"\n")
        except OSError:
            raise GroupError("ended early") from None

    def answer(self, seconds):
        """The next line of JSON; other lines are what libraries print, and go to the log."""
        deadline = time.monotonic() + seconds
        while True:
            line, found, rest = self.buffer.partition(b"\n")
            if found:
                self.buffer = rest
                if line.startswith(b"{"):
                    return json.loads(line)
                self.log.write(line + b"\n")
                continue
            if not self.selector.select(max(0.0, deadline - time.monotonic())):
                raise GroupError(f"no answer within {seconds} s")
            piece = os.read(self.child.stdout.fileno(), 1 << 16)
            if not piece:
                raise GroupError("ended early")
            self.buffer += piece

    def members(self):
        """This child and its descendants that are alive."""
        parents = parents_of_all()
        found = [self.child.pid] if self.child.pid in parents else []
        for process in found:
            found += [child for child, parent in parents.items() if parent == process]
        return found

    def stop(self, deadline):
        """Politely, then firmly."""
        try:
            self.child.stdin.write(b"quit\n")
            self.child.stdin.close()
        except OSError:
            pass
        self.wait(deadline)
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self.child.poll() is not None:
                break
            for process in self.members():
                try:
                    os.kill(process, number)
                except ProcessLookupError:
                    pass
            self.wait(time.monotonic() + 5)
        self.selector.close()
        self.child.stdout.close()

    def wait(self, deadline):
        try:
            self.child.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            pass


def parents_of_all():
    """Process -> its parent, of all that are alive."""
    parents = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", encoding="ascii", errors="replace") as file:
                state, parent = file.read().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if state != "Z":
            parents[int(name)] = int(parent)
    return parents


class Group:
    """Context manager: Portolan under mpirun, or the ranks of one peer."""

    def __init__(self, settings, entry):
        self.settings = settings
        self.entry = entry
        self.processes = []
        self.members = []
        self.ready = []
        self.folder = tempfile.TemporaryDirectory(prefix="portolan-peers-")
        self.log = open(os.path.join(self.folder.name, "log"), "w+b", buffering=0)

    def commands(self):
        if self.entry.is_portolan:
            return [ways.portolan_command(self.settings, self.entry)]
        rendezvous = os.path.join(self.folder.name, "rendezvous")
        return [
            ways.peer_command(self.settings, self.entry, rank, rendezvous)
            for rank in range(self.settings.ranks)
        ]

    def __enter__(self):
        try:
            for arguments, environment in self.commands():
                self.processes.append(Process(arguments, environment, self.log))
            self.ready = [
                self.answer_of(process, "start", START_SECONDS) for process in self.processes
            ]
            if not all(answer.get("ready") for answer in self.ready):
                raise GroupError(f"{self.entry.name}: expected a ready line, found {self.ready}")
            self.members = [pid for process in self.processes for pid in process.members()]
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.stop(time.monotonic() + LEAVE_SECONDS)
        self.log.close()
        self.folder.cleanup()

    def ask(self, command):
        """Sends the command to every process; each one's answer."""
        for process in self.processes:
            try:
                process.send(command)
            except GroupError as error:
                raise self.explained(error, command) from None
        return [self.answer_of(process, command, ANSWER_SECONDS) for process in self.processes]

    def answer_of(self, process, command, seconds):
        try:
            return process.answer(seconds)
        except (GroupError, json.JSONDecodeError) as error:
            raise self.explained(error, command) from None

    def explained(self, error, command):
        """With the line of the group's log that tells the cause, as far as can be guessed."""
        self.log.seek(0)
        lines = self.log.read().decode(errors="replace").splitlines()
        lines = [line.strip() for line in lines if any(letter.isalnum() for letter in line)]
        errors = [line for line in lines if "error" in line.lower()]
        causes = errors[-1:] or lines[-1:]
        cause = f": {causes[0]}" if causes else ""
        return GroupError(f"{self.entry.name} ({self.entry.dtype}), at '{command}': {error}{cause}")

    def seconds(self, command):
        """Wall time of a forward or a floor, the slowest rank's."""
        answers = self.ask(command)
        try:
            return max(float(answer["seconds"]) for answer in answers)
        except (KeyError, TypeError, ValueError):
            raise GroupError(
                f"{self.entry.name}, at '{command}': expected seconds, found {answers}"
            ) from None

    def cpu_seconds(self):
        """Processor time that all threads of the group have used so far."""
        total = 0
        for process in self.members:
            try:
                threads = os.listdir(f"/proc/{process}/task")
            except OSError:
                continue
            for thread in threads:
                try:
                    with open(f"/proc/{process}/task/{thread}/schedstat", encoding="ascii") as file:
                        total += int(file.read().split()[0])
                except (OSError, IndexError):
                    pass
        return total / 1e9

    def binding(self):
        """Cores that each process's main thread may use, launchers left out."""
        found = []
        for process in self.members:
            try:
                with open(f"/proc/{process}/status", encoding="ascii", errors="replace") as file:
                    fields = dict(line.split(":\t", 1) for line in file if ":\t" in line)
            except OSError:
                continue
            if not fields["Name"].startswith(("mpirun", "mpiexec", "orterun", "hydra", "srun")):
                found.append(fields["Cpus_allowed_list"].strip())
        return sorted(found)
