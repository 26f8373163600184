"""A gateway in front of a language model, which speaks OpenAI's protocol: who may ask, and whose turn it is.

python -m llm_gateway.gateway

What is scarce is the model's memory, in tokens. A request takes as many seats as it may come to need tokens, waits for
them without a thread, and gives back what it did not need.
"""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from http.client import HTTPConnection
from itertools import chain
from typing import NamedTuple
from wsgiref.types import WSGIEnvironment

from flask import Flask, Response, jsonify, request
from flask.typing import ResponseReturnValue

from flowctl import (
    BandConfig,
    ConcurrencyLimit,
    Config,
    FlowControlError,
    FlowController,
    FlowKey,
    Holdback,
    Request,
    Revocation,
    Ticket,
    WeightedFair,
)
from flowctl.integrations.refusal import answer_to
from flowctl.integrations.waitress import serve

# --- who may ask -----------------------------------------------------------------------------------------------------

INTERACTIVE, STANDARD, BATCH = 10, 0, -10
"""The plans, as priorities. What is below 0 is asked to stop when somebody more important waits."""


class Tenant(NamedTuple):
    """Who pays."""

    name: str
    plan: int


TENANTS = {  # a real gateway has the hashes of its keys, and renews this dict now and then
    "sk-acme": Tenant("acme", INTERACTIVE),
    "sk-globex": Tenant("globex", STANDARD),
    "sk-initech": Tenant("initech", STANDARD),
    "sk-nightly": Tenant("nightly", BATCH),
}


def tenant_of(environ: WSGIEnvironment) -> Tenant | None:
    """Who sent it; None if its key is none of ours."""
    scheme, _, key = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
    return TENANTS.get(key) if scheme.lower() == "bearer" else None


# --- what is asked, and what that takes ------------------------------------------------------------------------------

ROOM = 4096
"""Tokens for which the model has memory."""

SMALLEST = ROOM // 16
"""What each request takes at least: the model answers 16 at a time, however short they are."""

MOST_TOKENS = 1024
"""As long as an answer may become."""


class Question(NamedTuple):
    """A request for an answer that is well formed."""

    prompt: str
    max_tokens: int
    stream: bool


def question_of(environ: WSGIEnvironment) -> Question | None:
    """What is asked; None if that is nothing we could answer."""
    try:
        asked = json.load(environ["wsgi.input"])  # waitress has all of it by now: this waits for nobody
        prompt = "\n".join(message["content"] for message in asked["messages"])
        question = Question(prompt, asked.get("max_tokens", 256), asked.get("stream", False))
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return None
    fits = type(question.max_tokens) is int and 1 <= question.max_tokens <= MOST_TOKENS
    return question if fits and type(question.stream) is bool and worst_case(question) <= ROOM // 2 else None


def worst_case(question: Question) -> int:
    """What it may come to take, before the model has read it: four letters are about a token."""
    return tokens_taken(len(question.prompt) // 4 + 1, question.max_tokens)


def tokens_taken(prompt_tokens: int, completion_tokens: int) -> int:
    """A question and its answer are in the model's memory until the answer is complete."""
    return max(SMALLEST, prompt_tokens + completion_tokens)


# --- whose turn it is ------------------------------------------------------------------------------------------------

DESK = FlowKey("desk", priority=100)
"""Who is told that nothing comes of it: wrong keys, nonsense. It never waits, and a little room is kept free for it."""

controller = FlowController(
    Config(
        default_band=BandConfig(
            fairness=WeightedFair(),  # each tenant of a plan gets as many tokens as the others,
            weights={"globex": 2.0},  # and this one, which pays for it, twice as many
            max_requests_per_flow=100,
        ),
        ceilings=Holdback({DESK.priority: 1.0, BATCH: 0.99}),
        revocation=Revocation(),
        default_ttl=30.0,
    ),
    gate=ConcurrencyLimit(ROOM),
)


def classify(environ: WSGIEnvironment) -> Request:
    """What a request asks for, before it has a thread. What is found out here is kept for the application."""
    is_question = (environ["REQUEST_METHOD"], environ["PATH_INFO"]) == ("POST", "/v1/chat/completions")
    tenant = environ["gateway.tenant"] = tenant_of(environ)
    question = environ["gateway.question"] = question_of(environ) if tenant is not None and is_question else None
    if tenant is None or question is None:
        return Request(DESK, ttl=0)
    return Request(FlowKey(tenant.name, tenant.plan), cost=worst_case(question))


# --- the application -------------------------------------------------------------------------------------------------

app = Flask(__name__)
app.config["MODEL"] = "127.0.0.1:8001"


@app.post("/v1/chat/completions")
def complete() -> ResponseReturnValue:
    """Answer a question, as a whole or token by token."""
    if request.environ["gateway.tenant"] is None:
        return failure(401, "invalid_api_key", "Incorrect API key provided.")
    question: Question | None = request.environ["gateway.question"]
    if question is None:
        return failure(400, "invalid_request", f"Send messages, and max_tokens up to {MOST_TOKENS}; not too long ones.")
    with ExitStack() as closing:
        answer = Answer(question, request.environ["flowctl.ticket"], app.config["MODEL"])
        closing.callback(answer.close)
        if not question.stream:
            return jsonify(whole(answer))
        chunks = events(answer)
        first = next(chunks)  # what goes wrong until then is told by a status
        response = Response(chain([first], chunks), mimetype="text/event-stream")
        response.call_on_close(closing.pop_all().close)  # at its end, or when the client has left
        return response


def whole(answer: Answer) -> dict[str, object]:
    """The answer as one object."""
    message = {"role": "assistant", "content": "".join(answer)}
    choice = {"index": 0, "message": message, "finish_reason": answer.finish_reason}
    return head("chat.completion") | {"choices": [choice], "usage": answer.usage()}


def events(answer: Answer) -> Iterator[str]:
    """The answer as server-sent events."""
    chunk = head("chat.completion.chunk")
    for token in answer:
        yield event(chunk | {"choices": [{"index": 0, "delta": {"content": token}, "finish_reason": None}]})
    yield event(chunk | {"choices": [{"index": 0, "delta": {}, "finish_reason": answer.finish_reason}]})
    yield "data: [DONE]\n\n"


def event(chunk: dict[str, object]) -> str:
    return f"data: {json.dumps(chunk)}\n\n"


def head(kind: str) -> dict[str, object]:
    """What each object of the protocol begins with."""
    return {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": "parrot"}


def failure(status: int, code: str, message: str) -> ResponseReturnValue:
    """An error as OpenAI's clients know it."""
    return jsonify(error={"message": message, "type": "invalid_request_error", "param": None, "code": code}), status


@app.errorhandler(FlowControlError)
def refused(error: FlowControlError) -> ResponseReturnValue:
    """It was asked to stop before it had begun to answer. Without this, Flask would tell 500."""
    answer = answer_to(error)
    return answer.body, answer.status, answer.headers


@app.errorhandler(ConnectionError)
@app.errorhandler(TimeoutError)
def model_is_down(error: OSError) -> ResponseReturnValue:
    """It is not there, has broken off, or says nothing."""
    app.logger.error("no answer from the model: %s", error)
    return jsonify(error={"message": "The model is down.", "type": "server_error", "param": None, "code": None}), 502


@app.get("/stats")
def stats() -> ResponseReturnValue:
    """How full it is, for whoever runs it; never queued. A tenant has no business here: let a proxy keep it closed."""
    return jsonify(asdict(controller.stats()))


# --- the model -------------------------------------------------------------------------------------------------------


class Answer:
    """The model's answer, token by token, on the seats of a ticket. Raises `ConnectionError` or `TimeoutError`."""

    def __init__(self, question: Question, ticket: Ticket, model: str) -> None:
        connection = HTTPConnection(model, timeout=60)
        connection.request("POST", "/generate", json.dumps(question._asdict()))
        self._response = connection.getresponse()
        self._ticket = ticket
        self.prompt_tokens = int(self._next()["prompt_tokens"])
        self.completion_tokens = 0
        self.finish_reason: str | None = None
        ticket.adjust(cost=tokens_taken(self.prompt_tokens, question.max_tokens))  # the model has counted by now

    def __iter__(self) -> Iterator[str]:
        while "token" in (said := self._next()):
            self._ticket.check()  # raises Revoked once somebody more important wants the room
            self.completion_tokens += 1
            yield said["token"]
        self.finish_reason = said["finish_reason"]

    def _next(self) -> dict[str, str]:
        """What the model says next."""
        line = self._response.readline()
        if not line:
            raise ConnectionError("the model has broken off")
        said: dict[str, str] = json.loads(line)
        return said

    def close(self) -> None:
        """Let the model go. What the answer did not take is given back, and not charged to its tenant."""
        self._response.close()
        self._ticket.adjust(cost=tokens_taken(self.prompt_tokens, self.completion_tokens))

    def usage(self) -> dict[str, int]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        }


def main() -> None:
    """Serve until Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(description="a gateway in front of a model server")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--model", metavar="HOST:PORT", default=app.config["MODEL"])
    options = parser.parse_args()
    app.config["MODEL"] = options.model
    logging.basicConfig(level=logging.INFO)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    serve(
        app,
        controller,
        classify=classify,
        exempt=["/stats"],
        listen=f"127.0.0.1:{options.port}",
        threads=24,  # one for each answer that is under way, and some for those who read slowly
        max_request_body_size=64 * 1024,
    )


if __name__ == "__main__":
    main()
