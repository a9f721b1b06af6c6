"""The agent of docs/tutorial as a `strands.Agent` of your own: `agents={"desk": build_desk}` in `chat.py`."""

from strands import Agent, tool
from strands.models.openai import OpenAIModel


@tool
def numbers(up_to: int) -> str:
    """The numbers from 1 up to another one."""
    return " ".join(str(number) for number in range(1, up_to + 1))


def build_desk() -> Agent:
    return Agent(model=OpenAIModel(model_id="gpt-5-mini"), tools=[numbers])  # the key is in OPENAI_API_KEY
