"""Python processes of their own that need not import torch anew: forks of one that has.

A process costs its imports: seconds for torch, milliseconds for a fork. `WarmPython` keeps one
process that has imported torch and nothing else of weight, and answers every call with a fork of
it, which is a process of its own: with its own limits, modules, environment and death.
"""

import atexit
import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_SERVER = """
import json, os, runpy, sys, traceback
import numpy, torch

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
