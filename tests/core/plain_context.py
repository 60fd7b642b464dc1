"""The context that a random program has in the model: the same methods as an orchestrator's, on plain futures.

Rule of this file: a method says its command and hands out a promise; what becomes of it is the model's business.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from datetime import timedelta
from random import Random
from typing import Any, NoReturn, Self

from durable.core.errors import ActivityFailedError, ContinuedAsNew, LockingRulesViolationError
from durable.core.futures import Future
from durable.core.ids import EntityId
from durable.core.retry import RetryPolicy

from .asyncio_model import Held, Lazy, Model, Promise

_SILENT = logging.getLogger("tests.silent")
_SILENT.disabled = True


@dataclass(frozen=True)
class Target:
    """What the program calls: an activity (``"step"``) or an orchestrator (``"child"``)."""

    context: PlainContext
    name: str
    parent_close: str = "terminate"
    retry: RetryPolicy | None = None

    def options(self, **changed: Any) -> Target:
        return replace(self, **changed)

    def __call__(self, label: int) -> Coroutine[Any, Any, Any]:
        if self.name == "child":
            self.context.check_child()
            return Lazy(lambda: self.context.begin_child(label, self.parent_close))
        if self.retry is not None:
            return self.context.retried(self.retry, label)
        return Lazy(lambda: self.context.begin_step(label))


class Section:
    """A critical section, to be entered once."""

    def __init__(self, context: PlainContext, entity_ids: tuple[str, ...]) -> None:
        self._context = context
        self._entity_ids = entity_ids
        self._held: Held | None = None

    async def __aenter__(self) -> Self:
        self._held, promise = self._context.enter(self._entity_ids)
        try:
            await promise
        except asyncio.CancelledError:
            self._context.leave(self._held)
            raise
        return self

    async def __aexit__(self, *error: object) -> None:
        self._context.leave(self._held)


class PlainContext(Model):
    """A model with what its program asks for. ``seed`` is that of the engine's context."""

    logger = _SILENT

    def __init__(self, main: Callable[[PlainContext], Coroutine[Any, Any, Any]], start: int, seed: str) -> None:
        super().__init__(lambda _: main(self), start)
        self.step = Target(self, "step")
        self.child = Target(self, "child")
        self.random = Random(seed)
        self._retry_random = Random(f"{seed}/retries")
        self._patches: set[str] = set()

    # --- activities and children -----------------------------------------------------------------------

    def call_activity(self, target: Target, label: int) -> asyncio.Future[Any]:
        return self._begun(target(label))

    def call_activity_with_retry(self, target: Target, retry: RetryPolicy, label: int) -> asyncio.Future[Any]:
        return self._begun(self.retried(retry, label))

    def call_sub_orchestrator(self, target: Target, label: int) -> asyncio.Future[Any]:
        return self._begun(target(label))

    def start_orchestration(self, target: Target, label: int) -> None:
        self._say("start", self._next_id(), "child", label)

    def begin_step(self, label: int, attempts: int = 0, first: int = 0) -> Promise:
        task_id = self._next_id()
        self._say("call", task_id, "step", label, attempts, first)
        return self._ask("activity", task_id)

    def begin_child(self, label: int, parent_close: str) -> Promise:
        if self.ended:
            raise asyncio.CancelledError
        self.check_child()
        task_id = self._next_id()
        self._say("child", task_id, "child", label, parent_close)
        return self._ask("child", task_id, parent_close)

    async def retried(self, policy: RetryPolicy, label: int) -> Any:
        """An activity, tried again after 1 s, 2 s and so on, as long as the policy allows."""
        began, first, attempt = self._now, 0, 0
        while True:
            try:
                return await self.begin_step(label, attempt, first)
            except ActivityFailedError as error:
                attempt, first = attempt + 1, first or error.task_id
                delay = self._delay(policy, attempt)
                assert policy.timeout is not None
                left = policy.timeout - timedelta(microseconds=self._now - began)
                if attempt >= policy.max_attempts or delay > left:
                    raise
                await asyncio.sleep(delay.total_seconds())
                if timedelta(microseconds=self._now - began) > policy.timeout:
                    raise

    def _delay(self, policy: RetryPolicy, attempt: int) -> timedelta:
        seconds = 2.0 ** (attempt - 1)
        if policy.jitter and attempt < policy.max_attempts:
            seconds *= 1 - policy.jitter + 2 * policy.jitter * self._retry_random.random()
        return timedelta(seconds=seconds)

    def _begun(self, call: Coroutine[Any, Any, Any]) -> asyncio.Future[Any]:
        task: asyncio.Future[Any] = self.loop.create_task(call)
        return task

    # --- timers and events -------------------------------------------------------------------------------

    def create_timer(self, duration: timedelta) -> asyncio.Future[Any]:
        self._refuse_when_ended()
        future = self.loop.create_future()
        handle = self.loop.call_later(duration.total_seconds(), _unless_done(future.set_result), None)
        future.add_done_callback(lambda _: handle.cancel())
        return future

    def wait_for_external_event(
        self, name: str, kind: type[int], *, timeout: float | None, default: int | None = None
    ) -> asyncio.Future[Any]:
        self._refuse_when_ended()
        future = self.loop.create_future()
        for event in self._kept:
            if event.name.lower() == name:
                self._kept.remove(event)
                self._take(future, event)
                return future
        self._waiters.append((name, future))
        if timeout is not None:
            finish: Callable[[Any], None] = future.set_exception if default is None else future.set_result
            handle = self.loop.call_later(timeout, _unless_done(finish), TimeoutError() if default is None else default)
            future.add_done_callback(lambda _: handle.cancel())
        return future

    def send_event(self, instance_id: str, name: str, label: int) -> None:
        self._say("send", self._next_id(), instance_id, name, label)

    # --- entities --------------------------------------------------------------------------------------------

    def call_entity(self, entity: EntityId, operation: str, label: int) -> asyncio.Future[Any]:
        self._refuse_when_ended()
        entity_id, section = str(entity), self.section
        if section is not None and (
            not section.granted or entity_id not in section.entity_ids or entity_id in section.calling
        ):
            raise LockingRulesViolationError
        task_id = self._next_id()
        if section is not None:
            section.calling[entity_id] = task_id
        self._say("entity", task_id, entity_id, operation, label)
        return self._ask("entity", task_id, entity_id)

    def signal_entity(self, entity: EntityId, operation: str, label: int) -> None:
        if self.section is not None and str(entity) in self.section.entity_ids:
            raise LockingRulesViolationError
        self._say("signal", self._next_id(), str(entity), operation, label)

    def lock(self, *entities: EntityId) -> Section:
        return Section(self, tuple(sorted(str(entity) for entity in entities)))

    def check_child(self) -> None:
        """No child in a critical section."""
        if self.section is not None:
            raise LockingRulesViolationError

    def enter(self, entity_ids: tuple[str, ...]) -> tuple[Held, Promise]:
        """Ask for the locks of a critical section."""
        if self.section is not None:
            raise LockingRulesViolationError
        task_id = self._next_id()
        self._say("lock", task_id, entity_ids)
        self.section = Held(task_id, entity_ids)
        return self.section, self._ask("lock", task_id)

    def leave(self, section: Held | None) -> None:
        """Give a critical section up, if it is not over."""
        if section is not None and section is self.section:
            self._unlock(section)

    # --- the execution ---------------------------------------------------------------------------------------

    def continue_as_new(self, *arguments: Any, keep_events: bool) -> NoReturn:
        self._refuse_when_ended()
        self._successor = list(arguments), keep_events
        if self._main is not None and asyncio.current_task() is not self._main:
            self._main.cancel()
        raise ContinuedAsNew

    def set_custom_status(self, status: int) -> None:
        self._status = status

    def patched(self, patch_id: str) -> bool:
        if patch_id not in self._patches:
            self._patches.add(patch_id)
            self._say("patched", patch_id)
        return True

    def _refuse_when_ended(self) -> None:
        if self.ended:
            raise asyncio.CancelledError


def _unless_done(finish: Callable[[Any], None]) -> Callable[[Any], None]:
    future: Future = finish.__self__  # type: ignore[attr-defined]
    return lambda value: None if future.done() else finish(value)
