"""The trusted end of the line to the process in which student code runs.

`Worker` starts `worker.py`, asks it to run cells and to call functions, and ends it, with
everything that it has started, when it is slow, dead or done. Replies are read as plain data and
never as code, so the worst that student code can send is a wrong value.
"""

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from course.worker import LARGEST, decode, encode

SCRIPT = Path(__file__).with_name("worker.py")
FIRST_USER = 2_000_000  # numbers from here on belong to no account


class EndedError(Exception):
    """The worker is gone or did not answer; the message says why, for the student."""


class StartError(Exception):
    """No worker could be started: a fault of the installation."""


def adopt_orphans():
    """Let processes whose parent ends become children of this one, so that none escapes."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)


def end_children():
    """Kill every process below this one, however it has tried to hide; return how many."""
    ended = 0
    for _ in range(200):
        children = psutil.Process().children(recursive=True)
        alive = []
        for child in children:
            with contextlib.suppress(psutil.Error):
                if child.status() != psutil.STATUS_ZOMBIE:
                    child.suspend()  # first stop them all, so that none can fork any more
                    alive.append(child)
        for child in alive:
            with contextlib.suppress(psutil.Error):
                child.kill()
        ended += len(alive)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if not children:
            break
        time.sleep(0.01)
    return ended


class Worker:
    """One process for one notebook.

    Call `adopt_orphans` first, in a process that has no other children.

    Parameters
    ----------
    limits : dict
        See `generate.LIMITS`.
    files : dict of str
        Names and texts of files in the scratch folder, which is the worker's home and working
        directory.
    forbidden : list of path
        Folders with secrets, for systems on which nothing better than refusing to open them can
        be had.
    """

    def __init__(self, limits, files=(), forbidden=()):
        self.limits, self._number = limits, 0
        self.spent = 0.0
        self._scratch = Path(tempfile.mkdtemp(prefix="grading-"))
        for name, text in dict(files).items():
            (self._scratch / name).write_text(text, encoding="utf-8")
        user = FIRST_USER + os.getpid() if os.geteuid() == 0 else 0
        if user:
            for path in (self._scratch, *self._scratch.iterdir()):
                os.chown(path, user, user)
        self._line, theirs = socket.socketpair()
        environment = {
            "HOME": str(self._scratch),
            "TMPDIR": str(self._scratch),
            "MPLCONFIGDIR": str(self._scratch),
            "IPYTHONDIR": str(self._scratch),
            "MPLBACKEND": "module://matplotlib_inline.backend_inline",
            "PATH": "/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "LOGNAME": "student",
            "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(SCRIPT), str(theirs.fileno())],
            cwd=self._scratch,
            env=environment,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        theirs.close()
        settings = {
            "limits": limits,
            "user": user,
            "parent": os.getpid(),
            "forbidden": [str(path) for path in forbidden],
            "processes": limits["processes"] + (0 if user else _running()),
        }
        try:
            self._send(settings)
            self.rights = self._receive(30, 120)["ready"]
        except (EndedError, KeyError) as failure:
            self._process.kill()
            words = self._process.stderr.read().decode(errors="replace")[-500:]
            self.close()
            raise StartError(
                f"the process for student code does not start: {failure} {words}"
            ) from None
        self._process.stderr.close()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def close(self):
        """End the worker and all that it has started, and remove its files."""
        children = psutil.Process().children(recursive=True)
        self.left_behind = sum(child.pid != self._process.pid for child in children)
        with contextlib.suppress(OSError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        end_children()
        self._line.close()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def cell(self, source):
        """Run a cell; return its outputs and whether it raised, or raise `EndedError`."""
        return self._ask({"do": "cell", "source": source}, self.limits["cell_seconds"])

    def call(self, name, *args, **kwargs):
        """Call a function of the notebook; return the worker's reply, or raise `EndedError`."""
        request = {"do": "call", "name": name, "args": encode(args), "kwargs": encode(kwargs)}
        reply = self._ask(request, self.limits["call_seconds"])
        if "value" in reply:
            try:
                return {"value": decode(reply["value"])}
            except Exception:
                raise EndedError("the notebook wrote on the grader's line") from None
        return reply

    def _ask(self, request, seconds):
        self._number += 1
        seconds = min(seconds, self.limits["total_seconds"] - self.spent)
        if seconds <= 0:
            raise EndedError(f"all {self.limits['total_seconds']} s of the notebook were used up")
        self._send(request | {"number": self._number})
        start = self._cpu()
        reply = self._receive(seconds, 2 * seconds + 10)
        self.spent += max(0.0, self._cpu() - start)
        if not isinstance(reply, dict) or reply.get("number") != self._number:
            raise EndedError("the notebook wrote on the grader's line")
        return reply

    def _send(self, message):
        data = json.dumps(message).encode()
        self._line.settimeout(20)
        try:
            self._line.sendall(struct.pack("<Q", len(data)) + data)
        except OSError:
            raise EndedError(self._how()) from None

    def _cpu(self):
        try:
            times = psutil.Process(self._process.pid).cpu_times()
        except psutil.Error:
            return 0.0
        return times.user + times.system + times.children_user + times.children_system

    def _receive(self, seconds, wall):
        """A message, within so much processor time, or so much time if the processor is idle."""
        begun, start = time.monotonic(), self._cpu()
        data, size = bytearray(), None
        while size is None or len(data) < size:
            if select.select([self._line], [], [], 0.05)[0]:
                try:
                    part = self._line.recv(2**20)
                except OSError:
                    part = b""
                if not part:
                    raise EndedError(self._how())
                data += part
                if size is None and len(data) >= 8:
                    size = struct.unpack("<Q", data[:8])[0]
                    del data[:8]
                    if size > LARGEST:
                        raise EndedError("the notebook wrote on the grader's line")
            elif self._process.poll() is not None:
                raise EndedError(self._how())
            if self._cpu() - start > seconds or time.monotonic() - begun > wall:
                raise EndedError(f"it did not come back within {seconds:g} s and was stopped")
        try:
            return json.loads(bytes(data))
        except (ValueError, RecursionError):
            raise EndedError("the notebook wrote on the grader's line") from None

    def _how(self):
        """How the process ended."""
        try:
            status = self._process.wait(5)
        except subprocess.TimeoutExpired:
            return "it closed the grader's line"
        if status < 0:
            name = signal.Signals(-status).name
            hint = {"SIGXCPU": ": too much processor time", "SIGSEGV": ": a crash"}.get(name, "")
            return f"it ended its own process (signal {name}{hint})"
        return f"it ended its own process (exit status {status})"


def _running():
    """Processes and threads of this user, which count against the limit where it cannot change."""
    count = 0
    for process in psutil.process_iter(["uids", "num_threads"]):
        uids = process.info["uids"]
        if uids and uids.real == os.getuid():
            count += process.info["num_threads"] or 1
    return count
