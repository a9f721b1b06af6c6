"""The state after a thread was interrupted, and after it was not."""

import subprocess
import sys

import pytest

from tests.kit.polling import DEADLINE_S

# A call by a thread with a profiler. Python 3.11 never begins it if CPython's flag for exceptions of other
# threads is left set.
PROFILED = """
import sys
sys.setprofile(lambda *_: None)
(lambda: None)()
sys.setprofile(None)
"""
TOOL = """
from structlog.contextvars import bound_contextvars
from runstore.runtime.loops import tool_threads
threads = tool_threads.ToolThreads(1, "tool")
"""
DONE = f"{TOOL}threads.submit(divmod, 7, 2).result()"
BROKEN_OFF = f"""{TOOL}
def busy():
    while True:
        pass
tool_threads.INTERRUPT_S = 0
with bound_contextvars(run_id="gone"):
    call = threads.submit(busy)
while not call.done():
    threads.abandon({{"gone"}})
"""
CHECKED = """
from runstore.runtime.catalog.output_schema import schema_warnings
assert schema_warnings({"type": "object"}, {}) == []
"""
CHECK_GIVEN_UP = """
from runstore.runtime.catalog.output_schema import schema_warnings
assert schema_warnings({"items": {"type": "integer"}}, [0] * 1_000_000, within_s=0.01)
"""


@pytest.mark.parametrize(
    "code",
    [DONE, BROKEN_OFF, CHECKED, CHECK_GIVEN_UP],
    ids=["a tool", "an interrupted tool", "a check", "an interrupted check"],
)
def test_a_profiler_can_be_used_after(code: str) -> None:
    subprocess.run([sys.executable, "-c", code + PROFILED], timeout=DEADLINE_S, check=True)
