"""What a request may be, what is refused with which words, and how both values survive history."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable import PayloadError
from durable.httpcall.headers import is_sensitive, redacted
from durable.httpcall.urls import check_url, origin, resolve, shown
from durable.httpcall.values import HttpRequest, HttpResponse, Secret
from durable.payloads import CallCodec


async def echo(request: HttpRequest) -> HttpRequest:
    return request


async def answer(response: HttpResponse) -> HttpResponse:
    return response


@pytest.mark.parametrize(
    ("url", "rule"),
    [
        ("ftp://h/", "must start with http:// or https://"),
        ("/path", "must start with http:// or https://"),
        ("", "must start with http:// or https://"),
        ("http://", "has no host"),
        ("http:///path", "has no host"),
        ("http://:80/", "has no host"),
        ("http://h:99999/", "has a port that is not"),
        ("http://h:x/", "has a port that is not"),
        ("http://[::1/", "cannot be parsed"),
        ("http://h/a b", "has white space"),
        ("http://h/\r\nx: y", "has white space"),
        ("http://good\\@evil/", "a backslash"),
        ("http://user:pass@h/", "has credentials before its host"),
        ("http://user@h/", "has credentials before its host"),
    ],
)
def test_bad_urls_are_refused(url: str, rule: str) -> None:
    with pytest.raises(ValueError, match="URL") as caught:
        HttpRequest("GET", url)
    assert rule in str(caught.value)
    assert "pass" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://h", "HTTPS://H:8080/a/../b?x=1#f", "http://[::1]:80/", "http://é.example/ü"])
def test_good_urls_are_kept_as_they_are(url: str) -> None:
    assert HttpRequest("get", url).url == url


@pytest.mark.parametrize("method", ["", "G ET", "GET\r\n", "GÉT", "GET/"])
def test_bad_methods_are_refused(method: str) -> None:
    with pytest.raises(ValueError, match="HTTP method"):
        HttpRequest(method, "http://h/")


@pytest.mark.parametrize(
    ("headers", "rule"),
    [
        ({"": "x"}, "header name ''"),
        ({"a b": "x"}, "header name 'a b'"),
        ({"a\r\nb": "x"}, "header name"),
        ({"a:": "x"}, "header name"),
        ({"a": "x\r\nb: y"}, "visible ASCII"),
        ({"a": "x\n"}, "visible ASCII"),
        ({"a": " x"}, "visible ASCII"),
        ({"a": "é"}, "visible ASCII"),
        ({"a": 5}, "visible ASCII"),
        ({"a": "1", "A": "2"}, "is given twice"),
        ({"Host": "h"}, "follows from the URL"),
        ({"Content-Length": "1"}, "follows from the URL"),
        ({"Transfer-Encoding": "chunked"}, "follows from the URL"),
        ({"a": Secret("")}, "has no name"),
    ],
)
def test_bad_headers_are_refused(headers: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValueError, match="header") as caught:
        HttpRequest("GET", "http://h/", headers)
    assert rule in str(caught.value)


SENSITIVE = [
    *("Authorization", "Proxy-Authorization", "Cookie", "Set-Cookie", "x-functions-key", "X-API-Key", "apikey"),
    *("Ocp-Apim-Subscription-Key", "X-Auth-Token", "PRIVATE-TOKEN", "X-Amz-Security-Token", "X-Client-Secret"),
    *("aeg-sas-key", "DD-APPLICATION-KEY", "X-Password", "X-Vault-Token", "x-access-token", "X-AuthToken"),
]
HARMLESS = [
    *("Content-Type", "Accept", "Idempotency-Key", "ETag", "Location", "Retry-After", "X-Request-Id", "Keys", "Author"),
    *("WWW-Authenticate", "Cookies-Eaten", "Surrogate-Key", "x-ms-continuationtoken"),
]


@pytest.mark.parametrize("name", SENSITIVE)
def test_literal_credentials_are_refused_without_being_shown(name: str) -> None:
    with pytest.raises(ValueError, match=r"token_source='name'.*Secret\('name'\)") as caught:
        HttpRequest("GET", "http://h/", {name: "swordfish\n"})
    assert name in str(caught.value)
    assert "swordfish" not in str(caught.value)
    assert HttpRequest("GET", "http://h/", {name: Secret("n")}).headers == {name.lower(): Secret("n")}


@pytest.mark.parametrize("name", HARMLESS)
def test_other_headers_are_not_credentials(name: str) -> None:
    assert not is_sensitive(name)
    assert redacted({name: "value"}) == {name: "value"}


def test_redacted_headers_can_be_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        logging.getLogger("test").info(
            "%s", redacted({**dict.fromkeys(SENSITIVE, "swordfish"), "Accept": "text/plain"})
        )
    assert "swordfish" not in caplog.text
    assert "'Set-Cookie': '***'" in caplog.text
    assert "'Accept': 'text/plain'" in caplog.text


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"timeout": 0}, "timeout 0 must be"),
        ({"timeout": -1.5}, "timeout -1.5 must be"),
        ({"timeout": float("nan")}, "timeout nan must be"),
        ({"timeout": float("inf")}, "timeout inf must be"),
        ({"token_source": ""}, "must be the name of a token source"),
        ({"token_resource": "r"}, "token_resource 'r' needs a token_source"),
        ({"token_source": "t", "headers": {"Authorization": Secret("s")}}, "give one of them"),
        ({"json": {}, "content": "x"}, "both json and content for POST http://h/; give one"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValueError, match=r"must|needs|give one") as caught:
        HttpRequest.of("POST", "http://h/", **options)
    assert rule in str(caught.value)


def test_json_becomes_the_body() -> None:
    request = HttpRequest.of("post", "http://h/", json={"a": [1, "é"]}, headers={"Accept": "*/*"})
    assert request == HttpRequest(
        "POST", "http://h/", {"content-type": "application/json", "accept": "*/*"}, '{"a":[1,"é"]}'
    )
    given_type = HttpRequest.of("POST", "http://h/", json=[], headers={"Content-Type": "application/x+json"})
    assert given_type.headers == {"content-type": "application/x+json"}
    with pytest.raises(PayloadError, match=r"the JSON body of POST http://h/\?\*\*\* at \['x'\]"):
        HttpRequest.of("POST", "http://h/?sig=1", json={"x": object()})


def test_both_values_survive_history() -> None:
    request = HttpRequest.of(
        "PUT",
        "http://h/?q=1",
        headers={"X-Api-Key": Secret("crm"), "Accept": "*/*"},
        content="é\x00",
        timeout=2.5,
        token_source="azure",
        token_resource="https://r/",
    )
    codec = CallCodec(echo, "activity 'echo'")
    assert codec.decode_arguments(codec.encode_arguments((request,), {})) == ((request,), {})
    response = HttpResponse(202, {"location": "/x"}, "ü", "http://h/")
    codec = CallCodec(answer, "activity 'answer'")
    assert codec.decode_arguments(codec.encode_arguments((response,), {})) == ((response,), {})


def test_history_that_breaks_a_rule_is_refused_when_read() -> None:
    codec = CallCodec(echo, "activity 'echo'")
    with pytest.raises(PayloadError, match=r"activity 'echo': argument request.*must start with http"):
        codec.decode_arguments('[{"method": "GET", "url": "ftp://h/"}]')


@pytest.mark.parametrize(("status", "ok"), [(199, False), (200, True), (299, True), (304, False), (404, False)])
def test_ok_is_success(status: int, ok: bool) -> None:
    assert HttpResponse(status).ok is ok


def test_a_response_reads_as_json_and_by_lower_case_names() -> None:
    response = HttpResponse(200, {"ETag": "1"}, '{"a": 1}')
    assert (response.headers, response.json()) == ({"etag": "1"}, {"a": 1})
    with pytest.raises(ValueError, match=r"response with status 502 is not JSON.*'<html>'"):
        HttpResponse(502, {}, "<html>").json()


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("http://u:p@h/a?sig=s#f", "http://***@h/a?***"),
        ("http://h/a#f", "http://h/a"),
        ("https://h/~a/@me", "https://h/~a/***@me"),
    ],
)
def test_urls_in_messages_have_no_secrets(url: str, text: str) -> None:
    assert shown(url) == text


def test_origins() -> None:
    assert origin("HTTP://Example.com/a") == origin("http://example.com:80/b")
    assert len({origin(u) for u in ("http://h", "https://h", "http://h:81", "http://g", "https://h:80")}) == 5


@pytest.mark.parametrize(
    ("location", "url"),
    [
        ("/b?x#f", "http://h/b?x"),
        ("b", "http://h/a/b"),
        ("//g/b", "http://g/b"),
        ("https://g/", "https://g/"),
        ("?x", "http://h/a/?x"),
    ],
)
def test_locations_are_resolved(location: str, url: str) -> None:
    assert resolve("http://h/a/", location) == url


@given(st.text())
def test_no_text_breaks_the_check_of_urls(text: str) -> None:
    for url in (text, f"http://{text}", f"http://h{text}"):
        try:
            check_url(url)
        except ValueError as error:
            assert shown(url) in str(error) or repr(shown(url)) in str(error)
        else:
            assert origin(url)[1]
