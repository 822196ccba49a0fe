"""Python processes of their own that need not import torch anew: forks of one that has.

The imports of torch take a process seconds, a fork takes milliseconds. One process, which has
imported torch and nothing else of weight, is kept beside the tests; every call is answered by a
fork of it, with limits, modules, an environment and a death of its own.
"""

import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

_SERVER = """
import json, os, runpy, sys, traceback
import torch

sys.path[0] = sys.argv[1]

def child(asked):
    os.setsid()
    for number, path in ((1, asked["stdout"]), (2, asked["stderr"])):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.clear()
    os.environ.update(asked["env"])
    os.chdir(asked["cwd"])
    extra = asked["env"].get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [one for one in extra if one and one not in sys.path]
    how, what, *rest = asked["arguments"]
    code = 0
    try:
        sys.argv = [{"-c": "-c"}.get(how, what), *rest]
        if how == "-c":
            exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})
        else:
            runpy.run_module(what, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

answers = os.fdopen(os.dup(1), "w", buffering=1)
answers.write("warm\\n")
for line in sys.stdin:
    asked = json.loads(line)
    pid = os.fork()
    if pid == 0:
        child(asked)
    answers.write(f"{pid}\\n")
    _, status = os.waitpid(pid, 0)
    answers.write(f"{os.waitstatus_to_exitcode(status)}\\n")
"""


@functools.cache
def _server(owner: int) -> subprocess.Popen[str]:
    """Start the process that is forked; it ends with the tests, when its input closes."""
    server = subprocess.Popen(
        [sys.executable, "-c", _SERVER, str(Path(__file__).parents[1])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    assert server.stdout is not None
    assert server.stdout.readline() == "warm\n"
    return server


def python(
    *arguments: str,
    env: Mapping[str, str] | None = None,
    while_running: Callable[[int, Path], None] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run ``python -c CODE ...`` or ``python -m MODULE ...`` in a fork of the warm process.

    Parameters
    ----------
    arguments
        As the interpreter would get them.
    env
        The environment, in place of this process's own. What torch and numpy read when they are
        imported has been read before.
    while_running
        Called with the id of the process, and with the file that its output goes to.
    """
    if not hasattr(os, "fork"):
        return subprocess.run([sys.executable, *arguments], env=env, capture_output=True, text=True)
    server = _server(os.getpid())
    assert server.stdin is not None
    assert server.stdout is not None
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        asked = {
            "arguments": arguments,
            "env": dict(os.environ if env is None else env),
            "cwd": os.getcwd(),
            "stdout": str(out),
            "stderr": str(err),
        }
        print(json.dumps(asked), file=server.stdin, flush=True)
        pid = int(server.stdout.readline())
        try:
            if while_running is not None:
                while_running(pid, out)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            server.stdout.readline()
            raise
        code = int(server.stdout.readline())
        # a process may be killed before it opens them
        said = [path.read_text() if path.exists() else "" for path in (out, err)]
        return subprocess.CompletedProcess(arguments, code, *said)
