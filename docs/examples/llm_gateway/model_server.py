"""A model server that is no model: it says the words of a prompt back, slowly, and takes few prompts at a time.

python -m llm_gateway.model_server
"""

from __future__ import annotations

import argparse
import json
import threading
from collections.abc import Callable
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Pace = Callable[[str], object]
"""Called before each token of the answer to a prompt: it returns when the token is made."""


class Model(ThreadingHTTPServer):
    """`POST /generate {"prompt": ..., "max_tokens": ...}` is answered with one line of JSON for each token."""

    daemon_threads = True
    request_queue_size = 100

    def __init__(self, address: tuple[str, int], *, slots: int, pace: Pace) -> None:
        self.slots = threading.Semaphore(slots)  # who finds none free waits, first come first served
        self.pace = pace
        super().__init__(address, Conversation)


class Conversation(BaseHTTPRequestHandler):
    """One prompt."""

    def do_POST(self) -> None:
        assert isinstance(self.server, Model)
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.slots:
            try:
                self._answer(asked["prompt"], asked["max_tokens"], self.server.pace)
            except ConnectionError:
                pass  # nobody listens any more: the slot is free for the next one

    def _answer(self, prompt: str, max_tokens: int, pace: Pace) -> None:
        words = prompt.split()
        self.send_response(200)
        self.send_header("Content-Type", "application/jsonl")
        self.end_headers()
        self._say({"prompt_tokens": len(words)})
        for word in words[:max_tokens]:
            pace(prompt)
            self._say({"token": f"{word} "})
        self._say({"finish_reason": "length" if len(words) > max_tokens else "stop"})

    def _say(self, event: dict[str, object]) -> None:
        self.wfile.write(json.dumps(event).encode() + b"\n")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - so the base class calls it
        """Not a line for each prompt."""


def at_a_rate(tokens_per_second: float) -> Pace:
    """The same for every prompt."""
    return partial(_pause, threading.Event(), 1 / tokens_per_second)


def _pause(never: threading.Event, seconds: float, prompt: str) -> None:
    never.wait(seconds)


def main() -> None:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(description="a fake, slow model server")
    parser.add_argument("--port", type=int, default=8001)
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--tokens-per-second", type=float, default=5.0)
    options = parser.parse_args()
    with Model(("127.0.0.1", options.port), slots=options.slots, pace=at_a_rate(options.tokens_per_second)) as model:
        print(f"Serving on http://127.0.0.1:{model.server_port}", flush=True)
        model.serve_forever()


if __name__ == "__main__":
    main()
