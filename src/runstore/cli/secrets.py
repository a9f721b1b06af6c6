"""Keeps secrets out of process listings: any user of the machine can read a command line with `ps`.

A process wipes them from its own command line, which /proc shows (Linux, proc_pid_cmdline(5)). It passes them
to the processes that it starts in the environment, which only their own user can read.
"""

import ctypes
import os
import sys
from collections.abc import Sequence
from pathlib import Path

VARIABLES = {
    "--database-url": "RUNSTORE_DATABASE_URL",
    "--database-read-url": "RUNSTORE_DATABASE_READ_URL",
    "--redis-url": "RUNSTORE_REDIS_URL",
    "--api-key": "RUNSTORE_API_KEY",
}


def take_secrets(arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The arguments without secrets, and the secrets as environment variables with the same meaning."""
    kept: list[str] = []
    taken: dict[str, str] = {}
    rest = iter(arguments)
    for argument in rest:
        name, given, value = argument.partition("=")
        if name not in VARIABLES:
            kept.append(argument)
        else:
            taken[VARIABLES[name]] = value if given else next(rest, "")
        if argument == "--":
            break
    return [*kept, *rest], taken


def wipe(secrets: Sequence[str]) -> None:
    """Overwrite secrets in this process's command line as /proc shows it; on Linux only."""
    if sys.platform != "linux":
        return
    shown = Path("/proc/self/cmdline").read_bytes()
    start = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[45])  # arg_start, field 48
    for secret in secrets if start else ():  # 0: a process that hides itself cannot read the address
        encoded = os.fsencode(_secret_part(secret))
        place = shown.find(encoded) if encoded else -1
        while place >= 0:
            ctypes.memset(start + place, ord("*"), len(encoded))
            place = shown.find(encoded, place + len(encoded))


def _secret_part(secret: str) -> str:
    """The secret part of an option's value: the whole key, or a URL after its scheme.

    A URL without a password and without options has no secret part.
    """
    _, found, rest = secret.partition("://")
    return (rest if {"@", "?"} & set(rest) else "") if found else secret
