"""The activity against real servers: what is sent, what comes back, and what is never sent or recorded."""

from __future__ import annotations

import asyncio
import gc
import gzip
import os
import subprocess
import sys
import weakref
from dataclasses import dataclass

import pytest

from durable import FailureDetails
from durable.httpcall.activity import HttpCaller
from durable.httpcall.credentials import AzureTokenSource
from durable.httpcall.errors import (
    HttpCallError,
    HttpNotAllowedError,
    HttpRedirectError,
    HttpResponseError,
    UnknownCredentialError,
)
from durable.httpcall.values import HttpRequest, HttpResponse, Secret
from tests.http.server import Answer, Asked, LoopbackServer

CREDENTIALS = ("authorization", "cookie", "proxy-authorization", "x-functions-key", "x-api-key")


async def test_a_request_arrives_as_it_was_made(server: LoopbackServer, caller: HttpCaller) -> None:
    server.routes["/orders"] = Answer(201, {"ETag": "7"}, '{"id": "é"}'.encode())
    request = HttpRequest.of("POST", f"{server.url}/orders?dry=1#top", json={"n": "é"}, headers={"X-Trace": "a\tb"})
    response = await caller.call(request)
    assert response == HttpResponse(201, {"etag": "7", "content-length": "12"}, '{"id": "é"}', f"{server.url}/orders")
    (asked,) = server.asked
    assert (asked.method, asked.path, asked.body) == ("POST", "/orders?dry=1", '{"n":"é"}')
    assert (asked.headers["content-type"], asked.headers["x-trace"]) == ("application/json", "a\tb")


@pytest.mark.parametrize("status", [204, 304, 400, 404, 429, 500, 503])
async def test_every_status_is_a_result(server: LoopbackServer, caller: HttpCaller, status: int) -> None:
    server.routes["/"] = Answer(status, {"Retry-After": "3"})
    response = await caller.call(HttpRequest("GET", server.url))
    assert (response.status_code, response.headers["retry-after"]) == (status, "3")


async def test_calls_share_connections_and_no_cookies(server: LoopbackServer, caller: HttpCaller) -> None:
    server.routes["/"] = Answer(200, [("Set-Cookie", "session=swordfish"), ("X-Auth-Token", "swordfish"), ("A", "1")])
    responses = [await caller.call(HttpRequest("GET", server.url)) for _ in range(3)]
    assert server.connections == 1
    assert all("cookie" not in asked.headers for asked in server.asked)
    for response in responses:
        assert response.headers == {"set-cookie": "***", "x-auth-token": "***", "a": "1", "content-length": "0"}


async def test_a_closed_caller_connects_anew(server: LoopbackServer, caller: HttpCaller) -> None:
    server.routes["/"] = Answer()
    for _ in range(2):
        await caller.call(HttpRequest("GET", server.url))
        await caller.close()
    await caller.close()
    assert server.connections == 2


async def test_each_loop_has_a_client_of_its_own(server: LoopbackServer, caller: HttpCaller) -> None:
    server.routes["/"] = Answer()

    async def elsewhere() -> int:
        try:
            return (await caller.call(HttpRequest("GET", server.url))).status_code
        finally:
            await caller.close()

    await caller.call(HttpRequest("GET", server.url))
    assert [await asyncio.to_thread(asyncio.run, elsewhere()) for _ in range(2)] == [200, 200]
    await caller.call(HttpRequest("GET", server.url))
    assert server.connections == 3  # the first loop's client was kept


async def test_loops_that_are_gone_are_not_kept(caller: HttpCaller) -> None:
    loops: list[weakref.ref[asyncio.AbstractEventLoop]] = []

    async def elsewhere() -> None:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        with pytest.raises(HttpCallError):  # no connection, so nothing is left open
            await caller.call(HttpRequest("GET", "http://127.0.0.1:1/"))

    for _ in range(3):
        await asyncio.to_thread(asyncio.run, elsewhere())
    gc.collect()
    assert [loop() is None for loop in loops] == [True, True, False]


# --- failures ------------------------------------------------------------------------------


async def test_no_server_is_an_error(caller: HttpCaller) -> None:
    async with LoopbackServer().running() as stopped:
        url = f"{stopped.url}/a?sig=swordfish"
    with pytest.raises(
        HttpCallError, match=r"GET http://127.*/a\?\*\*\* got no complete response: ConnectError"
    ) as caught:
        await caller.call(HttpRequest("GET", url))
    details = FailureDetails.of(caught.value)
    assert details.is_caused_by("httpx.ConnectError")
    assert "swordfish" not in str(details)


async def test_a_connection_that_breaks_is_an_error(server: LoopbackServer, caller: HttpCaller) -> None:
    async def hang_up(asked: Asked) -> Answer:
        raise ConnectionError

    server.routes["/"] = hang_up
    with pytest.raises(HttpCallError, match="RemoteProtocolError"):
        await caller.call(HttpRequest("GET", server.url))


@pytest.mark.parametrize("own", [True, False], ids=["the request's", "the caller's"])
async def test_a_timeout_is_an_error(server: LoopbackServer, own: bool) -> None:
    async def never(asked: Asked) -> Answer:
        await asyncio.Event().wait()
        return Answer()

    server.routes["/"] = never
    caller = HttpCaller(timeout=60 if own else 0.2)
    with pytest.raises(TimeoutError, match=r"GET http://127.* had no complete response within 0.2 s"):
        await caller.call(HttpRequest("GET", server.url, timeout=0.2 if own else None))
    assert len(server.asked) == 1
    await caller.close()


async def test_a_timeout_of_a_source_is_its_own(server: LoopbackServer) -> None:
    async def slow() -> str:
        raise TimeoutError("the vault is slow")

    with pytest.raises(TimeoutError, match="the vault is slow"):
        await HttpCaller({"s": slow}).call(HttpRequest("GET", server.url, token_source="s"))


async def test_a_host_that_cannot_be_is_an_error(caller: HttpCaller) -> None:
    with pytest.raises(HttpCallError, match="its URL cannot be sent"):
        await caller.call(HttpRequest("GET", "http://xn--/"))


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(("size", "fits"), [(1000, True), (1001, False)])
async def test_a_body_has_a_limit(server: LoopbackServer, size: int, fits: bool, compressed: bool) -> None:
    body = b"x" * size
    server.routes["/"] = (
        Answer(200, {"content-encoding": "gzip"}, gzip.compress(body)) if compressed else Answer(body=body)
    )
    caller = HttpCaller(max_body=1000)
    if fits:
        assert (await caller.call(HttpRequest("GET", server.url))).content == body.decode()
    else:
        with pytest.raises(HttpResponseError, match=r"\(status 200\) is larger than 1,000 bytes"):
            await caller.call(HttpRequest("GET", server.url))
    await caller.close()


@pytest.mark.parametrize(
    ("content_type", "body"),
    [("image/png", b"\x89PNG"), ("text/plain; charset=no-such", b"x"), ("text/plain; charset=base64", b"eA==")],
)
async def test_a_body_that_is_not_text_is_refused(
    server: LoopbackServer, caller: HttpCaller, content_type: str, body: bytes
) -> None:
    server.routes["/"] = Answer(200, {"Content-Type": content_type}, body)
    with pytest.raises(HttpResponseError, match=r"is not .* text"):
        await caller.call(HttpRequest("GET", server.url))


async def test_a_declared_charset_counts(server: LoopbackServer, caller: HttpCaller) -> None:
    server.routes["/"] = Answer(200, {"Content-Type": "text/plain; charset=latin-1"}, b"\xe9")
    assert (await caller.call(HttpRequest("GET", server.url))).content == "é"


def test_without_httpx_the_extra_is_named() -> None:
    code = """
import asyncio, sys
import durable
sys.modules["httpx"] = None
from durable.httpcall.activity import HttpCaller
from durable.httpcall.values import HttpRequest
asyncio.run(HttpCaller().call(HttpRequest("GET", "http://127.0.0.1:9/")))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ModuleNotFoundError: HTTP calls need the package 'httpx'"), done.stderr
    assert "pip install 'durable-orchestrations[http]'" in last


def test_durable_does_not_import_httpx() -> None:
    code = "import sys, durable, durable.httpcall.activity, durable.httpcall.polling; sys.exit('httpx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=dict(os.environ), check=False, timeout=60).returncode == 0


# --- credentials ---------------------------------------------------------------------------


async def test_credentials_are_added_when_sent(server: LoopbackServer, caller: HttpCaller) -> None:
    server.routes["/"] = Answer()
    await caller.call(HttpRequest("GET", server.url, {"X-Api-Key": Secret("key")}, token_source="token"))
    await caller.call(HttpRequest("GET", server.url, token_source="token", token_resource="https://r/"))
    await caller.call(HttpRequest("GET", server.url, {"Authorization": Secret("key")}))
    first, second, third = (asked.headers for asked in server.asked)
    assert (first["x-api-key"], first["authorization"]) == ("key-1", "Bearer token-for-anyone")
    assert second["authorization"] == "Bearer token-for-https://r/"
    assert third["authorization"] == "key-1"


async def test_an_unknown_name_is_an_error_that_lists_the_known(server: LoopbackServer, caller: HttpCaller) -> None:
    for request in (
        HttpRequest("GET", server.url, token_source="x"),
        HttpRequest("GET", server.url, {"a": Secret("x")}),
    ):
        with pytest.raises(UnknownCredentialError, match=r"no .* 'x' is registered .*: key, token$"):
            await caller.call(request)
    assert server.asked == []


@pytest.mark.parametrize("value", ["", "swordfish\n", "sword\r\nfish: 1", "swördfish", None, b"swordfish"])
async def test_a_value_that_no_header_can_have_is_refused_unseen(server: LoopbackServer, value: str) -> None:
    async def bad() -> str:
        return value

    caller = HttpCaller({"bad": bad})
    for request in (
        HttpRequest("GET", server.url, token_source="bad"),
        HttpRequest("GET", server.url, {"Cookie": Secret("bad")}),
    ):
        with pytest.raises(ValueError, match="token source 'bad' returned cannot be a header's value") as caught:
            await caller.call(request)
        assert "fish" not in str(FailureDetails.of(caught.value).message)
    assert server.asked == []


@dataclass
class Token:
    token: str


class SyncCredential:
    """As azure-identity's: it blocks, so it must not run on the loop's thread."""

    def get_token(self, *scopes: str) -> Token:
        with pytest.raises(RuntimeError, match="no running event loop"):
            asyncio.get_running_loop()
        return Token(",".join(scopes))


class AsyncCredential:
    """As azure-identity's ``aio`` ones."""

    async def get_token(self, *scopes: str) -> Token:
        return Token(",".join(scopes))


@pytest.mark.parametrize("credential", [SyncCredential(), AsyncCredential()], ids=["sync", "async"])
async def test_azure_credentials_are_token_sources(
    server: LoopbackServer, credential: SyncCredential | AsyncCredential
) -> None:
    server.routes["/"] = Answer()
    caller = HttpCaller({"azure": AzureTokenSource(credential, "https://a/.default")})
    for resource in (None, "https://b/", "https://c/.default"):
        await caller.call(HttpRequest("GET", server.url, token_source="azure", token_resource=resource))
    assert [asked.headers["authorization"] for asked in server.asked] == [
        *("Bearer https://a/.default", "Bearer https://b//.default", "Bearer https://c/.default")
    ]
    await caller.close()


# --- redirects and the hook ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "method", "then"),
    [
        (301, "POST", "GET"),
        (302, "POST", "GET"),
        (303, "POST", "GET"),
        (307, "POST", "POST"),
        (308, "POST", "POST"),
        (301, "PUT", "PUT"),
        (303, "DELETE", "GET"),
        (303, "HEAD", "HEAD"),
        (302, "GET", "GET"),
    ],
)
async def test_methods_change_as_in_browsers(
    server: LoopbackServer, caller: HttpCaller, status: int, method: str, then: str
) -> None:
    server.routes["/a/b"] = Answer(status, {"Location": "c?d#e"})
    server.routes["/a/c"] = Answer(200)
    body = None if method in ("GET", "HEAD") else "body"
    response = await caller.call(HttpRequest(method, f"{server.url}/a/b", {"Content-Type": "text/x", "A": "1"}, body))
    assert (response.status_code, response.url) == (200, f"{server.url}/a/c")
    asked = server.asked[1]
    assert (asked.method, asked.path, asked.headers["a"]) == (then, "/a/c?d", "1")
    kept = then == method
    assert (asked.body, asked.headers.get("content-type")) == ((body or "", "text/x") if kept else ("", None))


async def test_credentials_stay_on_their_origin(
    server: LoopbackServer, other: LoopbackServer, caller: HttpCaller
) -> None:
    """Also when the other origin redirects back."""
    server.routes["/"] = Answer(307, {"Location": "/same"})
    server.routes["/same"] = Answer(307, {"Location": f"{other.url}/away"})
    other.routes["/away"] = Answer(307, {"Location": f"{server.url}/back"})
    server.routes["/back"] = Answer(200)
    for request in (
        HttpRequest("POST", server.url, {**{name: Secret("key") for name in CREDENTIALS}, "Accept": "a/b"}, "body"),
        HttpRequest("POST", server.url, {"Accept": "a/b"}, "body", token_source="token"),
    ):
        server.asked.clear()
        other.asked.clear()
        assert (await caller.call(request)).status_code == 200
        asked_here, same, back = server.asked
        assert asked_here.headers == same.headers
        sent = {name for name in CREDENTIALS if name in same.headers}
        assert sent == (set(CREDENTIALS) if request.token_source is None else {"authorization"})
        for away in (*other.asked, back):
            assert not sent & set(away.headers)
            assert (away.method, away.body, away.headers["accept"]) == ("POST", "body", "a/b")
        assert len(other.asked) == 1


@pytest.mark.parametrize(("redirects", "fits"), [(10, True), (11, False)])
async def test_ten_redirects_are_followed(
    server: LoopbackServer, caller: HttpCaller, redirects: int, fits: bool
) -> None:
    for number in range(redirects):
        server.routes[f"/{number}"] = Answer(302, {"Location": f"/{number + 1}"})
    server.routes[f"/{redirects}"] = Answer(200)
    if fits:
        assert (await caller.call(HttpRequest("GET", f"{server.url}/0"))).status_code == 200
    else:
        with pytest.raises(HttpRedirectError, match=r"/0 was redirected more than 10 times; .* to http://127.*/11$"):
            await caller.call(HttpRequest("GET", f"{server.url}/0"))
    assert len(server.asked) == 11


@pytest.mark.parametrize("location", ["ftp://h/", "http://user:swordfish@h/", "file:///etc/passwd", "http://["])
async def test_a_redirect_to_what_is_no_http_url_is_refused(
    server: LoopbackServer, caller: HttpCaller, location: str
) -> None:
    server.routes["/"] = Answer(302, {"Location": location})
    with pytest.raises(HttpRedirectError, match=r"was redirected \(302\), which is refused: URL") as caught:
        await caller.call(HttpRequest("GET", server.url))
    assert "swordfish" not in str(caught.value)


async def test_a_redirect_without_location_is_the_result(server: LoopbackServer, caller: HttpCaller) -> None:
    server.routes["/"] = Answer(302, {}, b"where?")
    response = await caller.call(HttpRequest("GET", server.url))
    assert (response.status_code, response.content) == (302, "where?")


async def test_the_hook_is_asked_about_each_url(server: LoopbackServer, other: LoopbackServer) -> None:
    seen: list[str] = []

    def allow(url: str) -> bool:
        seen.append(url)
        return url.startswith(server.url)

    server.routes["/in"] = Answer(302, {"Location": "/x/../ok"})
    server.routes["/ok"] = Answer(302, {"Location": f"{other.url}/out?sig=swordfish"})
    fetched = 0

    async def key() -> str:
        nonlocal fetched
        fetched += 1
        return "key-1"

    caller = HttpCaller({"key": key}, allow=allow)
    with pytest.raises(HttpNotAllowedError, match=r"GET http://127.*/out\?\*\*\* is not allowed"):
        await caller.call(HttpRequest("GET", f"{server.url}/in"))
    with pytest.raises(HttpNotAllowedError, match="is not allowed"):
        await caller.call(HttpRequest("GET", f"{other.url}/first", {"Cookie": Secret("key")}))
    assert seen == [f"{server.url}/in", f"{server.url}/ok", f"{other.url}/out?sig=swordfish", f"{other.url}/first"]
    assert (other.asked, fetched) == ([], 0)
    await caller.close()


async def test_a_call_can_be_cancelled(server: LoopbackServer, caller: HttpCaller) -> None:
    arrived = asyncio.Event()

    async def never(asked: Asked) -> Answer:
        arrived.set()
        await asyncio.Event().wait()
        return Answer()

    server.routes["/"] = never
    server.routes["/ok"] = Answer()
    call = asyncio.create_task(caller.call(HttpRequest("GET", server.url)))
    await asyncio.wait_for(arrived.wait(), 20)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert (await caller.call(HttpRequest("GET", f"{server.url}/ok"))).ok
