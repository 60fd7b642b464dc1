"""What an orchestrator's code can ask for.

Rule of this file: each request becomes a decision - the event that will be recorded - and, where it
has an outcome, a future under the task's id. Nothing is done here; the engine acts on what is committed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from durable.core import events as ev
from durable.core.errors import ContinuedAsNew
from durable.core.futures import DurableCall, DurableFuture, Future
from durable.core.ids import check_event_name, check_instance_id, child_id
from durable.core.loop import user_line
from durable.core.orchestration_loop import OrchestrationLoop, call_later_future, expire
from durable.core.outstanding import Outstanding
from durable.core.retry import RetryPolicy, retrying
from durable.core.services import ActivityTarget, OrchestratorTarget, Services

if TYPE_CHECKING:
    from random import Random

R = TypeVar("R")

NO_DEFAULT: Any = object()


class Operations(Outstanding):
    """The requests of one execution's code."""

    def __init__(self, started: ev.ExecutionStarted, services: Services, loop: OrchestrationLoop) -> None:
        super().__init__(started, services, loop)
        self.successor: tuple[str, bool] | None = None
        self._patches: dict[str, bool] = {}
        self._retry_random: Random | None = None

    # --- what the subclass does ----------------------------------------------------------------

    def next_recorded(self) -> ev.Decision | None:
        """In replay, the decision that comes next in this turn."""
        raise NotImplementedError

    def recalls_task(self, task_id: int, name: str) -> bool:
        """Whether the decision that comes next in this turn is recorded as this task; then it is taken down."""
        raise NotImplementedError

    def cancel_main(self, reason: str) -> None:
        """Cancel the orchestrator's own task, unless it is the one that asks."""
        raise NotImplementedError

    # --- activities ------------------------------------------------------------------------------

    def call_activity(
        self,
        activity: ActivityTarget[R] | str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        retry: RetryPolicy | None = None,
    ) -> Coroutine[Any, Any, R]:
        """A call of an activity that has not started. Bad arguments fail here, with nothing scheduled."""
        target = self.services.activity(activity) if isinstance(activity, str) else activity
        if target.queue is not None:
            self.services.check_queue(target.queue.name)
        payload = target.encode_arguments(args, kwargs)
        line = user_line()
        retry = retry or target.retry
        start = partial(self._schedule, target, payload, line)
        return DurableCall(start, "activity {!r}", target.name) if retry is None else self._retried(retry, start)

    def _schedule(
        self, target: ActivityTarget[Any], payload: str, line: str | None, previous: ev.PreviousAttempt | None = None
    ) -> DurableFuture:
        if self._finished:
            self._refuse_when_finished("activity", target.name)
        task_id = self._next_call_id("activity", target.name)
        if not (self.is_replaying and self.recalls_task(task_id, target.name)):
            limits = (target.timeout, line, target.heartbeat_timeout, previous, target.queue)
            self.decide(ev.TaskScheduled(self.timestamp, task_id, target.name, payload, *limits))
        return self._wait_for(task_id, target)

    def _retried(
        self, policy: RetryPolicy, start: Callable[[ev.PreviousAttempt | None], DurableFuture]
    ) -> Coroutine[Any, Any, Any]:
        async def attempt(previous: ev.PreviousAttempt | None) -> Any:
            return await start(previous)

        return retrying(policy, attempt, now=lambda: self.timestamp, sleep=asyncio.sleep, draw=self._draw)

    def _draw(self) -> float:
        # Its own generator: adding a policy must not shift the numbers that the user draws.
        if self._retry_random is None:
            self._retry_random = self.services.random(f"{self.started.instance_id}/{self.started.execution_id}/retries")
        return self._retry_random.random()

    # --- sub-orchestrations and other instances ----------------------------------------------------

    def call_sub_orchestrator(
        self,
        orchestrator: OrchestratorTarget[R] | str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        instance_id: str | None = None,
        version: str | None = None,
        retry: RetryPolicy | None = None,
    ) -> Coroutine[Any, Any, R]:
        """A call of an orchestrator that has not started. Bad arguments or ids fail here, with nothing scheduled."""
        target = self.services.orchestrator(orchestrator) if isinstance(orchestrator, str) else orchestrator
        payload = target.encode_arguments(args, kwargs)
        wanted = instance_id or target.instance_id
        if wanted is not None:
            check_instance_id(wanted)
        self.locks.check_child()
        line = user_line()

        def start(previous: ev.PreviousAttempt | None = None) -> DurableFuture:
            number = 0 if previous is None else previous.attempts
            name = wanted if wanted is None or not number else f"{wanted[:240]}:{number + 1}"
            return self._create_child(target, payload, name, version, line)

        retry = retry or target.retry
        if retry is not None:
            return self._retried(retry, start)
        return DurableCall(start, "orchestrator {!r}", target.name)

    def _create_child(
        self,
        target: OrchestratorTarget[Any],
        payload: str,
        instance_id: str | None,
        version: str | None,
        line: str | None,
    ) -> DurableFuture:
        self._refuse_when_finished(f"orchestrator {target.name!r}")
        self.locks.check_child()
        task_id = self._next_call_id("orchestrator", target.name)
        child = ev.SubOrchestrationInstanceCreated(
            self.timestamp,
            task_id,
            instance_id or self._child_id(task_id),
            target.name,
            payload,
            version or target.version or self.started.version,
            parent_close=target.parent_close,
            at=line,
        )
        self.decide(child)
        return self._wait_for(task_id, target, child=child)

    def start_orchestration(
        self,
        orchestrator: OrchestratorTarget[Any] | str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        instance_id: str | None,
        version: str | None,
    ) -> str:
        """Start an instance that nobody here waits for; returns its id."""
        target = self.services.orchestrator(orchestrator) if isinstance(orchestrator, str) else orchestrator
        payload = target.encode_arguments(args, kwargs)
        wanted = instance_id or target.instance_id
        if wanted is not None:
            check_instance_id(wanted)
        self._refuse_when_finished(f"orchestrator {target.name!r}")
        task_id = self._next_task_id("orchestrator", target.name)
        started_id = wanted or self._child_id(task_id)
        version = version or target.version or self.started.version
        self.decide(
            ev.SubOrchestrationInstanceCreated(
                self.timestamp, task_id, started_id, target.name, payload, version, detached=True, at=user_line()
            )
        )
        return started_id

    def _child_id(self, task_id: int) -> str:
        return child_id(self.started.instance_id, self.started.execution_id, task_id)

    def send_event(self, instance_id: str, name: str, data: object) -> None:
        """Raise an external event to another instance."""
        check_instance_id(instance_id)
        payload = self.services.encode(data, f"the data of event {check_event_name(name)!r}")
        self._refuse_when_finished(f"sending event {name!r}")
        task_id = self._next_task_id("sending event", name)
        self.decide(ev.EventSent(self.timestamp, task_id, instance_id, name, payload))

    # --- events and timers ---------------------------------------------------------------------------

    def wait_for_external_event(self, name: str, kind: Any, seconds: float | None, default: Any) -> Future:
        """A future of the next external event of that name."""
        check_event_name(name)
        self._refuse_when_finished(f"event {name!r}")
        if seconds is not None:
            self.check_room("a timer")  # first, or the event would go to a wait that nobody has
        future = self.loop.create_future()
        self.external.wait(name, future, self.services.decoder(kind, f"the data of event {name!r}"))
        if seconds is not None and not future.done():
            missed = TimeoutError(f"no event {name!r} came within {seconds:g} s")
            expire(self.loop, future, seconds, missed if default is NO_DEFAULT else default)
        return future

    def create_timer(self, when: float) -> Future:
        """A future that the durable timer at ``when`` (loop seconds) completes."""
        self._refuse_when_finished("a timer")
        return call_later_future(self.loop, when)

    # --- entities --------------------------------------------------------------------------------------

    def call_entity(
        self, entity_id: str, name: str, operation: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> DurableCall[Any]:
        """A call of an entity's operation that has not started."""
        target = self.services.operation(name, operation)
        payload = target.encode_arguments(args, kwargs)
        line = user_line()

        def start() -> DurableFuture:
            self._refuse_when_finished(f"operation {operation!r} of {entity_id}")
            self.locks.check_call(entity_id)
            task_id = self._next_call_id("an operation of", entity_id)
            self.locks.calling(entity_id, task_id)
            self.decide(ev.EntityOperationCalled(self.timestamp, task_id, entity_id, operation, payload, line))
            return self._wait_for(task_id, target, entity_id=entity_id, operation=operation)

        return DurableCall(start, "operation {!r} of {}", operation, entity_id)

    def signal_entity(
        self,
        entity_id: str,
        name: str,
        operation: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        scheduled_at: int | None,
    ) -> None:
        """Have an entity do an operation, and do not wait for it."""
        payload = self.services.operation(name, operation).encode_arguments(args, kwargs)
        self.locks.check_signal(entity_id)
        self._refuse_when_finished(f"operation {operation!r} of {entity_id}")
        task_id = self._next_task_id("an operation of", entity_id)
        self.decide(ev.EntityOperationSignaled(self.timestamp, task_id, entity_id, operation, payload, scheduled_at))

    def request_locks(self, lock_set: tuple[str, ...]) -> Future:
        """Ask for the locks of several entities; the future is done when all of them are held."""
        self.locks.check_enter()
        self._refuse_when_finished("a critical section")
        task_id = self._next_call_id("a critical section")
        self.decide(ev.EntityLockRequested(self.timestamp, task_id, lock_set, at=user_line()))
        self.locks.enter(task_id, lock_set)
        return self._wait_for(task_id, None)

    # --- the execution itself ----------------------------------------------------------------------------

    def continue_as_new(self, args: tuple[Any, ...], kwargs: dict[str, Any], keep_events: bool) -> NoReturn:
        """End this execution; a new one follows with these arguments."""
        self._refuse_when_finished("continue_as_new")
        payload = self.services.orchestrator(self.started.name).encode_arguments(args, kwargs)
        self.successor = payload, keep_events
        self.cancel_main("the orchestrator continues as new")
        raise ContinuedAsNew("the orchestrator continues as new; let this pass")

    def set_custom_status(self, status: object) -> None:
        """Keep the encoded status; the turn records the last one."""
        self._custom_status = self.services.encode(status, "the custom status")

    def patched(self, patch_id: str) -> bool:
        """Whether to go the new way: yes for executions that come here for the first time with the new code."""
        known = self._patches.get(patch_id)
        if known is None:
            self.loop.check_not_discarded()
            recorded = self.next_recorded()
            known = not self.is_replaying or (type(recorded) is ev.VersionMarker and recorded.patch_id == patch_id)
            self._patches[patch_id] = known
            if known:
                self.decide(ev.VersionMarker(self.timestamp, patch_id))
        return known
