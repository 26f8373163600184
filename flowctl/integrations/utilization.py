"""How full a model server is, read off its Prometheus page: a source for a saturation signal.

U1  A call keeps nothing: any thread may make it, and each asks anew.
U2  What a page costs is bounded, in bytes and in time, whatever it sends and however slowly.
U3  A page that does not say what it is asked for is an error, never a number.
"""

from __future__ import annotations

import http.client
import io
import logging
import math
import socket
import ssl
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Final, NamedTuple, final
from urllib.parse import urlsplit

from flowctl.clock import MonotonicClock
from flowctl.request import check_seconds, shown

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
    from prometheus_client import Metric

logger = logging.getLogger("flowctl")

LARGEST: Final = 4 * 2**20
"""Bytes of a page; a larger one is an error. That of vLLM has a fortieth of it."""

LONGEST: Final = 60.0
"""Seconds of `timeout`."""

Engine = frozenset[tuple[str, str]]
"""The labels that tell one engine on a page from another."""


class Part(NamedTuple):
    """One thing to read: the names that it may go by, and its value where the server is full."""

    names: tuple[str, ...]
    full: float


class Page(NamedTuple):
    """Where to ask."""

    url: str
    tls: ssl.SSLContext | None
    host: str
    port: int | None
    path: str


@final
class Utilization:
    """How full the model servers behind these Prometheus pages are, for `Saturation`; the defaults are vLLM's names.

    An engine is as full as the fuller of its parts: `queue` (requests that wait there) against `queue_full`, and
    `cache` (the part of its cache in use) against `cache_full`. Either may be None, or several names, of which the
    first that is on the page counts. Several engines on one page, told apart by their labels, count by their mean, and
    so do several pages. Among several, one that cannot be read counts as full (1.0): a server that is down takes
    nothing, and the others still do.

    A call asks one page after the other, and takes up to `timeout` seconds for each (looking up its host's name not
    counted). It goes there directly, whatever proxy the environment names, and follows no redirect. It raises only if
    no page can be read: `TimeoutError`, `ConnectionError` if the answer did not come whole, and `ValueError` if it does
    not say what it is asked for. Needs the extra `flowctl[prometheus]`, or raises `ImportError` at once.
    """

    __slots__ = ("_pages", "_parse", "_parts", "_timeout")

    def __init__(
        self,
        url: str | Sequence[str],
        *,
        queue: str | Sequence[str] | None = "vllm:num_requests_waiting",
        cache: str | Sequence[str] | None = ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
        # as the gateways in front of vLLM have it (Gateway API Inference Extension)
        queue_full: float = 5,
        cache_full: float = 0.8,
        # a page comes within milliseconds, and a signal of a second ago is one no more
        timeout: float = 1.0,
    ) -> None:
        # fixed after construction
        self._pages = tuple(_page(each) for each in _strings("url", url))
        fulls = (_above_zero("queue_full", queue_full), _above_zero("cache_full", cache_full))
        self._parts = tuple(
            Part(_strings(field, names), full)
            for field, names, full in zip(("queue", "cache"), (queue, cache), fulls, strict=True)
            if names is not None
        )
        if not self._parts:
            raise ValueError("queue or cache must be the name of a metric, not both None")
        self._timeout = check_seconds("timeout", timeout)
        if not 0 < self._timeout <= LONGEST:
            raise ValueError(f"timeout must be above 0, and at most {LONGEST:.0f}, not {shown(timeout)}")
        self._parse = _parser()

    def __call__(self) -> float:
        """How full they are now; at 1.0 they are full, and more is possible. Blocks."""
        readings = self.read()
        failures = [reading for reading in readings.values() if isinstance(reading, Exception)]
        if len(failures) == len(readings):
            raise failures[0]
        return fmean(1.0 if isinstance(reading, Exception) else reading for reading in readings.values())

    def read(self) -> Mapping[str, float | Exception]:
        """What each page says now, by its URL: how full its engines are, or why that cannot be told. Blocks."""
        readings: dict[str, float | Exception] = {}
        for page in self._pages:
            try:
                readings[page.url] = self._fullness(page.url, _fetch(page, self._timeout))
            except (OSError, ValueError) as error:
                readings[page.url] = error
                logger.debug("%s", error)
        return readings

    def _fullness(self, url: str, text: str) -> float:
        found = self._find(url, text)
        columns: dict[str, Mapping[Engine, float]] = {}
        for names, full in self._parts:
            name = next((name for name in names if name in found), None)
            if name is None:
                raise ValueError(f"{url} does not show {' or '.join(names)}")
            columns[name] = {engine: value / full for engine, value in found[name].items()}
        engines, *others = [column.keys() for column in columns.values()]
        if any(other != engines for other in others):
            raise ValueError(f"{url} shows {' and '.join(columns)} with different labels: which are of one engine?")
        return fmean(max(column[engine] for column in columns.values()) for engine in engines)

    def _find(self, url: str, text: str) -> Mapping[str, Mapping[Engine, float]]:
        """The value of each engine, by the names on the page."""
        wanted = {name for part in self._parts for name in part.names}
        # the parser takes 10 us a line under the GIL, and a page has hundreds: it gets only those that are asked for
        lines = [line for line in text.split("\n") if line[:1] != "#" and any(name in line for name in wanted)]
        found: dict[str, dict[Engine, float]] = {}
        try:
            samples = [sample for family in self._parse("\n".join(lines)) for sample in family.samples]
        except Exception as error:
            raise ValueError(f"{url} is not in the text format of Prometheus: {str(error)[:80]}") from error
        for sample in samples:
            if sample.name in wanted:
                value = _finite(f"{sample.name} at {url}", sample.value)
                found.setdefault(sample.name, {})[frozenset(sample.labels.items())] = value
        return found


# --- the page -----------------------------------------------------------------------------------------------------


def _fetch(page: Page, timeout: float) -> str:
    """The text of a page that came whole and in time."""
    until = MonotonicClock.now() + timeout
    connection = (
        http.client.HTTPConnection(page.host, page.port, timeout=timeout)
        if page.tls is None
        else http.client.HTTPSConnection(page.host, page.port, timeout=timeout, context=page.tls)
    )
    try:
        connection.request("GET", page.path, headers={"Accept": "text/plain", "Connection": "close"})
        body = _read(page.url, connection.sock, until)
    except TimeoutError as error:
        raise TimeoutError(f"{page.url} did not answer within {timeout} s") from error
    except (OSError, UnicodeError, http.client.HTTPException) as error:
        raise ConnectionError(f"{page.url} gave no whole answer: {type(error).__name__}: {str(error)[:80]}") from error
    finally:
        connection.close()
    if not body.endswith(b"\n"):
        raise ConnectionError(f"{page.url} gave no whole answer: its last line has no end")
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{page.url} must be text in UTF-8; it is not, at byte {error.start}") from None


def _read(url: str, sock: socket.socket, until: float) -> bytes:
    """The body of the one answer that comes. `ValueError` if its status is not 200, or it is too large."""
    response = http.client.HTTPResponse(sock, method="GET")
    try:
        response.fp.close()
        response.fp = io.BufferedReader(_Timed(sock, until))
        response.begin()
        if response.status != http.client.OK:
            redirect = ", and no redirect is followed" if response.status // 100 == 3 else ""
            raise ValueError(f"{url} must answer with status 200, not {response.status}{redirect}")
        body = b"" if (response.length or 0) > LARGEST else response.read(LARGEST + 1)
        if len(body) > LARGEST or (response.length or 0) > LARGEST:
            raise ValueError(f"{url} must have at most {LARGEST} bytes; it has more")
        if response.length:
            raise http.client.IncompleteRead(body, response.length)
        return body
    finally:
        response.close()


@final
class _Timed(io.RawIOBase):
    """What comes through a socket until a certain moment; from then on `TimeoutError`. A timeout of the socket's own
    begins anew with each byte.
    """

    def __init__(self, sock: socket.socket, until: float) -> None:
        self._sock = sock
        self._until = until

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        left = self._until - MonotonicClock.now()
        if left <= 0:
            raise TimeoutError
        self._sock.settimeout(left)
        return self._sock.recv_into(buffer)


# --- arguments ----------------------------------------------------------------------------------------------------


def _parser() -> Callable[[str], Iterable[Metric]]:
    try:
        from prometheus_client.parser import text_string_to_metric_families  # noqa: PLC0415 - of an extra
    except ImportError as error:
        raise ImportError("Utilization needs prometheus_client: pip install 'flowctl[prometheus]'") from error
    return text_string_to_metric_families


def _strings(field: str, value: object) -> tuple[str, ...]:
    strings = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, Sequence) else ()
    if not isinstance(value, str | Sequence) or not all(isinstance(string, str) for string in strings):
        raise TypeError(f"{field} must be a str or a sequence of them, not {shown(value)}")
    if not strings or not all(strings) or len(set(strings)) < len(strings):
        raise ValueError(f"{field} must be at least one, none empty and none twice, not {shown(value)}")
    return strings


def _page(url: str) -> Page:
    if not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError(f"url must be printable ASCII without spaces, not {shown(url)}")
    try:
        scheme, host, path, query, _ = parts = urlsplit(url)
        name, port = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"url must be a URL ({error}), not {shown(url)}") from None
    if scheme not in ("http", "https") or not name:
        raise ValueError(f"url must be http://host/path or https://host/path, not {shown(url)}")
    if "@" in host:
        raise ValueError(f"url must have no user and no password, as it is shown in errors: the one of {name} has")
    tls = ssl.create_default_context() if scheme == "https" else None
    return Page(url, tls, name, port, (path or "/") + (f"?{query}" if query else ""))


def _above_zero(field: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{field} must be a number, not {shown(value)}")
    number = _finite(field, value)
    if number <= 0:
        raise ValueError(f"{field} must be above 0, not {shown(value)}")
    return number


def _finite(name: str, value: float) -> float:
    try:
        number = float(value)
    except OverflowError:  # an int beyond every float
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite, not {number}")
    return number
