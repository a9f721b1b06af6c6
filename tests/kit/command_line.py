"""The command line, called in this process: what it says and returns, for a hundredth of a process's time."""

import gc
import io
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, chdir, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from subprocess import CompletedProcess
from unittest.mock import patch

import structlog

import runstore.cli.main as cli
from tests.kit.process import environment


def call_command(*arguments: str, folder: Path, **variables: str) -> "CompletedProcess[str]":
    """As `run_command`, but without its logs. Not for what goes on, as `serve` does."""
    output, errors = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    with ExitStack() as stack:
        stack.enter_context(patch("runstore.logs.configure_logs"))
        stack.enter_context(structlog.testing.capture_logs())
        stack.enter_context(patch.dict(os.environ, environment() | variables, clear=True))
        stack.enter_context(patch.object(sys, "argv", ["runstore", *arguments]))
        stack.enter_context(chdir(folder))
        stack.enter_context(own_modules(folder))
        stack.enter_context(redirect_stdout(output))
        stack.enter_context(redirect_stderr(errors))
        try:
            cli.main()
            code = 0
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else int(left.code is not None)
    said = [stream.buffer.getvalue().decode() for stream in (output, errors)]
    return CompletedProcess(arguments, code, *said)


@contextmanager
def own_modules(folder: Path) -> Iterator[None]:
    """Afterwards forget the modules imported from `folder`, and the process-wide settings of a server."""
    path, interval = sys.path[:], sys.getswitchinterval()
    try:
        yield
    finally:
        sys.path[:] = path
        sys.setswitchinterval(interval)
        gc.unfreeze()
        for name, module in sys.modules.copy().items():
            if (file := getattr(module, "__file__", None)) and Path(file).is_relative_to(folder):
                del sys.modules[name]
