"""The program of the process that runs submitted code. It does not import runstore.

It reads `run.py` and `input.json` from its working directory. It writes text to standard output unchanged,
and events and the result as JSON text sequences (RFC 7464).
"""

import asyncio
import ctypes
import inspect
import json
import sys
from types import ModuleType
from typing import Any

RECORD = "\x1e"
_PR_SET_DUMPABLE = 4


def main() -> None:
    """Run the code, and its function `run` if it has one."""
    sys.stdout.reconfigure(line_buffering=True, errors="replace")  # type: ignore[union-attr]
    if sys.platform == "linux":
        # Keeps another run's code, which may have the same user, from inspecting this process.
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0)
    with open("run.py", encoding="utf-8") as source, open("input.json", "rb") as given:
        code, input = source.read(), json.load(given)
    module = sys.modules["__main__"] = ModuleType("__main__")
    module.__dict__.update(__file__="run.py", input=input, emit=emit)
    sys.argv = ["run.py"]
    exec(compile(code, "run.py", "exec"), module.__dict__)  # noqa: S102  # running this code is the purpose
    run = module.__dict__.get("run")
    if inspect.iscoroutinefunction(run):
        _write({"result": asyncio.run(run(input, emit))})


def emit(item: Any) -> None:
    """Write a piece of text, or record an event: `{"type": "custom.…", "data": …}`."""
    _write({"event": item})


def _write(record: dict[str, Any]) -> None:
    sys.stdout.write(f"{RECORD}{json.dumps(record, allow_nan=False)}\n")


if __name__ == "__main__":
    main()
