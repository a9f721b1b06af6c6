"""Settings of Python in a process that serves: no busy agent or collection stops others for long."""

import json
from contextlib import closing
from pathlib import Path

import pytest

from tests.kit.server import ServerProcess, until

CONFIG = """
[server]
agent_processes = {processes}

[agents.looks]
factory = "agents:looks"
"""
AGENTS = """
import gc
import json
import sys

async def looks(input):
    imported = "strands" in sys.modules
    yield json.dumps([gc.get_freeze_count(), len(gc.get_objects()), sys.getswitchinterval(), imported])
"""


class OwnProcess(ServerProcess):
    """One that has imported nothing before."""

    forked = False


@pytest.mark.parametrize("processes", [0, 1])
def test_collections_leave_out_the_objects_of_the_imports(tmp_path: Path, processes: int) -> None:
    with closing(OwnProcess(tmp_path, CONFIG.format(processes=processes), AGENTS)) as server:
        server.start()

        def seen() -> tuple[int, int, float, bool]:
            run_id = server.begin("looks")
            server.ended(run_id)
            (said,) = (event for event in server.events(run_id) if event["type"] == "llm.token")
            frozen, tracked, switch_s, imported = json.loads(said["data"]["text"])
            return frozen, tracked, switch_s, imported

        def leaves_out_imports() -> bool:
            frozen, tracked, _, imported = seen()
            return imported and frozen > 10 * tracked

        assert seen()[2] == 0.0005
        until(leaves_out_imports, "the imports are left out")
