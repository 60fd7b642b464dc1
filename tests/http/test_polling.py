"""Polling on a clock of its own: when it asks again, whom, and with what."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable.httpcall.activity import HttpCaller
from durable.httpcall.errors import HttpNotAllowedError, HttpPollingError
from durable.httpcall.polling import MAX_RETRY_AFTER, MIN_RETRY_AFTER, call_with_polling, retry_after
from durable.httpcall.values import HttpRequest, HttpResponse, Secret
from tests.http.server import Answer, LoopbackServer

START = datetime(2026, 1, 31, 23, 59, 50, tzinfo=UTC)


class VirtualClock:
    """Time passes in sleeps only."""

    def __init__(self) -> None:
        self.time = START
        self.sleeps: list[float] = []

    def now(self) -> datetime:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.time += timedelta(seconds=seconds)


async def poll(
    caller: HttpCaller, clock: VirtualClock, request: HttpRequest, *, follow_202: bool = True, default_poll: float = 1.0
) -> HttpResponse:
    return await call_with_polling(caller.call, clock.now, clock.sleep, request, follow_202, default_poll)


async def test_it_asks_until_it_is_done(server: LoopbackServer, caller: HttpCaller) -> None:
    clock = VirtualClock()
    left = iter(
        [
            Answer(202, {"Location": "/jobs/1", "Retry-After": "30"}),
            Answer(
                202, {"Location": "2?x=1", "Retry-After": format_datetime(START + timedelta(seconds=75), usegmt=True)}
            ),
            Answer(202, {"Location": "/jobs/3"}),
            Answer(200, {"Location": "/ignored"}, b"done"),
        ]
    )
    for path in ("/start", "/jobs/1", "/jobs/2", "/jobs/3"):
        server.routes[path] = lambda asked: next(left)
    response = await poll(caller, clock, HttpRequest.of("POST", f"{server.url}/start", json={}), default_poll=7)
    assert (response.status_code, response.content, response.url) == (200, "done", f"{server.url}/jobs/3")
    assert clock.sleeps == [30, 45, 7]
    assert [(asked.method, asked.path, asked.body) for asked in server.asked] == [
        ("POST", "/start", "{}"),
        ("GET", "/jobs/1", ""),
        ("GET", "/jobs/2?x=1", ""),
        ("GET", "/jobs/3", ""),
    ]


async def test_polls_have_the_headers_but_those_of_the_body_and_the_functions_key(
    server: LoopbackServer, caller: HttpCaller
) -> None:
    server.routes["/"] = Answer(202, {"Location": "/job"})
    server.routes["/job"] = Answer(500)
    secrets: dict[str, str | Secret] = {"x-functions-key": Secret("key"), "x-api-key": Secret("key")}
    headers = {"Accept": "a/b", "Content-Type": "text/x", "Content-Language": "en", **secrets}
    request = HttpRequest("PUT", server.url, headers, "body", token_source="token")
    assert (await poll(caller, VirtualClock(), request)).status_code == 500
    first, second = server.asked
    assert {"x-functions-key", "content-type", "content-language", "content-length"} <= set(first.headers)
    for name in ("x-functions-key", "content-type", "content-language", "content-length"):
        del first.headers[name]
    assert second.headers == first.headers
    assert (second.headers["authorization"], second.headers["x-api-key"]) == ("Bearer token-for-anyone", "key-1")


async def test_credentials_stay_on_their_origin(
    server: LoopbackServer, other: LoopbackServer, caller: HttpCaller
) -> None:
    server.routes["/"] = Answer(202, {"Location": f"{other.url}/away"})
    other.routes["/away"] = Answer(202, {"Location": f"{server.url}/back"})
    server.routes["/back"] = Answer(200)
    request = HttpRequest("GET", server.url, {"Cookie": Secret("key"), "Accept": "a/b"}, token_source="token")
    assert (await poll(caller, VirtualClock(), request)).ok
    first, back = server.asked
    assert {"cookie", "authorization"} <= set(first.headers)
    for asked in (*other.asked, back):
        assert not {"cookie", "authorization"} & set(asked.headers)
        assert asked.headers["accept"] == "a/b"


async def test_another_origin_does_not_direct_credentials(
    server: LoopbackServer, other: LoopbackServer, caller: HttpCaller
) -> None:
    """A redirect led away, and the 202 from there names a Location back home."""
    server.routes["/"] = Answer(307, {"Location": other.url})
    other.routes["/"] = Answer(202, {"Location": f"{server.url}/secret"})
    server.routes["/secret"] = Answer(200)
    assert (await poll(caller, VirtualClock(), HttpRequest("GET", server.url, token_source="token"))).ok
    assert ["authorization" in asked.headers for asked in server.asked] == [True, False]


async def test_a_location_is_relative_to_where_the_redirects_led(
    server: LoopbackServer, other: LoopbackServer, caller: HttpCaller
) -> None:
    server.routes["/"] = Answer(307, {"Location": f"{other.url}/deep/start"})
    other.routes["/deep/start"] = Answer(202, {"Location": "job"})
    other.routes["/deep/job"] = Answer(200)
    assert (await poll(caller, VirtualClock(), HttpRequest("GET", server.url))).ok
    assert [asked.path for asked in other.asked] == ["/deep/start", "/deep/job"]


@pytest.mark.parametrize(
    ("answer", "follow"),
    [
        (Answer(202, {"Retry-After": "1"}, b"x"), True),
        (Answer(202, {"Location": "/job"}, b"x"), False),
        (Answer(201, {"Location": "/job"}, b"x"), True),
    ],
    ids=["no Location", "not asked to", "not 202"],
)
async def test_it_returns_what_is_not_to_be_polled(
    server: LoopbackServer, caller: HttpCaller, answer: Answer, follow: bool
) -> None:
    server.routes["/"] = answer
    clock = VirtualClock()
    response = await poll(caller, clock, HttpRequest("GET", server.url), follow_202=follow)
    assert (response.status_code, response.content, clock.sleeps) == (answer.status, "x", [])


@pytest.mark.parametrize("location", ["ftp://h/", "http://u:swordfish@h/", "http://["])
async def test_a_location_that_is_no_http_url_is_refused(
    server: LoopbackServer, caller: HttpCaller, location: str
) -> None:
    server.routes["/"] = Answer(202, {"Location": location})
    with pytest.raises(HttpPollingError, match="answered by 202 with a Location that is refused: URL") as caught:
        await poll(caller, VirtualClock(), HttpRequest("GET", server.url))
    assert "swordfish" not in str(caught.value)


async def test_the_hook_is_asked_about_polls(server: LoopbackServer, other: LoopbackServer) -> None:
    server.routes["/"] = Answer(202, {"Location": other.url})
    caller = HttpCaller(allow=lambda url: url.startswith(server.url))
    with pytest.raises(HttpNotAllowedError, match="is not allowed"):
        await poll(caller, VirtualClock(), HttpRequest("GET", server.url))
    assert other.asked == []
    await caller.close()


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
async def test_a_poll_interval_is_above_zero(caller: HttpCaller, seconds: float) -> None:
    with pytest.raises(ValueError, match=r"default_poll .* must be"):
        await poll(caller, VirtualClock(), HttpRequest("GET", "http://127.0.0.1/"), default_poll=seconds)


def at(seconds: float) -> str:
    return format_datetime(START + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120),
        (" 5 ", 5),
        ("0", MIN_RETRY_AFTER),
        ("9" * 5000, MAX_RETRY_AFTER),
        ("86401", MAX_RETRY_AFTER),
        (at(90), 90),
        (at(-90), MIN_RETRY_AFTER),
        (at(1e6), MAX_RETRY_AFTER),
        ("Sunday, 01-Feb-26 00:00:50 GMT", 60),
        ("Sun Feb  1 00:00:50 2026", 60),
        ("Sun, 01 Feb 2026 00:00:50 -0000", 60),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("٣", None),
        ("Sun, 99 Feb 2026 00:00:50 GMT", None),
    ],
)
def test_retry_after(value: str, seconds: float | None) -> None:
    assert retry_after(value, START) == seconds


def test_retry_after_in_another_time_zone() -> None:
    assert retry_after(at(90), START.astimezone(timezone(timedelta(hours=-5)))) == 90


@given(st.text() | st.text(alphabet="0123456789 ,:-+GMTSunFeb"))
def test_no_retry_after_leaves_the_bounds(value: str) -> None:
    seconds = retry_after(value, START)
    assert seconds is None or MIN_RETRY_AFTER <= seconds <= MAX_RETRY_AFTER
