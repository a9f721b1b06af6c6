"""Agents that get stuck, in every way that has hung a server. Each says a word first: it has begun."""

from pathlib import Path

from tests.kit.process import MARK
from tests.kit.server import ServerProcess, until
from tests.models.standins import ModelServer

AGENTS = """
import asyncio
import logging
import os
import re
import subprocess
import sys
import threading
import time

from opentelemetry import trace
from strands import tool

@tool
async def async_sleep(task: str) -> str:
    '''Sleep for long, on the loop.'''
    time.sleep(3600)
    return task

@tool
def sync_wait(task: str) -> str:
    '''Wait for what never comes.'''
    threading.Event().wait()
    return task

async def swallows(input):
    yield "deaf "
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass

async def talks_on(input):
    while True:
        try:
            await asyncio.sleep(0.02)
        except asyncio.CancelledError:
            pass
        yield "still here "

async def blocks(input):
    yield "now "
    time.sleep(3600)

async def busy(input):
    yield "busy "
    while True:
        pass

async def regex(input):
    yield "match "
    re.match(r"(a+)+$", "a" * 64 + "b")

async def flood(input):
    while True:
        yield "token "

async def logs(input):
    log = logging.getLogger("stuck.agent")
    log.warning("x" * 1_000_000)
    while True:
        log.warning("x" * 100)
        yield "logged "

class Stuck:
    def __str__(self):
        time.sleep(3600)

async def logs_stuck(input):
    yield "log "
    logging.getLogger("stuck.agent").warning("%s", Stuck())

async def leaks(input):
    yield "more "
    kept = []
    while True:
        kept.append(bytearray(4 << 20))
        await asyncio.sleep(0.01)

async def forks(input):
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
    if os.fork() == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        time.sleep(3600)
    yield "forked "
    await asyncio.Event().wait()

async def dies(input):
    yield "bye "
    os.kill(os.getpid(), 9)

async def stays(input):
    yield "here "
    await asyncio.create_task(outstay())

async def outstay():
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass
        except GeneratorExit:
            os.write(2, f"thrown away in {threading.current_thread().name}\\n".encode())  # drops no line
            time.sleep(3600)

async def prints(input):
    yield "see "
    while True:
        print("x" * 100_000, flush=True)

async def crowds(input):
    loop = asyncio.get_running_loop()
    for _ in range(40):
        loop.run_in_executor(None, time.sleep, 3600)
    yield await asyncio.to_thread(lambda: "through ")

async def closes(input):
    yield "bye "
    os.closerange(3, 256)
    time.sleep(3600)

async def scribbles(input):
    yield "look "
    for descriptor in range(3, 256):
        try:
            os.write(descriptor, b"{}" * 100)
        except OSError:
            pass
    await asyncio.Event().wait()

class Speechless(Exception):
    def __str__(self):
        raise Speechless

async def raises(input):
    yield "oh "
    raise Speechless

async def tells(input, ctx):
    span = trace.get_current_span().get_span_context()
    yield repr([input, ctx.user_id, ctx.session_id, ctx.metadata, ctx.attempt, span.trace_id])
    try:
        raise RuntimeError("on purpose")
    except RuntimeError:
        logging.getLogger("stuck.agent").exception("expected")
    raise ValueError("half of an emoji: \\ud83d")

async def shuts_up(input):
    yield "hm "
    await asyncio.Event().wait()
"""
FACTORIES = (
    "swallows",
    "talks_on",
    "blocks",
    "busy",
    "regex",
    "flood",
    "logs",
    "logs_stuck",
    "forks",
    "leaks",
    "dies",
    "shuts_up",
    "stays",
    "prints",
    "crowds",
    "closes",
    "scribbles",
    "raises",
    "tells",
)
LEVELS = ("loop", "thread", "process")
MEMORY_MB = 160
WORDS_PER_S = 20
FAST_PER_S = 100


def configuration(models: ModelServer) -> str:
    """An agent `KIND-LEVEL` for each way and level, and healthy ones."""
    tables = []
    for level in LEVELS:
        place = f'isolation = "{level}"'
        for name in FACTORIES:
            limit = f"\nmemory_limit_mb = {MEMORY_MB}" if (name, level) == ("leaks", "process") else ""
            tables.append(f'[agents.{name}-{level}]\nfactory = "agents:{name}"\n{place}{limit}\n')
        for tool in ("async_sleep", "sync_wait"):
            tables.append(
                f'[agents.{tool}-{level}]\nmodel = "scripted"\ntools = ["agents:{tool}"]\n{place}\n'
            )
        for model in ("never-answers", "stops-talking"):
            args = f'model_args = {{ host = "{models.url}", model_id = "{model}" }}'
            tables.append(f'[agents.{model}-{level}]\nmodel = "ollama"\n{args}\n{place}\n')
        tables.append(
            f'[agents.healthy-{level}]\nmodel = "scripted"\ntokens = 100000\n'
            f"tokens_per_s = {WORDS_PER_S}\n{place}\n"
        )
        tables.append(
            f'[agents.fast-{level}]\nmodel = "scripted"\ntokens = 100000\n'
            f"tokens_per_s = {FAST_PER_S}\n{place}\n"
        )
        tables.append(f'[agents.quick-{level}]\nmodel = "scripted"\n{place}\n')
        tables.append(f'[agents.idle-{level}]\nfactory = "agents:shuts_up"\nidle_timeout_s = 0.5\n{place}\n')
        tables.append(f'[agents.late-{level}]\nfactory = "agents:talks_on"\nrun_timeout_s = 0.5\n{place}\n')
    tables.append(
        '[agents.pays-loop]\nmodel = "scripted"\ntools = ["agents:sync_wait"]\nat_most_once = ["sync_wait"]\n'
    )
    tables.append(
        '[agents.chatty]\nmodel = "scripted"\ntokens = 15\ntokens_per_s = 10\nidle_timeout_s = 0.5\n'
    )
    return "\n".join(tables)


def begun(server: ServerProcess, agent: str) -> str:
    """A run whose agent is where it gets stuck."""
    run_id = server.begin(agent, "on and on")
    until(lambda: server.record(run_id)["last_seq"] >= 3, "the agent has begun")
    return run_id


def marked(server: ServerProcess) -> list[int]:
    """The server and the processes that came from it, wherever they have gone."""
    found = [] if server.has_exited else [server.pid]
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) not in found:
            try:
                if f"{MARK}={server.folder}\0".encode() in (folder / "environ").read_bytes():
                    found.append(int(folder.name))
            except OSError:
                pass  # it has ended
    return found
