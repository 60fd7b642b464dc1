"""What the core borrows from the shell: how calls are written and read, randomness, logging.

Rule of this file: protocols only. Payloads are JSON text, opaque to the core.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    import logging
    from random import Random

    from durable.core.context import OrchestrationContext
    from durable.core.event_parts import QueuePlace
    from durable.core.retry import RetryPolicy

R_co = TypeVar("R_co", covariant=True)


class CallTarget(Protocol[R_co]):
    """What can be called: a name, how to write its arguments, how to read its result."""

    @property
    def name(self) -> str: ...

    def encode_arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str: ...

    def decode_result(self, payload: str) -> R_co: ...


class ActivityTarget(CallTarget[R_co], Protocol[R_co]):
    """An activity; ``timeout`` and ``heartbeat_timeout`` are microseconds for one attempt."""

    @property
    def timeout(self) -> int | None: ...

    @property
    def heartbeat_timeout(self) -> int | None: ...

    @property
    def retry(self) -> RetryPolicy | None: ...

    @property
    def queue(self) -> QueuePlace | None: ...


class OrchestratorTarget(CallTarget[R_co], Protocol[R_co]):
    """An orchestrator, with what a call of it as a sub-orchestration may choose."""

    @property
    def retry(self) -> RetryPolicy | None: ...

    @property
    def instance_id(self) -> str | None: ...

    @property
    def version(self) -> str | None: ...

    @property
    def parent_close(self) -> str: ...


class Services(Protocol):
    """What the shell lends to orchestrator code; the core itself has no codec, randomness or logging."""

    def activity(self, name: str) -> ActivityTarget[Any]:
        """The activity of that name, typed when it is registered here."""
        ...

    def check_queue(self, name: str) -> None:
        """Raises UnknownFunctionError for an activity queue that is not registered here."""
        ...

    def orchestrator(self, name: str) -> OrchestratorTarget[Any]:
        """The orchestrator of that name, typed when it is registered here."""
        ...

    def operation(self, entity: str, name: str) -> CallTarget[Any]:
        """An operation of the entity of that name, typed when it is registered here."""
        ...

    def encode(self, value: object, what: str) -> str:
        """``value`` as JSON text; ``what`` is named in the error."""
        ...

    def decoder(self, kind: Any, what: str) -> Callable[[str], Any]:
        """Reads JSON text as a value of the annotation ``kind``; ``what`` is named in the error."""
        ...

    def http_call(
        self,
        context: OrchestrationContext,
        method: str,
        url: str,
        *,
        retry: RetryPolicy | None,
        follow_202: bool,
        **options: Any,
    ) -> Coroutine[Any, Any, Any]:
        """A durable HTTP call that has not started; ``options`` as of ``OrchestrationContext.call_http``."""
        ...

    def random(self, seed: str) -> Random: ...

    def logger(self, context: OrchestrationContext) -> logging.LoggerAdapter[logging.Logger]: ...

    def report(self, context: OrchestrationContext, problem: dict[str, Any]) -> None:
        """A callback or a forgotten task raised; ``problem`` is asyncio's exception-handler context."""
        ...
