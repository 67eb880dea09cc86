"""The process in which student code runs: it confines itself, runs cells, calls functions.

It is a script of its own, started by `confine.Worker`, and imports nothing of the course. What it
sends back are outputs and values; it knows neither the tests nor the marks. After `confine` below
it can read the Python installation and its scratch folder, write in the scratch folder, and
nothing else, as far as the operating system lets a process give up rights (`rights` says how far).
"""

import base64
import builtins
import ctypes
import importlib.util
import io
import json
import os
import resource
import signal
import socket
import struct
import sys
import traceback

LARGEST = 64 * 2**20  # bytes of one message
MOST_TEXT = 20_000  # characters of text that a cell may leave in the notebook
MOST_PICTURES = 4 * 2**20  # characters of pictures, in base 64


# --- giving up rights ---------------------------------------------------------------------------

READ, WRITE = 0b1101, 0b1110110010  # execute, read files and folders; write, make and remove
READABLE = ("/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/nix", "/etc")
READABLE += ("/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/sys/devices/system")
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")


def landlock(readable, writable):
    """Forbid all files but these, TCP, and signals to others; return the kernel's version or 0.

    Landlock is Linux's way for an ordinary process to lock itself in (version 5.13 and later).
    """
    if not sys.platform.startswith("linux"):
        return 0
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(444, None, 0, 1)  # landlock_create_ruleset, asking for the version
    if version < 1:
        return 0
    handled = (1 << 13) - 1
    for since, bit in ((2, 13), (3, 14), (5, 15)):  # refer, truncate, ioctl
        handled |= (version >= since) << bit
    rules = struct.pack("QQQ", handled, 3 * (version >= 4), 3 * (version >= 6))
    size = 8 if version < 4 else 16 if version < 6 else 24
    ruleset = libc.syscall(444, rules, size, 0)
    if ruleset < 0:
        return 0
    rights = [(path, READ) for path in readable]
    rights += [(path, (READ | WRITE | 3 << 13) & handled) for path in writable]
    for path, allowed in rights:
        try:
            beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        if not os.path.isdir(path):
            allowed &= 0b111 | 1 << 14  # what files have
        libc.syscall(445, ruleset, 1, struct.pack("=Qi", allowed & handled, beneath), 0)
        os.close(beneath)
    libc.prctl(38, 1, 0, 0, 0)  # no new privileges
    done = libc.syscall(446, ruleset, 0) == 0
    os.close(ruleset)
    return version if done else 0


def forbid(folders):
    """Make Python itself refuse to open files in some folders: the second-best fence."""
    folders = tuple(os.path.realpath(folder) + os.sep for folder in folders)
    realpath, fsdecode = os.path.realpath, os.fsdecode

    def audit(event, arguments):
        if event in ("open", "os.listdir", "os.scandir", "shutil.copyfile") and arguments:
            path = arguments[0]
            inside = isinstance(path, (str, bytes)) and realpath(fsdecode(path)).startswith(folders)
            if inside:
                raise PermissionError(13, "Permission denied", path)

    sys.addaudithook(audit)


def capabilities(mask):
    """Keep these of root's powers, by Linux's numbers, and give up the others for good."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, low = struct.pack("Ii", 0x20080522, 0), struct.pack("III", mask, mask, 0)
    libc.capset(header, low + struct.pack("III", 0, 0, 0))


def become(user):
    """Turn from root into a user without rights, name or network."""
    linux = sys.platform.startswith("linux")
    if linux:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.unshare(0x40000000 | 0x08000000)  # no network, no shared memory of others
        libc.prctl(8, 1, 0, 0, 0)  # keep the powers until we say which
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
    if linux:
        libc.prctl(1, signal.SIGKILL, 0, 0, 0)  # end with the parent: a change of user forgets it
        readable = os.access(os.__file__, os.R_OK) and os.access(sys.prefix, os.X_OK)
        # Python below a closed folder such as /root: read everything that Landlock lets through
        capabilities(0 if readable else 1 << 2)


def confine(settings):
    """Give up what student code does not need; return what was given up."""
    if sys.platform.startswith("linux"):
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(1, signal.SIGKILL, 0, 0, 0)  # end with the parent
    limits = settings["limits"]
    bounds = {
        "RLIMIT_AS": limits["memory_mb"] * 2**20,
        "RLIMIT_CPU": limits["total_seconds"] + 5,
        "RLIMIT_FSIZE": limits["file_mb"] * 2**20,
        "RLIMIT_NPROC": settings["processes"],
        "RLIMIT_NOFILE": 256,
        "RLIMIT_CORE": 0,
    }
    for name, bound in bounds.items():
        if hasattr(resource, name):
            hard = resource.getrlimit(getattr(resource, name))[1]
            bound = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
            try:
                resource.setrlimit(getattr(resource, name), (bound, bound))
            except (OSError, ValueError):  # macOS knows RLIMIT_AS and refuses it
                continue
    user = settings["user"]
    if user:
        become(user)
        if sys.platform.startswith("linux") and os.getppid() != settings["parent"]:
            os._exit(1)
    package = importlib.util.find_spec("dmflib")
    readable = [sys.prefix, sys.base_prefix, *READABLE]
    readable += [os.path.dirname(package.origin)] if package else []
    readable += [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    for secret in settings["forbidden"]:
        for path in readable:
            if (os.path.realpath(secret) + os.sep).startswith(os.path.realpath(path) + os.sep):
                sys.exit(f"{secret} lies in {path}, which student code has to read: move it")
    version = landlock(readable, [os.getcwd(), *DEVICES])
    if not version:
        forbid(settings["forbidden"])
        if user:
            capabilities(0)
    return {"landlock": version, "user": user}


# --- values on the line -------------------------------------------------------------------------


def encode(value, depth=0):
    """Write a value as JSON allows; what is no plain data becomes its description."""
    import numpy as np

    if depth > 20:
        return {"other": "data nested too deeply"}
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        value = np.ascontiguousarray(value).astype(value.dtype.newbyteorder("="))
        data = base64.b64encode(value.tobytes()).decode()
        return {"array": [value.dtype.str, list(value.shape), data]}
    if isinstance(value, (list, tuple)):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [encode(entry, depth + 1) for entry in value]}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {"dict": {key: encode(entry, depth + 1) for key, entry in value.items()}}
    return {"other": f"an object of type {type(value).__name__}"}


class Unusable:
    """Stands for a returned object that is no plain data."""

    def __init__(self, text):
        self.text = text

    def __repr__(self):
        return self.text


def decode(value):
    """Read what `encode` wrote, or raise; it runs nobody's code."""
    import numpy as np

    if not isinstance(value, dict):
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        raise ValueError("no value")
    ((kind, content),) = value.items()
    if kind == "complex":
        return complex(*map(float, content))
    if kind == "array":
        dtype, shape, data = content
        dtype = np.dtype(str(dtype))
        if dtype.kind not in "biufc":
            raise ValueError("no numbers")
        entries = np.frombuffer(base64.b64decode(data), dtype)
        return entries.reshape([int(length) for length in shape]).copy()
    if kind in ("list", "tuple"):
        return (list if kind == "list" else tuple)(decode(entry) for entry in content)
    if kind == "dict":
        return {str(key): decode(entry) for key, entry in content.items()}
    return Unusable(str(content)[:300])


def send(line, message):
    """Send one message: its length, then JSON."""
    data = json.dumps(message).encode()
    if len(data) > LARGEST:
        data = json.dumps({"value": {"other": "more data than can be looked at"}}).encode()
    line.sendall(struct.pack("<Q", len(data)) + data)


def receive(line):
    """Receive one message; EOFError at the end of the line."""
    size = struct.unpack("<Q", _exactly(line, 8))[0]
    return json.loads(_exactly(line, size))


def _exactly(line, size):
    data = bytearray()
    while len(data) < size:
        part = line.recv(min(size - len(data), 2**20))
        if not part:
            raise EOFError
        data += part
    return bytes(data)


# --- cells and calls ----------------------------------------------------------------------------


class Outputs(list):
    """What a cell leaves behind, cut at a limit."""

    def __init__(self):
        super().__init__()
        self.text, self.pictures = 0, 0

    def stream(self, name, text):
        room = MOST_TEXT - self.text
        if room <= 0:
            return
        if len(text) > room:
            text = text[:room] + "\n... the rest of the output is left out ...\n"
        self.text += len(text)
        if self and self[-1].get("name") == name:
            self[-1]["text"] += text
        else:
            self.append({"output_type": "stream", "name": name, "text": text})

    def data(self, kind, data):
        """Keep plain text and pictures; HTML and scripts of strangers are left out."""
        kept = {"text/plain": str(data.get("text/plain", ""))[:2000]}
        picture = data.get("image/png")
        if isinstance(picture, bytes):
            picture = base64.b64encode(picture).decode()
        if picture and self.pictures + len(picture) < MOST_PICTURES:
            self.pictures += len(picture)
            kept["image/png"] = picture
        self.text += len(kept["text/plain"])
        if self.text < MOST_TEXT or "image/png" in kept:
            entry = {"output_type": kind, "data": kept, "metadata": {}}
            self.append(entry | ({"execution_count": None} if kind == "execute_result" else {}))

    def error(self, name, value, lines):
        lines = [str(line)[:2000] for line in lines][-60:]
        entry = {"ename": str(name)[:200], "evalue": str(value)[:2000], "traceback": lines}
        self.append({"output_type": "error"} | entry)


class Stream(io.TextIOBase):
    """Standard output or error of a cell."""

    encoding = "utf-8"

    def __init__(self, name):
        self.label, self.outputs = name, Outputs()

    def write(self, text):
        self.outputs.stream(self.label, text)
        return len(text)

    def writable(self):
        return True


def make_shell(streams):
    """An IPython without terminal, history or files, whose output goes into a list."""
    from IPython.core.displayhook import DisplayHook
    from IPython.core.displaypub import DisplayPublisher
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets import Type
    from traitlets.config import Config

    class Hook(DisplayHook):
        def write_format_data(self, data, metadata=None):
            streams[0].outputs.data("execute_result", data)

        def write_output_prompt(self):
            pass

        def finish_displayhook(self):
            pass

    class Publisher(DisplayPublisher):
        def publish(self, data, *args, **kwargs):
            streams[0].outputs.data("display_data", data)

    class Shell(InteractiveShell):
        displayhook_class = Type(Hook)
        display_pub_class = Type(Publisher)

        def _showtraceback(self, etype, evalue, stb):
            streams[0].outputs.error(getattr(etype, "__name__", etype), evalue, stb)

        def enable_gui(self, gui=None):
            pass

    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "nocolor"
    config.InteractiveShell.cache_size = 0
    return Shell.instance(config=config)


def run_cell(shell, streams, source):
    """Run a cell; return its outputs and whether it raised."""
    outputs = Outputs()
    for stream in streams:
        stream.outputs = outputs
    sys.stdout, sys.stderr = streams
    try:
        result = shell.run_cell(source, store_history=False)
        failed = not result.success
        if "matplotlib.pyplot" in sys.modules:
            from matplotlib_inline.backend_inline import flush_figures

            flush_figures()
    except BaseException as error:
        outputs.error(type(error).__name__, error, traceback.format_exception_only(error))
        failed = True
    return {"outputs": list(outputs), "failed": failed}


def call(shell, name, args, kwargs):
    """Call a function that the cells have defined; return its value or what it raised."""
    function = shell.user_ns.get(name, None)
    if not callable(function):
        return {"missing": True}
    try:
        return {"value": encode(function(*decode(args), **decode(kwargs)))}
    except NotImplementedError:
        return {"unwritten": True}
    except BaseException as error:
        line = next(
            (
                f.lineno
                for f in reversed(traceback.extract_tb(error.__traceback__))
                if f.name == name
            ),
            None,
        )
        where = f" (line {line} of its cell)" if line else ""
        return {"raised": f"{type(error).__name__}: {error}"[:1000] + where}


def main():
    line = socket.socket(fileno=int(sys.argv[1]))
    settings = receive(line)
    rights = confine(settings)
    me = os.getpid()
    streams = Stream("stdout"), Stream("stderr")
    sys.path.insert(0, os.getcwd())
    shell = make_shell(streams)
    builtins.input = None  # nobody is there to answer
    send(line, {"ready": rights})
    while True:
        request = receive(line)
        if request["do"] == "cell":
            reply = run_cell(shell, streams, request["source"])
        else:
            for stream in streams:
                stream.outputs = Outputs()
            reply = call(shell, request["name"], request["args"], request["kwargs"])
        if os.getpid() != me:  # the child of a fork in student code has no business here
            os._exit(0)
        send(line, reply | {"number": request["number"]})


if __name__ == "__main__":
    try:
        main()
    except EOFError:
        os._exit(0)
