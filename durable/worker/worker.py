"""The worker: partitions, instances, committer, activities and timers put together.

Rule of this file: wiring and lifecycle only. The way of an event: here ``arrive`` -> recovery (in
memory?) -> instances (turn) -> committer -> the effects below.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence, Set
from typing import Any

from durable import anyio_order
from durable.backend import Backend, BackendUnavailable, Commit, Hint, InstanceRecord, Message
from durable.clock import Clock
from durable.core.errors import UnknownFunctionError, VersionMismatchError
from durable.core.events import TaskScheduled
from durable.core.ids import partition_of
from durable.instrument import Instrument
from durable.registry import Registry
from durable.settings import Settings
from durable.worker.activities import ActivityRunner, Attempt, Outcome
from durable.worker.calls import Calls
from durable.worker.collector import CollectorThreshold
from durable.worker.committer import Committer
from durable.worker.delivery import Delivery
from durable.worker.executions import Executions
from durable.worker.freshness import Freshness
from durable.worker.handover import HandOver
from durable.worker.heartbeats import Heartbeats
from durable.worker.inbox import Inbox
from durable.worker.instances import Instances
from durable.worker.live import Created, LiveInstance
from durable.worker.loading import Loader
from durable.worker.measures import Measures
from durable.worker.partitions import Partitions
from durable.worker.patience import Patience
from durable.worker.recovery import Recovery
from durable.worker.retention import Purger, Retention
from durable.worker.scanning import Scanner
from durable.worker.timers import WakeUps
from durable.worker.transactional import Transactions
from durable.worker.waking import Waking
from durable.worker.watchdog import Watchdog

_log = logging.getLogger("durable.worker")


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
        instrument: Instrument | None = None,
    ) -> None:
        self._instrument = instrument
        self._backend = backend
        self._count = partition_count
        self._registry = registry
        self._settings = settings
        self._clock = clock
        self.committed = changed
        self._tasks: set[asyncio.Task[None]] = set()
        self._abandoned = False
        self.failure: BaseException | None = None
        self._watchdog = Watchdog(settings.blocked_turn)
        self._collector = CollectorThreshold(settings.gc_threshold)
        self._partitions = Partitions(
            backend,
            clock,
            settings.lease_time,
            gained=self._gained,
            lost=self._lost,
            hand_over=self._give_up,
            instrument=instrument,
        )
        self._patience = Patience()
        self._connect_activities()
        self._connect_parts()

    def _connect_activities(self) -> None:
        """Make the parts that run activities."""
        backend, clock, settings = self._backend, self._clock, self._settings
        self._transactions = Transactions(
            backend, self._count, self._patience, lambda message: self._delivery.post(message), self.read_inbox
        )
        self._activities = ActivityRunner(
            self._partitions.info.worker_id,
            clock,
            self._activity_ended,
            lambda instance_id, task_id, details: self._heartbeats.report(instance_id, task_id, details),
            limit=settings.max_activities,
            threads=settings.activity_threads,
            max_deliveries=settings.max_deliveries,
            transactions=self._transactions,
        )
        self._calls = Calls(self._activities, self._registry, self._park_caller, self._instrument)
        self.slots = self._calls.slots

    def _connect_parts(self) -> None:
        """Make the parts that know each other: the road from an event to its turn, and on to the effects."""
        backend, clock, settings, patience = self._backend, self._clock, self._settings, self._patience
        observe = None if self._instrument is None else self._instrument.committed
        self._committer = Committer(
            backend, patience, self._fail, lambda commits: self._delivery.settled(commits), observe
        )
        retention = Retention(self._registry, settings)
        watch = self._instrument
        measures = Measures(watch) if watch is not None and watch.measures_turns else None
        self._instances = Instances(self._committer, self, clock, settings, self._watchdog, retention, measures)
        executions = Executions(self._registry, settings, self._instrument)
        self._loader = Loader(
            backend,
            self._count,
            executions,
            clock,
            self._watchdog,
            self._activities.__contains__,
            settings.keep_executions,
            lambda commits: self._delivery.recovered(commits),
            retention,
            measures,
        )
        self._recovery = Recovery(
            backend, patience, self._loader, self._instances, self, self.owns, self._committer.caught_up
        )
        self._inbox = Inbox(
            backend, self._count, patience, clock, self._recovery.post, self._instances.get, self._committer.caught_up
        )
        self._delivery = Delivery(self._instances, self._recovery, self._inbox, self.owns, self.start_instance)
        self._connect_finders()

    def _connect_finders(self) -> None:
        """Make the parts that find work, and those that let go of it."""
        backend, clock, settings, patience = self._backend, self._clock, self._settings, self._patience
        self._heartbeats = Heartbeats(backend, patience, self._instances.get, self._committer.caught_up)
        self._handover = HandOver(
            backend,
            self._count,
            self._activities,
            self._instances,
            self._committer,
            lambda: self._recovery.loading,
            settings.drain_time,
        )
        self._wakeups = WakeUps(clock, self._recovery.wake)
        self._purger = Purger(backend, clock, lambda: self._partitions.owned)
        self._freshness = Freshness(backend, patience, self._instances)
        self._waking = Waking(
            self._instances,
            self._recovery,
            self._inbox,
            self._delivery,
            self._committer,
            self._activities,
            self._wakeups,
            self._freshness,
            clock,
            self.wake_at,
        )
        self._scanner = Scanner(backend, clock, lambda: self._partitions.owned, self._waking.found)

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
        """Take the first partitions and begin to work.

        Raises RegistrationError for unusable annotations, TransactionsNotSupportedError for transactional activities
        on a store without transactions; UnknownFunctionError for a queue that is not registered,
        QueuesNotSupportedError for one on a store without queues.
        """
        self._registry.prepare()
        self._transactions.check(self._registry.activities.values())
        self._calls.open_queues(
            self._backend, self._count, self.worker_id, self._settings, self._patience, self._clock, self.post
        )
        anyio_order.install()
        self._watchdog.start()
        self._collector.raise_it()
        self._committer.start()
        await self._partitions.beat()
        self._spawn(self._partitions.run(), "partitions")
        self._spawn(self._scanner.run(), "scan")
        self._spawn(self._inbox.run(), "inbox")
        self._spawn(self._freshness.run(), "freshness")
        self._spawn(self._heartbeats.run(), "heartbeats")
        self._spawn(self._scanner.keep_sweeping(), "sweep")
        self._spawn(self._purger.run(), "purge")
        for work, name in self._calls.loops():
            self._spawn(work, name)

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
            whole = frozenset(range(self._count))  # also what it is given meanwhile
            stops = self._calls.stop(), self._handover.bring_to_rest(whole)
            for outcome in await asyncio.gather(*stops, return_exceptions=True):
                if outcome is not None:
                    raise outcome
            await self._calls.flush()
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
            self._handover.draining = frozenset(range(self._count))

    # --- what comes in -------------------------------------------------------------------------

    def start_instance(self, record: InstanceRecord, done: Created) -> bool:
        """Create an instance together with its first checkpoint, and tell ``done`` of the commit.

        False when it has to be created in the store first: another worker's, draining, or its id is in use here.
        """
        known = self._instances.get(record.instance_id) or record.instance_id in self._recovery
        if known or not self.owns(record.instance_id) or record.partition in self._handover.draining:
            return False
        try:
            instance = self._loader.fresh(record)
        except (UnknownFunctionError, VersionMismatchError):
            return False  # another worker may run it; here it will be parked and shown
        instance.created = False
        instance.on_created = done
        self._instances.add(instance)
        return True

    def hint(self, hint: Hint) -> None:
        """Something changed in the store."""
        if hint.instance_id is None:
            self._calls.wake(hint.queue)
            if hint.queue is None:
                self._scanner.want()
        elif self.owns(hint.instance_id):
            self._waking.hinted(hint.instance_id, hint)

    def post(self, message: Message) -> None:
        """A message of this process is in the store; its receiver may be here."""
        self._delivery.post(message)

    def _activity_ended(self, attempt: Attempt, outcome: Outcome) -> None:
        if self._instances.get(attempt.instance_id) is not None or self.owns(attempt.instance_id):
            self._recovery.arrive(attempt.instance_id, attempt.execution_id, outcome)
        else:
            _log.info("the outcome of %s is dropped: its partition has another owner, who runs it again", attempt.key)

    # --- effects of committed turns --------------------------------------------------------------

    def start_activity(self, instance: LiveInstance, scheduled: TaskScheduled, number: int) -> None:
        if instance.record.partition in self._handover.draining:
            return  # its next owner finds it in history
        if scheduled.task_id in instance.state.answers:
            return  # it was done before the execution was rewound
        self._calls.start(instance, scheduled, number)

    def _park_caller(self, instance: LiveInstance, error: Exception) -> None:
        if self._instances.get(instance.instance_id) is instance:
            self._instances.drop(instance)
            self.left(instance, error)

    def cancel_activity(self, instance: LiveInstance, task_id: int) -> None:
        self._calls.cancel(instance, task_id)

    def keep_activities(self, instance_id: str, task_ids: Set[int]) -> None:
        self._calls.keep(instance_id, task_ids)

    def send(self, commit: Commit) -> None:
        self._delivery.committed(commit)

    def refuse(self, messages: Sequence[Message], answers: Sequence[Message] = ()) -> None:
        self._inbox.refuse(messages, answers)

    def read_inbox(self, instance_id: str) -> None:
        self._inbox.want(instance_id)

    def read_on(self, instance_id: str) -> None:
        self._spawn(self._inbox.read_on(instance_id), "read-on")

    def successor(self, instance: LiveInstance, record: InstanceRecord) -> LiveInstance:
        return self._loader.fresh(record)

    def draining(self, instance: LiveInstance) -> bool:
        return instance.record.partition in self._handover.draining

    def wake_at(self, instance: LiveInstance) -> None:
        state = instance.state
        draining = instance.record.partition in self._handover.draining
        due_at = None if draining else state.next_timer  # its next owner will wake it
        self._wakeups.schedule(instance.instance_id, due_at, however_late=bool(state.activities))

    def begin_at(self, instance_id: str, due_at: int) -> None:
        self._wakeups.schedule(instance_id, due_at)

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

    async def _give_up(self, partitions: frozenset[int]) -> None:
        await self._handover.hand_over(partitions)

    def _lost(self, partitions: frozenset[int]) -> None:
        for instance in self._instances:
            if instance.record.partition in partitions:
                self._instances.drop(instance)
        self._handover.cancel_activities(partitions)
        for instance_id in self._recovery.ids():
            if partition_of(instance_id, self._count) in partitions:
                self._recovery.forget(instance_id)
