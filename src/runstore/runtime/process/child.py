"""Runs in an agent's own process: builds the agent, runs it, and sends its events to the server."""

import asyncio
import os
import resource
import signal
import socket
import sys
import threading
import traceback
from contextlib import suppress
from typing import NoReturn

from runstore.runtime.attempts.spans import flush_spans
from runstore.runtime.catalog.agents import AgentCatalog
from runstore.runtime.catalog.teams import Teams
from runstore.runtime.loops.agent_loops import new_event_loop
from runstore.runtime.loops.tool_threads import TOOL_THREADS, ToolThreads
from runstore.runtime.process import messages
from runstore.runtime.process.pipe import Pipe, PipeLog, PipeRecorder, receive
from runstore.runtime.process.task import AgentTask

NICENESS = 10  # below the server's priority, so that it answers under any load from agents
PIPE_STACK_BYTES = 512 << 10  # bytes of stack of the thread that reads the pipe
FLUSH_S = 1.0  # seconds for the agent's own tracer provider to export its spans

MIB = 1 << 20


def work(events: socket.socket) -> NoReturn:
    """Do the server's work over the socket `events`, then exit at once."""
    try:
        os.nice(NICENESS)
        begin_process()
        loop = new_event_loop()
        asyncio.set_event_loop(loop)
        work = loop.create_task(_work(events))
        while not work.done() and not loop.is_closed():
            # From an agent that stops the loop, or from a task of its own that exits.
            with suppress(RuntimeError, SystemExit, KeyboardInterrupt):
                loop.run_until_complete(work)
        work.result()
        os._exit(0)
    except ConnectionError:
        pass  # the server has given up this run and closed its end of the socket
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def begin_process() -> None:
    """Give a process that was just forked its signals, files and limits."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # the server's own standard output carries the line about its address
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


async def _work(events: socket.socket) -> None:
    events.setblocking(False)
    settings = await opened(events)
    limit_mb = settings.memory_limit_mb
    pipe_loop = _new_loop_in_a_thread()
    pipe = Pipe(events, pipe_loop, batched=False)
    lines = PipeLog(pipe, pipe_loop)
    lines.install()
    begin = await receive(events)
    if not isinstance(begin, messages.Begin):
        raise TypeError(f"the server went on with {begin!r}")
    sys.stdout = sys.stderr  # unbuffered lines
    if limit_mb is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (limit_mb * MIB, limit_mb * MIB))
    asyncio.get_running_loop().set_default_executor(ToolThreads(TOOL_THREADS, "tool"))
    catalog = AgentCatalog(settings.agents, teams=Teams(settings.hierarchies))
    recorder = PipeRecorder(pipe, begin.run, begin.context.run_id)
    agent = AgentTask(begin, catalog, recorder, memory_limit_mb=limit_mb)
    asyncio.run_coroutine_threadsafe(_listen(events, asyncio.get_running_loop(), agent), pipe_loop)
    ending = await agent.end()
    flush_spans(FLUSH_S)  # the server kills this process as soon as it has the ending
    lines.flush_lines()
    if (draining := recorder.end(ending)) is not None:
        draining.result()  # blocks, so that what the agent has left waits


async def opened(events: socket.socket) -> messages.Open:
    """The server's first message, whose module search path is this process's from now on."""
    settings = await receive(events)
    if not isinstance(settings, messages.Open):
        raise TypeError(f"the server began with {settings!r}")
    sys.path[:] = settings.path
    return settings


def answer(agent: AgentTask, message: messages.ToChild) -> None:
    """Hand a reply of the server to the agent that waits for it."""
    match message:
        case messages.Stored():
            agent.recorder.stored()
        case messages.Added(_, added):
            agent.recorder.took(added)
        case messages.Taken(_, size):
            agent.recorder.taken(size)


def _new_loop_in_a_thread() -> asyncio.AbstractEventLoop:
    """An event loop for the pipe, so that threads can send while the agent's loop waits for them."""
    loop = new_event_loop()
    size = threading.stack_size(PIPE_STACK_BYTES)  # the stack counts towards the agent's memory limit
    threading.Thread(target=loop.run_forever, name="pipe", daemon=True).start()
    threading.stack_size(size)
    return loop


async def _listen(events: socket.socket, loop: asyncio.AbstractEventLoop, agent: AgentTask) -> None:
    while True:
        message = await receive(events)
        if isinstance(message, messages.Cancel):
            loop.call_soon_threadsafe(agent.cancel)
        else:
            answer(agent, message)
