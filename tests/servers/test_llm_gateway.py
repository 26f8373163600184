"""The gateway of docs/examples: a real process, in front of a fake model that makes a token when the test says so."""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import IO, NamedTuple, final

import pytest
from llm_gateway import gateway
from llm_gateway.model_server import Model, at_a_rate

from flowctl import FlowController
from tests.servers.client import ROOT, Answer, Server, until
from tests.support import PATIENCE, MakeController, Spawned

ACME, GLOBEX, INITECH, NIGHTLY = "sk-acme", "sk-globex", "sk-initech", "sk-nightly"
LARGE = 980
"""Tokens of an answer of which there is room for four."""


def test_an_answer_as_a_whole_tells_what_it_took(city: City) -> None:
    city.steps.open()
    answer = city.ask(ACME, "the quick brown fox").answer()

    assert answer.status == 200
    told = answer.problem
    assert told["object"] == "chat.completion"
    assert told["usage"] == {"prompt_tokens": 4, "completion_tokens": 4, "total_tokens": 8}
    assert told["choices"] == [
        {"index": 0, "message": {"role": "assistant", "content": "the quick brown fox "}, "finish_reason": "stop"}
    ]


def test_an_answer_is_no_longer_than_it_may_be(city: City) -> None:
    city.steps.open()
    told = city.ask(ACME, "the quick brown fox", max_tokens=2).answer().problem

    message = {"role": "assistant", "content": "the quick "}
    assert told["choices"] == [{"index": 0, "message": message, "finish_reason": "length"}]


def test_a_stream_is_sent_token_by_token(city: City) -> None:
    stream = city.ask(ACME, "the quick fox", stream=True)
    for word in ("the ", "quick "):
        city.steps.make("the quick fox")
        assert stream.delta() == ({"content": word}, None), "the model has made no more than that"
    assert stream.headers["content-type"].startswith("text/event-stream")

    city.steps.make("the quick fox")
    assert [stream.delta(), stream.delta()] == [({"content": "fox "}, None), ({}, "stop")]
    assert stream.rest() == b"data: [DONE]\n\n"


def test_a_request_holds_what_it_may_come_to_take_until_the_model_has_counted(city: City) -> None:
    prompt = " ".join("a" * 300)
    assert gateway.worst_case(gateway.Question(prompt, LARGE, stream=True)) == 150 + LARGE

    stream = city.ask(ACME, prompt, max_tokens=LARGE, stream=True)
    city.steps.make(prompt)
    stream.delta()
    assert city.server.stats("in_flight") == 300 + LARGE
    city.steps.open()
    stream.rest()
    city.server.wait_until("in_flight", 0)


def test_at_the_end_it_holds_what_it_took(make_controller: MakeController) -> None:
    controller = make_controller(limit=gateway.ROOM)
    with serving_model() as model:
        model.pace = lambda prompt: None
        question = gateway.Question("word " * 700, LARGE, stream=False)
        ticket = controller.admit("acme", cost=gateway.worst_case(question))
        held = [controller.stats().in_flight]
        answer = gateway.Answer(question, ticket, f"127.0.0.1:{model.server_port}")
        held.append(controller.stats().in_flight)
        assert len("".join(answer).split()) == 700
        answer.close()
        held.append(controller.stats().in_flight)
        ticket.release()

    assert held == [876 + LARGE, 700 + LARGE, 700 + 700]


@pytest.mark.parametrize("key", [None, "sk-nobody", "", "sk-ACME"])
def test_an_unknown_key_is_told_so(city: City, key: str | None) -> None:
    answer = city.ask(key, "hello").answer()

    assert (answer.status, error_of(answer)["code"]) == (401, "invalid_api_key")


def test_an_unknown_key_is_told_so_before_any_queue(city: City) -> None:
    """Four of these would take all the room; the last one waits, as a little is kept free for the desk."""
    paying = [city.ask(INITECH, f"held {number}", max_tokens=gateway.ROOM // 4 - 2) for number in range(4)]
    city.steps.wait_until_begun(3)
    city.server.wait_until("queued", 1)

    assert city.ask("sk-nobody", "hello").answer().status == 401
    assert city.server.stats("queued") == 1
    city.steps.open()
    assert {each.answer().status for each in paying} == {200}


MESSAGES = [{"role": "user", "content": "hello"}]


@pytest.mark.parametrize(
    "asked",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"{", id="no JSON"),
        pytest.param(b"[" * 60_000, id="too deep"),
        pytest.param(b"\xff\xfe\xfd", id="no text"),
        pytest.param(7, id="a number"),
        pytest.param({}, id="no messages"),
        pytest.param({"messages": [{"role": "user"}]}, id="no content"),
        pytest.param({"messages": [{"content": [{"type": "image_url"}]}]}, id="no text in it"),
        pytest.param({"messages": "hello"}, id="no list"),
        pytest.param({"messages": MESSAGES, "max_tokens": 0}, id="no answer wanted"),
        pytest.param({"messages": MESSAGES, "max_tokens": 10**6}, id="too long an answer wanted"),
        pytest.param({"messages": MESSAGES, "max_tokens": True}, id="no number"),
        pytest.param({"messages": MESSAGES, "stream": "yes"}, id="neither true nor false"),
        pytest.param({"messages": [{"content": "word " * 10_000}]}, id="too long a question"),
    ],
)
def test_what_cannot_be_answered_is_told_so(city: City, asked: object) -> None:
    body = asked if isinstance(asked, bytes) else json.dumps(asked).encode()
    answer = city.send(ACME, body).answer()

    assert (answer.status, error_of(answer)["code"]) == (400, "invalid_request")
    assert not city.steps.begun


def test_a_polite_tenant_has_its_turn_beside_a_noisy_one(city: City) -> None:
    held = city.fill(INITECH)
    noisy = [city.ask(INITECH, f"noisy {number}", max_tokens=LARGE) for number in range(8)]
    city.server.wait_until("queued", 8)
    polite = city.ask(GLOBEX, "polite", max_tokens=LARGE)
    city.server.wait_until("queued", 9)

    for count, prompt in enumerate(held[:2], start=1):
        city.steps.make(prompt, 2)
        city.steps.wait_until_begun(4 + count)
    assert "polite" in city.steps.begun[4:6], "one of the noisy tenant's may go first, no more"
    city.steps.open()
    assert {each.answer().status for each in (polite, *noisy)} == {200}


def test_a_higher_plan_goes_first(city: City) -> None:
    first, *_ = city.fill(GLOBEX)
    standard = city.ask(INITECH, "standard", max_tokens=LARGE)
    city.server.wait_until("queued", 1)
    interactive = city.ask(ACME, "interactive", max_tokens=LARGE)
    city.server.wait_until("queued", 2)

    city.steps.make(first, 2)
    city.steps.wait_until_begun(5)
    assert city.steps.begun[4] == "interactive"
    city.steps.open()
    assert (standard.answer().status, interactive.answer().status) == (200, 200)


def test_who_is_refused_is_told_when_to_come_again(city: City) -> None:
    city.fill(INITECH)
    waiting = [city.ask(INITECH, "later", max_tokens=LARGE) for _ in range(100)]
    city.server.wait_until("queued", 100)

    refused = city.ask(INITECH, "too many", max_tokens=LARGE).answer()
    assert (refused.status, refused.headers["content-type"]) == (429, "application/problem+json")
    assert refused.problem["outcome"] == "rejected_capacity"
    assert int(refused.headers["retry-after"]) >= 1
    for each in waiting:
        each.leave()
    city.server.wait_until("queued", 0)


def test_a_client_that_leaves_amid_a_stream_gives_its_tokens_back(city: City) -> None:
    prompt, *_ = city.fill(ACME, stream=True)
    waiting = city.ask(ACME, "next", max_tokens=LARGE)
    city.server.wait_until("queued", 1)

    city.steps.make(prompt)
    city.held[0].delta()
    city.held[0].leave()
    until(lambda: city.step(prompt) and city.server.stats("queued") == 0, "a token could not be sent")
    city.steps.wait_until_begun(5)
    assert city.steps.begun[4] == "next"
    assert city.steps.made[prompt] < len(prompt.split()), "it was not at its end"
    city.steps.open()
    assert waiting.answer().status == 200


def test_a_client_that_leaves_while_it_waits_is_never_asked_about(city: City) -> None:
    city.fill(ACME)
    waiting = city.ask(ACME, "next", max_tokens=LARGE)
    city.server.wait_until("queued", 1)

    waiting.leave()
    city.server.wait_until("queued", 0)
    assert "next" not in city.steps.begun


def test_batch_work_is_broken_off_when_somebody_more_important_waits(city: City) -> None:
    for prompt, stream in zip(city.fill(NIGHTLY, stream=True), city.held, strict=True):
        city.steps.make(prompt)
        stream.delta()

    urgent = city.ask(ACME, "urgent", max_tokens=LARGE)
    until(lambda: city.revoked() > 0, "somebody is asked to stop")
    city.steps.open()
    assert urgent.answer().status == 200
    assert sum(not stream.is_whole() for stream in city.held) == city.revoked(), "a client learns that"


def test_batch_work_that_has_not_begun_to_answer_is_told_to_come_again(city: City) -> None:
    city.fill(NIGHTLY, stream=True)
    urgent = city.ask(ACME, "urgent", max_tokens=LARGE)
    until(lambda: city.revoked() > 0, "somebody is asked to stop")

    city.steps.open()
    assert urgent.answer().status == 200
    answers = [stream.answer() for stream in city.held]
    assert Counter(answer.status for answer in answers)[429] == city.revoked() > 0
    assert {answer.problem["outcome"] for answer in answers if answer.status == 429} == {"revoked"}


@pytest.mark.parametrize("stream", [False, True])
def test_a_model_that_is_down_is_told_at_once(controller: FlowController, stream: bool) -> None:
    with serving_model() as model:
        nobody = f"127.0.0.1:{model.server_port}"
    before, gateway.app.config["MODEL"] = gateway.app.config["MODEL"], nobody
    with controller.admit("acme") as ticket:
        question = gateway.Question("hello", 5, stream)
        environ = {"gateway.tenant": gateway.TENANTS[ACME], "gateway.question": question, "flowctl.ticket": ticket}
        answer = gateway.app.test_client().post("/v1/chat/completions", environ_overrides=environ)
    gateway.app.config["MODEL"] = before

    assert answer.status_code == 502


def test_the_commands_of_its_readme_start_it() -> None:
    readme = (ROOT / "docs/examples/llm_gateway/README.md").read_text("utf-8")
    commands = re.findall(r"^python -m (llm_gateway\.\w+)$", readme, re.MULTILINE)
    assert commands == ["llm_gateway.model_server", "llm_gateway.gateway"]

    with (
        running(commands[0], "--port=0", "--tokens-per-second=1000") as model,
        running(commands[1], "--port=0", f"--model=127.0.0.1:{model}") as port,
        ExitStack() as closing,
    ):
        curl = re.search(r"-d '(.+)'", readme)
        assert curl is not None
        stream = Client(port, ACME, curl[1].encode(), closing)
        assert stream.delta() == ({"content": "the "}, None)
        assert stream.rest().endswith(b"data: [DONE]\n\n")


# --- what it takes ----------------------------------------------------------------------------------------------------


@final
class Steps:
    """How fast the model is: it makes a token when it is told to."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        # guarded by _changed
        self._wanted: Counter[str] = Counter()
        self._is_open = False
        # written under _changed, read by anyone
        self.begun: list[str] = []  # in the order in which the model began with them
        self.made: Counter[str] = Counter()

    def __call__(self, prompt: str) -> None:
        with self._changed:
            if prompt not in self.begun:
                self.begun.append(prompt)
                self._changed.notify_all()
            assert self._changed.wait_for(lambda: self._is_open or self._wanted[prompt] > 0, PATIENCE)
            self._wanted[prompt] -= 1
            self.made[prompt] += 1

    def make(self, prompt: str, tokens: int = 1) -> None:
        with self._changed:
            self._wanted[prompt] += tokens
            self._changed.notify_all()

    def open(self) -> None:
        """From now on, as fast as it can."""
        with self._changed:
            self._is_open = True
            self._changed.notify_all()

    def wait_until_begun(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.begun) >= count, PATIENCE)


@final
class Client:
    """One request over a connection of its own."""

    def __init__(self, port: int, key: str | None, body: bytes, closing: ExitStack) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        closing.callback(self.leave)
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._connection.request("POST", "/v1/chat/completions", body, headers)
        self._begun: list[http.client.HTTPResponse] = []

    @property
    def _response(self) -> http.client.HTTPResponse:
        if not self._begun:
            self._begun.append(self._connection.getresponse())
        return self._begun[0]

    @property
    def headers(self) -> dict[str, str]:
        return {name.lower(): value for name, value in self._response.getheaders()}

    def answer(self) -> Answer:
        return Answer(self._response.status, self.headers, self._response.read())

    def delta(self) -> tuple[object, object]:
        """What the next event of a stream adds, and why that is the last."""
        line, empty = self._response.readline(), self._response.readline()
        assert (line[:6], empty) == (b"data: ", b"\n")
        [choice] = json.loads(line[6:])["choices"]
        return choice["delta"], choice["finish_reason"]

    def rest(self) -> bytes:
        return self._response.read()

    def is_whole(self) -> bool:
        try:
            return self.rest().endswith(b"data: [DONE]\n\n")
        except http.client.IncompleteRead:
            return False

    def leave(self) -> None:
        for response in self._begun:
            response.close()
        self._connection.close()


@final
class City:
    """The gateway, and who asks it."""

    def __init__(self, port: int, steps: Steps, closing: ExitStack) -> None:
        self.server = Server(port)
        self.steps = steps
        self.held: list[Client] = []
        self._port = port
        self._closing = closing
        self._revoked_before = self.revoked(since=0)

    def ask(self, key: str | None, prompt: str, *, max_tokens: int = 16, stream: bool = False) -> Client:
        messages = [{"role": "user", "content": prompt}]
        return self.send(key, json.dumps({"messages": messages, "max_tokens": max_tokens, "stream": stream}).encode())

    def send(self, key: str | None, body: bytes) -> Client:
        return Client(self._port, key, body, self._closing)

    def fill(self, key: str, *, stream: bool = False) -> list[str]:
        """Take all the room; the prompts, with which the model has begun."""
        prompts = [f"held {number}" + " on" * (20 if stream else 0) for number in range(4)]
        self.held = [self.ask(key, prompt, max_tokens=LARGE, stream=stream) for prompt in prompts]
        self.steps.wait_until_begun(4)
        return prompts

    def step(self, prompt: str) -> bool:
        self.steps.make(prompt)
        return True

    def revoked(self, since: int | None = None) -> int:
        """How many were asked to stop in this test."""
        issued: int = json.loads(self.server.ask("/stats").body)["revocations"][0]
        return issued - (self._revoked_before if since is None else since)


def error_of(answer: Answer) -> dict[str, object]:
    error = answer.problem["error"]
    assert isinstance(error, dict)
    return error


@contextmanager
def serving_model() -> Iterator[Model]:
    with Model(("127.0.0.1", 0), slots=16, pace=at_a_rate(1000)) as model:
        serving = Spawned(partial(model.serve_forever, poll_interval=0.01))
        try:
            yield model
        finally:
            model.shutdown()
            serving.result()


@contextmanager
def running(module: str, *options: str) -> Iterator[int]:
    """A process that serves, and says at which port."""
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", module, *options]
    examples = ROOT / "docs" / "examples"
    with subprocess.Popen(
        command, cwd=examples, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            assert process.stdout is not None
            told: list[str] = []
            port = next(filter(None, map(port_in, kept(process.stdout, told))), None)
            assert port is not None, "".join(told)
            rest = Spawned(process.stdout.read)  # a pipe that is full would hold it up
            yield port
        finally:
            process.terminate()
            try:
                process.wait(PATIENCE)
            finally:
                process.kill()
        rest.result()


def kept(lines: IO[str], told: list[str]) -> Iterator[str]:
    for line in lines:
        told.append(line)
        yield line


def port_in(line: str) -> int | None:
    found = re.search(r"Serving on http://127\.0\.0\.1:(\d+)", line)
    return int(found[1]) if found else None


class Running(NamedTuple):
    model: Model
    port: int


@pytest.fixture(scope="module")
def both() -> Iterator[Running]:
    """The model in a thread, the gateway in a process of its own."""
    with (
        serving_model() as model,
        running("llm_gateway.gateway", "--port=0", f"--model=127.0.0.1:{model.server_port}") as port,
    ):
        yield Running(model, port)


@pytest.fixture
def city(both: Running) -> Iterator[City]:
    """Both at rest. In the end nothing is held, and nothing was lost and found."""
    steps = both.model.pace = Steps()
    with ExitStack() as closing:
        city = City(both.port, steps, closing)
        yield city
        steps.open()
    city.server.wait_until("queued", 0)
    city.server.wait_until("in_flight", 0)
    assert city.server.stats("abandoned") == city.server.stats("repairs") == city.server.stats("incidents") == 0
