"""What a worker lends to orchestrator code: codec, seeded randomness, a logger that is silent in replay."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, MutableMapping
from random import Random
from typing import Any

from durable.core.context import OrchestrationContext
from durable.core.retry import RetryPolicy
from durable.core.services import ActivityTarget, CallTarget, OrchestratorTarget
from durable.httpcall.polling import call_with_polling
from durable.httpcall.values import ACTIVITY_NAME, HttpRequest, HttpResponse
from durable.payloads import encode, reader
from durable.registry import Registry

_user_log = logging.getLogger("durable.orchestrator")


class ReplaySafeLogger(logging.LoggerAdapter[logging.Logger]):
    """Drops records while its instance replays, and adds instance, execution and orchestrator to the others."""

    def __init__(self, context: OrchestrationContext) -> None:
        fields = {
            "instance_id": context.instance_id,
            "execution_id": context.execution_id,
            "orchestrator": context.name,
        }
        super().__init__(_user_log, fields)
        self._context = context

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - logging's name
        return self._context.is_live and super().isEnabledFor(level)

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        # The id as it is now: a fork began under that of its origin.
        own = {**(self.extra or {}), "instance_id": self._context.instance_id}
        kwargs["extra"] = {**own, **kwargs.get("extra", {})}
        return msg, kwargs


class WorkerServices:
    """Implements ``durable.core.context.Services`` over a registry."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def activity(self, name: str) -> ActivityTarget[Any]:
        return self._registry.activity_target(name)

    def check_queue(self, name: str) -> None:
        self._registry.find_queue(name)

    def orchestrator(self, name: str) -> OrchestratorTarget[Any]:
        return self._registry.orchestrator_target(name)

    def operation(self, entity: str, name: str) -> CallTarget[Any]:
        return self._registry.operation_target(entity, name)

    def encode(self, value: object, what: str) -> str:
        return encode(value, what)

    def decoder(self, kind: Any, what: str) -> Callable[[str], Any]:
        return reader(kind, what)

    def http_call(
        self,
        context: OrchestrationContext,
        method: str,
        url: str,
        *,
        retry: RetryPolicy | None,
        follow_202: bool,
        **options: Any,
    ) -> Coroutine[Any, Any, HttpResponse]:
        request = HttpRequest.of(method, url, **options)
        activity = self._registry.find_activity(ACTIVITY_NAME).options(retry=retry)

        def send(request: HttpRequest) -> asyncio.Future[HttpResponse]:
            return context.call_activity(activity, request)

        return call_with_polling(send, lambda: context.now, asyncio.sleep, request, follow_202)

    def random(self, seed: str) -> Random:
        return Random(seed)

    def logger(self, context: OrchestrationContext) -> ReplaySafeLogger:
        return ReplaySafeLogger(context)

    def report(self, context: OrchestrationContext, problem: dict[str, Any]) -> None:
        """Log what asyncio's exception handler would: an error nobody awaited."""
        context.logger.error(
            "instance %s: %s", context.instance_id, problem.get("message"), exc_info=problem.get("exception")
        )
