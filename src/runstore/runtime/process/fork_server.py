"""The process from which those that drive runs are forked: it imports strands once, and does nothing else.

    server ─── fork server ─── keeper ─── agent ─── processes that the agent starts
       └──── control ───────────┘           │
       └──── events ────────────────────────┘

Each process that drives agents has a keeper, whether it is one agent's own or shared. The keeper waits for
its end, or for the end of its control socket, which closes when the server wants the process gone or has
itself ended in any way. Then the keeper kills the process and all its descendants; as their reaper it also
finds those that left its process group. It sends the exit status to the server, and removes the temporary
directory of an agent's own process with its contents.
"""

import ctypes
import gc
import os
import selectors
import signal
import socket
import sys
import tempfile
import traceback
from contextlib import suppress
from importlib import import_module
from typing import NoReturn

ONE_RUN, MANY_RUNS = b"1", b"*"  # requests: for an agent's own process, and for one that agents share
WORK = {ONE_RUN: "runstore.runtime.process.child", MANY_RUNS: "runstore.runtime.process.driver"}
PRELOADED = (
    *WORK.values(),
    "runstore.runtime.strands.agent",
    "runstore.runtime.strands.models",
)
READY, FAILED = b"+", b"-"  # the fork server's answers: once at its start, then to each request
STATUS_BYTES = 4  # bytes of a keeper's message: the agent's exit code, or minus the signal that ended it

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36


def main(fd: int) -> None:
    """Fork an agent and its keeper for each request, until the requests end.

    Args:
        fd: a socket. One byte with two sockets (control, events) requests a process of the byte's kind; end
            of file ends this process.
    """
    requests = socket.socket(fileno=fd)
    hide()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which shuts this process down
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, lambda *_: _reap())
    for module in PRELOADED:
        import_module(module)
    gc.collect()
    gc.freeze()  # otherwise the first collection in each process would copy all shared memory
    with suppress(ConnectionError):  # the server is gone
        requests.sendall(READY)
        while True:
            asked, sockets, _, _ = socket.recv_fds(requests, 1, 2)
            if not asked:
                break
            requests.sendall(_fork(requests, asked, sockets))
    with suppress(ChildProcessError):
        while True:
            os.wait()


def _fork(requests: socket.socket, kind: bytes, sockets: list[int]) -> bytes:
    try:
        control, events = (socket.socket(fileno=fd) for fd in sockets)
        with control, events:
            if os.fork() == 0:
                _begin(requests, kind, control, events)
        return READY
    except (OSError, ValueError) as error:  # out of processes or file descriptors
        print(f"no process for an agent: {error}", file=sys.stderr)
        return FAILED


def _begin(requests: socket.socket, kind: bytes, control: socket.socket, events: socket.socket) -> NoReturn:
    try:
        requests.close()
        _keep(kind, control, events)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def _keep(kind: bytes, control: socket.socket, events: socket.socket) -> NoReturn:
    woken, wake = socket.socketpair()
    wake.setblocking(False)
    signal.set_wakeup_fd(wake.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    _control_process(_PR_SET_CHILD_SUBREAPER, 1)
    folder = _own_folder() if kind == ONE_RUN else None
    agent = os.fork()
    if agent == 0:
        for own in (control, woken, wake):
            own.close()
        _become_agent(kind, events, folder)
    events.close()
    with selectors.DefaultSelector() as selector:
        selector.register(control, selectors.EVENT_READ)
        selector.register(woken, selectors.EVENT_READ)
        status = None
        while status is None:
            ready = {key.fileobj for key, _ in selector.select()}
            if woken in ready:
                woken.recv(4096)
                status = _reap(agent)
            if control in ready:
                break
    status = _kill_all(agent, status)
    with suppress(OSError):  # the server is gone or has closed the socket
        control.sendall(status.to_bytes(STATUS_BYTES, "big", signed=True))
    _remove(folder)
    os._exit(0)


def hide() -> None:
    """Keep other processes of the same user, except root's, from inspecting this one and its forks."""
    _control_process(_PR_SET_DUMPABLE, 0)


def _own_folder() -> str | None:
    try:
        return tempfile.mkdtemp(prefix="runstore-")
    except OSError:
        return None  # most agents need no directory


def _remove(folder: str | None) -> None:
    """Remove a directory with any contents, however deep or locked."""
    if folder is not None:
        with suppress(OSError):
            os.rmdir(folder)
            return
        # The environment is empty, as another run's code may have the same user and could read the shell's.
        command = 'chmod -R u+rwx "$0" 2>&-; exec rm -rf -- "$0"'
        os.execle("/bin/sh", "sh", "-c", command, folder, {"PATH": os.defpath})  # noqa: S606


def _become_agent(kind: bytes, events: socket.socket, folder: str | None) -> NoReturn:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.setpgid(0, 0)  # its children are killed with this group
    _control_process(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if folder is not None:
        os.environ["TMPDIR"] = folder
    tempfile.tempdir = folder  # None: where the system has them
    import_module(WORK[kind]).work(events)
    os._exit(1)


def _kill_all(agent: int, status: int | None) -> int:
    """Kill an agent and its descendants until none is left; return the agent's exit status."""
    while True:
        for kill, target in [(os.killpg, agent), *((os.kill, child) for child in _children())]:
            with suppress(ProcessLookupError, PermissionError):
                kill(target, signal.SIGKILL)
        try:
            pid, ended = os.wait()
        except ChildProcessError:
            return -signal.SIGKILL if status is None else status
        if pid == agent:
            status = os.waitstatus_to_exitcode(ended)


def _children() -> list[int]:
    try:
        with open(f"/proc/self/task/{os.getpid()}/children") as listed:
            return [int(pid) for pid in listed.read().split()]
    except OSError:
        return []  # without Linux's /proc, descendants outside the agent's process group cannot be found


def _reap(agent: int = 0) -> int | None:
    """Reap ended children; return the exit status of `agent` if it is among them."""
    status = None
    with suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            if found[0] == agent:
                status = os.waitstatus_to_exitcode(found[1])
    return status


def _control_process(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
