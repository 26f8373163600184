"""``python -m flowctl.demo``: runs the demo, or keeps its server running with ``--serve``."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
from typing import Final

NOISY_CLIENTS: Final = 150
POLITE_CLIENTS: Final = 2

HOW_TO_TRY = """\
flowctl demo: serving on {url}, until Ctrl-C
  one request     curl -i -H 'X-Tenant: polite' {url}
  a noisy tenant  seq 300 | xargs -P 50 -I{{}} curl -s -o /dev/null -w '%{{http_code}} ' -H 'X-Tenant: noisy' {url}
  what goes on    curl {url}stats"""


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; the exit status: 2 for what the caller can put right, 130 if Ctrl-C cut it short."""
    asked = _parser().parse_args(arguments)
    try:
        try:
            return _serve(asked.port) if asked.serve else _compare(asked.seconds)
        except ModuleNotFoundError as missing:
            if missing.name not in ("rich", "waitress"):
                raise
            return _sorry(f"needs {missing.name}: pip install 'flowctl[demo]'")
        except BrokenPipeError:
            # who read this has read enough; nothing more can be written, not even at the interpreter's end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # we are ending: another Ctrl-C has nothing to add
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m flowctl.demo",
        description=f"A noisy tenant ({NOISY_CLIENTS} clients) beside a polite one ({POLITE_CLIENTS}) at a real server"
        " over a back end with 8 seats: first without flowctl, then with it. Ends by itself, with a summary.",
    )
    parser.add_argument("--serve", action="store_true", help="keep serving with flowctl on 127.0.0.1 instead")
    parser.add_argument("--port", type=_port, default=8000, help="where --serve serves (default: %(default)s)")
    parser.add_argument("--seconds", type=_seconds, default=20.0, help="of both phases together (default: %(default)s)")
    return parser


def _port(text: str) -> int:
    port = int(text)
    if not 0 < port < 2**16:
        raise argparse.ArgumentTypeError(f"must be from 1 to 65535, not {port}")
    return port


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 1 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"must be from 1 to 3600, not {text}")
    return seconds


def _compare(seconds: float) -> int:
    import asyncio  # noqa: PLC0415 - Ctrl-C while this is imported must find the handler above

    from flowctl.demo import phases, table  # noqa: PLC0415 - likewise, and they need the extra [demo]
    from flowctl.demo.clients import Tenant  # noqa: PLC0415 - likewise

    noisy, polite = Tenant("noisy", NOISY_CLIENTS), Tenant("polite", POLITE_CLIENTS)

    async def both(show: phases.Show) -> tuple[phases.Phase, phases.Phase]:
        return (
            await phases.run("without", noisy, polite, seconds=seconds / 2, show=show),
            await phases.run("with", noisy, polite, seconds=seconds / 2, show=show),
        )

    try:
        with table.shown(noisy, polite) as show:
            # Ctrl-C waits until the event loop stands: a half-made one complains when it is dropped
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            with asyncio.Runner() as runner:
                runner.get_loop()
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
                without, protected = runner.run(both(show))
    except phases.ServerGoneError as gone:
        return _sorry(str(gone), status=1)
    print(*table.summary(without, protected), sep="\n")
    return 0


def _serve(port: int) -> int:
    from flowctl.demo import server  # noqa: PLC0415 - it needs the extra [demo]

    try:
        listening = socket.create_server(("127.0.0.1", port), backlog=1024)
    except OSError as error:
        return _sorry(f"cannot serve on 127.0.0.1:{port} ({os.strerror(error.errno or 0)}); --port names another port")
    with listening:
        print(HOW_TO_TRY.format(url=f"http://127.0.0.1:{port}/"), flush=True)
        server.serve(server.protected(), listening)
    return 0


def _sorry(why: str, status: int = 2) -> int:
    print(f"flowctl demo: {why}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
