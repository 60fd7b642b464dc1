"""The worker: partitions, instances, committer, activities and timers put together.

Rule of this file: wiring and lifecycle only. The way of an event: here ``arrive`` -> recovery (in
memory?) -> instances (turn) -> committer -> the effects below.
"""

from __future__ import annotations

import asyncio
import logging
import platform
from collections.abc import Callable, Collection, Coroutine, Sequence, Set
from importlib.metadata import version
from typing import Any

from durable import anyio_order
from durable.backend import Annotation, Backend, BackendUnavailable, Hint, InstanceRecord, Wakeup
from durable.clock import Clock
from durable.core.errors import UnknownFunctionError
from durable.core.events import TaskScheduled
from durable.core.ids import partition_of
from durable.registry import Registry
from durable.settings import Settings
from durable.worker.activities import ActivityRunner, Attempt, Outcome
from durable.worker.collector import CollectorThreshold
from durable.worker.committer import Committer
from durable.worker.instances import Instances
from durable.worker.live import Created, LiveInstance
from durable.worker.loading import Loader
from durable.worker.partitions import Partitions
from durable.worker.patience import Patience
from durable.worker.recovery import Recovery
from durable.worker.scanning import Scanner
from durable.worker.timers import WakeUps
from durable.worker.watchdog import Watchdog

_log = logging.getLogger("durable.worker")

_DRAIN_POLL = 0.01


class Worker:
    """Runs the instances of its partitions in this process and loop."""

    def __init__(
        self,
        backend: Backend,
        partition_count: int,
        registry: Registry,
        settings: Settings,
        clock: Clock,
        changed: Callable[[InstanceRecord], None],
    ) -> None:
        self._backend = backend
        self._count = partition_count
        self._registry = registry
        self._settings = settings
        self._clock = clock
        self._changed = changed
        self._tasks: set[asyncio.Task[None]] = set()
        self._draining: frozenset[int] = frozenset()
        self._abandoned = False
        self.failure: BaseException | None = None
        runtime = f"python {platform.python_version()}, anyio {version('anyio')}"
        self._watchdog = Watchdog(settings.blocked_turn)
        self._collector = CollectorThreshold(settings.gc_threshold)
        self._partitions = Partitions(
            backend, clock, settings.lease_time, gained=self._gained, lost=self._lost, hand_over=self._hand_over
        )
        self._activities = ActivityRunner(
            self._partitions.info.worker_id,
            clock,
            self._activity_ended,
            limit=settings.max_activities,
            threads=settings.activity_threads,
            max_deliveries=settings.max_deliveries,
        )
        patience = self._patience = Patience()
        self._committer = Committer(backend, patience, self._fail)
        self._instances = Instances(self._committer, self, clock, settings, self._watchdog)
        self._loader = Loader(backend, registry, clock, self._watchdog, runtime, self._activities.__contains__)
        self._recovery = Recovery(backend, patience, self._loader, self._instances, self, self.owns)
        self._wakeups = WakeUps(clock, self._recovery.wake)
        self._scanner = Scanner(backend, clock, lambda: self._partitions.owned, self._found)

    @property
    def worker_id(self) -> str:
        return self._partitions.info.worker_id

    @property
    def healthy(self) -> bool:
        """Whether the worker runs and its store answers."""
        return self.failure is None and self._patience.available and self._partitions.available

    def owns(self, instance_id: str) -> bool:
        """Whether this worker should work on the instance."""
        return partition_of(instance_id, self._count) in self._partitions.owned

    def has_live(self, instance_id: str) -> bool:
        """Whether the instance is in this worker's memory; the end of such a one is told to ``changed``."""
        return self._instances.get(instance_id) is not None

    def record_ahead(self, instance_id: str) -> InstanceRecord | None:
        """The committed record of an instance where the store still shows an older one."""
        return self._committer.ahead(instance_id)

    # --- lifecycle -----------------------------------------------------------------------------

    async def start(self) -> None:
        """Take the first partitions and begin to work. Raises RegistrationError for unusable annotations."""
        self._registry.prepare()
        anyio_order.install()
        self._watchdog.start()
        self._collector.raise_it()
        self._committer.start()
        await self._partitions.beat()
        self._spawn(self._partitions.run(), "partitions")
        self._spawn(self._scanner.run(), "scan")
        self._spawn(self._scanner.keep_sweeping(), "sweep")

    async def stop(self) -> None:
        """Stop gracefully: end turns and activities within ``drain_time``, then hand over the partitions at once."""
        if self._abandoned:
            return
        try:
            if self.failure is None:
                await self._finish_work()
        finally:
            await self._shut_down()
            await self._release()
        if self.failure is not None:
            raise self.failure

    async def abandon(self) -> None:
        """End as a killed process does, for tests: nothing more is written, nothing is handed over."""
        self._abandoned = True
        self._partitions.abandon()
        await self._shut_down()

    async def _finish_work(self) -> None:
        try:
            await self._bring_to_rest(frozenset(range(self._count)))  # also what it is given meanwhile
        except (TimeoutError, BackendUnavailable) as error:
            _log.warning("the worker stops without a store to hand its work over to: %r", error)

    async def _shut_down(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._recovery.close()
        await self._activities.close()
        self._wakeups.close()
        self._committer.abandon()
        for instance in self._instances:
            self._instances.drop(instance)
        self._watchdog.stop()
        self._collector.restore()

    async def _release(self) -> None:
        try:
            await self._partitions.release()
        except BackendUnavailable as error:
            _log.warning("the leases of this worker could not be released and will expire: %s", error)

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.get_running_loop().create_task(work, name=f"durable-{name}")
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        """Something is broken that retrying does not mend; nothing may go on as if it had worked."""
        if self.failure is None:
            self.failure = error
            _log.critical("the worker cannot go on and stops taking work", exc_info=error)
            self._draining = frozenset(range(self._count))

    # --- what comes in -------------------------------------------------------------------------

    def start_instance(self, record: InstanceRecord, done: Created) -> bool:
        """Create an instance together with its first checkpoint, and tell ``done`` of the commit.

        False when it has to be created in the store first: another worker's, draining, or its id is in use here.
        """
        known = self._instances.get(record.instance_id) or record.instance_id in self._recovery
        if known or not self.owns(record.instance_id) or record.partition in self._draining:
            return False
        try:
            instance = self._loader.fresh(record)
        except UnknownFunctionError:
            return False  # another worker may know it; here it will be parked and shown
        instance.created = False
        instance.on_created = done
        self._instances.add(instance)
        return True

    def hint(self, hint: Hint) -> None:
        """Something changed in the store."""
        if hint.instance_id is None:
            self._scanner.want()
        elif self._instances.get(hint.instance_id) is None and self.owns(hint.instance_id):
            self._recovery.wake(hint.instance_id)

    def _activity_ended(self, attempt: Attempt, outcome: Outcome) -> None:
        if self.owns(attempt.instance_id):
            self._recovery.arrive(attempt.instance_id, attempt.execution_id, outcome)
        else:
            _log.info("the outcome of %s is dropped: its partition has another owner, who runs it again", attempt.key)

    # --- effects of committed turns --------------------------------------------------------------

    def start_activity(self, instance: LiveInstance, scheduled: TaskScheduled, number: int) -> None:
        if instance.record.partition in self._draining:
            return  # its next owner finds it in history
        definition = self._registry.activities.get(scheduled.name)
        if definition is None:
            # Later: the caller is in the middle of this instance's turn.
            asyncio.get_running_loop().call_soon(self._park_unknown, instance, scheduled.name)
            return
        record = instance.record
        self._activities.start(Attempt(record.instance_id, record.execution_id, scheduled, definition, number))

    def _park_unknown(self, instance: LiveInstance, name: str) -> None:
        if self._instances.get(instance.instance_id) is instance:
            self._instances.drop(instance)
            try:
                self._registry.find_activity(name)
            except UnknownFunctionError as error:
                self.left(instance, error)

    def cancel_activity(self, instance: LiveInstance, task_id: int) -> None:
        self._activities.cancel((instance.record.instance_id, instance.record.execution_id, task_id))

    def keep_activities(self, instance_id: str, task_ids: Set[int]) -> None:
        for attempt in self._activities:
            if attempt.instance_id == instance_id and attempt.scheduled.task_id not in task_ids:
                self._activities.cancel(attempt.key)

    def wake_at(self, instance: LiveInstance) -> None:
        state = instance.state
        next_timer = min(state.timers.values()) if state.timers else None
        self._wakeups.schedule(instance.instance_id, next_timer, however_late=bool(state.activities))

    def committed(self, record: InstanceRecord) -> None:
        self._changed(record)

    def committed_late(self, instance_id: str) -> None:
        if self.owns(instance_id):  # lost, and won back meanwhile
            self._recovery.wake(instance_id)

    def left(self, instance: LiveInstance, error: Exception | None) -> None:
        if self.failure is not None:
            return  # it is this worker that cannot go on, not the instance
        self._recovery.left(instance, error)

    # --- partitions ------------------------------------------------------------------------------

    def _gained(self, partitions: frozenset[int]) -> None:
        self._spawn(self._scanner.scan(partitions, include_busy=True), "recover")

    def _lost(self, partitions: frozenset[int]) -> None:
        for instance in self._instances:
            if instance.record.partition in partitions:
                self._instances.drop(instance)
        self._cancel_activities(partitions)
        for instance_id in self._recovery.ids():
            if partition_of(instance_id, self._count) in partitions:
                self._recovery.forget(instance_id)

    async def _hand_over(self, partitions: frozenset[int]) -> None:
        try:
            await self._bring_to_rest(partitions)
        except TimeoutError:
            _log.warning("partitions %s are given up before the store confirmed all of their work", sorted(partitions))
        finally:
            self._draining -= partitions

    async def _bring_to_rest(self, partitions: frozenset[int]) -> None:
        """End the work of these partitions, so that their next owner repeats as little as possible.

        Raises TimeoutError or BackendUnavailable when the store does not take the rest.
        """
        limit = self._settings.drain_time
        try:
            async with asyncio.timeout(limit):
                await self._quiesce(partitions)
        except TimeoutError:
            _log.warning("activities still ran after %g s and are cancelled; their next owner runs them again", limit)
            self._cancel_activities(partitions)
        async with asyncio.timeout(limit):
            await self._committer.drain()
            await self._note_clean_stop([i for i in self._instances if i.record.partition in partitions])

    def _cancel_activities(self, partitions: frozenset[int]) -> None:
        for attempt in self._activities:
            if partition_of(attempt.instance_id, self._count) in partitions:
                self._activities.cancel(attempt.key)

    async def _quiesce(self, partitions: frozenset[int]) -> None:
        """Start nothing new for these partitions and wait until their turns and running activities have ended."""
        self._draining |= partitions
        self._activities.withdraw(lambda attempt: partition_of(attempt.instance_id, self._count) in partitions)
        while self._recovery.loading or self._busy(partitions):  # noqa: ASYNC110 - many parts, no single event
            await asyncio.sleep(_DRAIN_POLL)

    def _busy(self, partitions: Collection[int]) -> bool:
        running = any(partition_of(a.instance_id, self._count) in partitions for a in self._activities)
        return running or any(i.under_way for i in self._instances if i.record.partition in partitions)

    async def _note_clean_stop(self, instances: list[LiveInstance]) -> None:
        """Take back the next owner's count of one more delivery: this worker did not die of these activities."""
        notes = [
            Annotation(i.instance_id, i.rev, i.record.problem, i.recoveries - 1)
            for i in instances
            if i.state.activities and i.created
        ]
        if notes:
            await self._backend.annotate(notes)

    # --- finding work ------------------------------------------------------------------------------

    def _found(self, wakeups: Sequence[Wakeup]) -> None:
        """The scanner found instances that have something to do, now or soon."""
        now = self._clock()
        at_work = {attempt.instance_id for attempt in self._activities}
        for wakeup in wakeups:
            if wakeup.due_at > now:
                if not self.has_live(wakeup.instance_id):  # what is in memory knows more than its record
                    self._wakeups.schedule(wakeup.instance_id, wakeup.due_at)
            elif wakeup.instance_id not in at_work:  # of one whose activity runs here we shall hear
                self._recovery.wake(wakeup.instance_id)
