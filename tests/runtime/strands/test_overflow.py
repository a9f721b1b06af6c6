"""A conversation that is too long for its model, as servers say it whose words strands does not know."""

import json

import httpx
import openai
import pytest
from strands.agent.conversation_manager import SlidingWindowConversationManager
from strands.models.openai import OpenAIModel
from strands.types.content import Messages

from runstore.core.errors import AgentError
from runstore.core.events import Token
from tests.runtime.strands_kit import agent, drive

WORDS = [
    "request (9001 tokens) exceeds the available context size (8192 tokens), try increasing it",
    "This model's maximum prompt length is 131072 but the request contains 537812 tokens.",
    "Please reduce the length of the messages or completion.",
    "Your input exceeds the context window of this model. Please adjust your input and try again.",
    "Invalid request: Your request exceeded model token limit: 262144",
    "prompt is too long: 250000 tokens > 200000 maximum",
    "input length and max_tokens exceed context limit: 170636 + 34048 > 200000, decrease input length",
    "The decoder prompt (length 5000) is longer than the maximum model length of 4096.",
    "max_tokens must be at least 1, got -904",
    "Prompt too long: 5152 tokens exceeds max_seq_len 2048 (leave room for output tokens)",
    "Input tokens exceed the configured limit of 272000 tokens.",
    "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
    "the input token count is 32825 but model only supports up to 32768",
    "Input length 131393 exceeds the maximum allowed input length of 131040 tokens.",
    "Input validation error: `inputs` must have less than 4095 tokens. Given: 4962",
    "Range of input length should be [1, 30720]",
    "Request body too large for gpt-4o model. Max size: 8000 tokens.",
    "too many tokens: total number of tokens in the prompt cannot exceed 4081",
]
PAST: Messages = [
    {"role": "user", "content": [{"text": "first"}]},
    {"role": "assistant", "content": [{"text": "answer"}]},
    {"role": "user", "content": [{"text": "second"}]},
    {"role": "assistant", "content": [{"text": "answer"}]},
]


class Server:
    """Refuses requests of more messages than it takes. `heard`: the numbers of messages of all requests."""

    def __init__(self, words: str, *, takes: int, status: int = 400) -> None:
        self.heard: list[int] = []
        self._refusal = httpx.Response(
            status, json={"error": {"message": words, "type": "x", "code": status}}
        )
        self._takes = takes

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.heard.append(len(json.loads(request.content)["messages"]))
        if self.heard[-1] > self._takes:
            return self._refusal
        said = {"index": 0, "delta": {"content": "yes"}, "finish_reason": "stop"}
        chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [said]}
        text = f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n"
        return httpx.Response(200, text=text, headers={"Content-Type": "text/event-stream"})

    @property
    def model(self) -> OpenAIModel:
        http = httpx.AsyncClient(transport=httpx.MockTransport(self.answer))
        client = openai.AsyncOpenAI(api_key="k", base_url="http://p.test/v1", max_retries=0, http_client=http)
        return OpenAIModel(client, model_id="m")


@pytest.mark.parametrize("words", WORDS)
async def test_it_is_shortened_and_sent_again(words: str) -> None:
    server = Server(words, takes=3)
    manager = SlidingWindowConversationManager(window_size=4)
    recorder, ended = await drive(agent(server.model, messages=list(PAST), conversation_manager=manager))
    assert (ended.result["text"], server.heard) == ("yes", [5, 3])
    assert "".join(event.text for event in recorder.of(Token)) == "yes"


@pytest.mark.parametrize("status", [413, 422, 500])
async def test_the_status_of_the_refusal_does_not_matter(status: int) -> None:
    server = Server(WORDS[0], takes=3, status=status)
    manager = SlidingWindowConversationManager(window_size=4)
    _, ended = await drive(agent(server.model, messages=list(PAST), conversation_manager=manager))
    assert (ended.result["text"], server.heard) == ("yes", [5, 3])


@pytest.mark.parametrize("status", [400, 429, 503])
async def test_too_many_tokens_in_a_minute_are_no_reason_to_forget(status: int) -> None:
    server = Server("Too many tokens, please wait before trying again.", takes=3, status=status)
    with pytest.raises(AgentError) as caught:
        await drive(agent(server.model, messages=list(PAST), retry_strategy=None))
    assert (caught.value.code, server.heard) == ("model_throttled", [5])


@pytest.mark.parametrize("words", WORDS)
async def test_it_has_its_own_code_if_it_cannot_be_shortened(words: str) -> None:
    with pytest.raises(AgentError) as caught:
        await drive(agent(Server(words, takes=0).model))
    assert caught.value.code == "context_overflow"


async def test_any_other_refusal_is_sent_once() -> None:
    server = Server("temperature: input should be less than 2", takes=0)
    with pytest.raises(AgentError) as caught:
        await drive(agent(server.model, messages=list(PAST)))
    assert (caught.value.code, server.heard) == ("model_refused", [5])
