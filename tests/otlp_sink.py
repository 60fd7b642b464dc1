"""An OTLP receiver for tests: HTTP (gzip, too) and gRPC on loopback, whose spans a test can look at.

It can refuse with 503, all or spans of one name; and it can hang: then it answers when it is told to.
"""

from __future__ import annotations

import gzip
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc  # type: ignore[import-untyped]
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

DEADLINE = 30
_METHOD = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"


@dataclass(frozen=True)
class Received:
    """One span as it came."""

    span: Span
    resource: dict[str, Any]
    scope: str

    @property
    def name(self) -> str:
        return str(self.span.name)

    @property
    def kind(self) -> str:
        return str(Span.SpanKind.Name(self.span.kind)).removeprefix("SPAN_KIND_")

    @property
    def trace_id(self) -> str:
        return self.span.trace_id.hex()

    @property
    def span_id(self) -> str:
        return self.span.span_id.hex()

    @property
    def parent_id(self) -> str:
        return self.span.parent_span_id.hex()

    @property
    def attributes(self) -> dict[str, Any]:
        return _attributes(self.span.attributes)

    @property
    def links(self) -> list[tuple[str, str, dict[str, Any]]]:
        return [(link.trace_id.hex(), link.span_id.hex(), _attributes(link.attributes)) for link in self.span.links]


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(one) for one in value.array_value.values]
    return None if kind is None else getattr(value, kind)


class Sink:
    """What came in, and how to answer."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._received: list[Received] = []
        self._go_on = threading.Event()
        self._go_on.set()
        self._stopped = False
        self.refuses = False
        self.refuses_name = ""
        self.refused = 0
        self.hanging = 0
        self.encodings: set[str] = set()
        self.http_port = 0
        self.grpc_port = 0

    @property
    def http_url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}/v1/traces"

    @property
    def spans(self) -> list[Received]:
        """All that was taken, in the order of coming, repetitions too."""
        with self._condition:
            return list(self._received)

    def distinct(self) -> dict[str, Received]:
        """The spans by id, after checking that each id came with one content only."""
        by_id: dict[str, Received] = {}
        for one in self.spans:
            first = by_id.setdefault(one.span_id, one)
            assert first.span.SerializeToString(deterministic=True) == one.span.SerializeToString(deterministic=True)
            assert first.resource == one.resource
        return by_id

    def of(self, instance_id: str) -> list[Received]:
        """The distinct spans of an instance."""
        return [
            one for one in self.distinct().values() if one.attributes.get("durabletask.task.instance_id") == instance_id
        ]

    def wait(self, good: Callable[[Sink], bool], deadline: float = DEADLINE) -> None:
        """Wait until what is here is ``good``. Raises AssertionError after ``deadline`` seconds. Blocks."""
        with self._condition:
            if not self._condition.wait_for(lambda: good(self), deadline):
                names = Counter(one.name for one in self._received)
                raise AssertionError(f"not received within {deadline} s; here: {names}, refused {self.refused}")

    def hang(self) -> None:
        """Answer nobody until :meth:`go_on`."""
        self._go_on.clear()

    def go_on(self) -> None:
        """Answer those who wait."""
        self._go_on.set()

    def take(self, body: bytes) -> bool:
        """Take in a request; False when it is refused."""
        with self._condition:
            self.hanging += 1
            self._condition.notify_all()
        self._go_on.wait()
        with self._condition:
            self.hanging -= 1
            request = ExportTraceServiceRequest.FromString(body)
            names = {span.name for group in request.resource_spans for part in group.scope_spans for span in part.spans}
            if self.refuses or self._stopped or self.refuses_name in names:
                self.refused += 1
                self._condition.notify_all()
                return False
            for group in request.resource_spans:
                resource = _attributes(group.resource.attributes)
                for part in group.scope_spans:
                    self._received += [Received(span, resource, part.scope.name) for span in part.spans]
            self._condition.notify_all()
            return True

    def stop(self) -> None:
        """Let those who hang go."""
        self._stopped = True
        self._go_on.set()


def _handler(sink: Sink) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            encoding = self.headers.get("Content-Encoding", "identity")
            sink.encodings.add(encoding)
            taken = sink.take(gzip.decompress(body) if encoding == "gzip" else body)
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200 if taken else 503)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            with suppress(BrokenPipeError, ConnectionResetError):  # it no longer waits
                self.wfile.write(answer)

        def log_message(self, format: str, *args: Any) -> None:
            pass  # tests look at what came, not at a log

    return Handler


def _grpc_server(sink: Sink) -> tuple[grpc.Server, int]:
    def export(body: bytes, context: grpc.ServicerContext) -> bytes:
        if not sink.take(body):
            context.abort(grpc.StatusCode.UNAVAILABLE, "refused")
        return bytes(ExportTraceServiceResponse().SerializeToString())

    class Service(grpc.GenericRpcHandler):  # type: ignore[misc]
        def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
            return grpc.unary_unary_rpc_method_handler(export) if details.method == _METHOD else None

    server = grpc.server(ThreadPoolExecutor(4), handlers=[Service()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, port


@contextmanager
def running_sink() -> Iterator[Sink]:
    """A receiver on two free ports of loopback."""
    sink = Sink()
    http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(sink))
    http.daemon_threads = True
    sink.http_port = http.server_port
    thread = threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    server, sink.grpc_port = _grpc_server(sink)
    try:
        yield sink
    finally:
        sink.stop()
        http.shutdown()
        http.server_close()
        thread.join()
        server.stop(0).wait()
