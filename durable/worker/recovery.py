"""Bringing instances into memory: when a message, a wake-up or a new partition asks for one that is not there.

Rule of this file: what arrives for an instance that is loading or parked waits in its mailbox here. An
instance whose turns cannot be run is parked: shown with its problem, and tried again with a growing delay.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from durable.backend import Annotation, Backend, Message
from durable.core.errors import UnknownFunctionError, VersionMismatchError
from durable.core.events import ArrivedEvent, ExecutionStarted, ExecutionTerminated
from durable.core.ids import generation_of
from durable.worker.effects import Effects
from durable.worker.instances import Instances
from durable.worker.live import Item, LiveInstance
from durable.worker.loaded import Early, Gone, Loaded
from durable.worker.loading import Loader
from durable.worker.mailboxes import is_full
from durable.worker.patience import Patience

T = TypeVar("T")

_log = logging.getLogger("durable.worker")

CONCURRENT_LOADS = 64
_FIRST_PARKED, _LAST_PARKED = 1.0, 300.0


@dataclass(slots=True, eq=False)
class _Away:
    """What waits for an instance that is not in memory. ``failures`` counts its turns that failed in a row."""

    mailbox: list[Item] = field(default_factory=list)
    execution_id: str | None = None  # of the execution that the mailbox's events answer
    failures: int = 0
    loading: asyncio.Task[None] | None = None
    retry: asyncio.TimerHandle | None = None
    lost_race: bool = False  # another owner wrote its history; what runs here may be over
    more: bool = False  # messages were left in the store, as the mailbox is full

    @property
    def in_trouble(self) -> bool:
        """Whether what ends or explains its trouble may be anywhere in its inbox."""
        return self.failures > 0 or self.lost_race


class Recovery:
    """Loads instances on demand and parks those that cannot go on."""

    def __init__(
        self,
        backend: Backend,
        patience: Patience,
        loader: Loader,
        instances: Instances,
        effects: Effects,
        owns: Callable[[str], bool],
        caught_up: Callable[[str], Awaitable[None]],
    ) -> None:
        self._backend = backend
        self._patience = patience
        self._loader = loader
        self._instances = instances
        self._effects = effects
        self._owns = owns
        self._caught_up = caught_up
        self._away: dict[str, _Away] = {}
        self._loads = asyncio.Semaphore(CONCURRENT_LOADS)

    def __contains__(self, instance_id: str) -> bool:
        return instance_id in self._away

    @property
    def loading(self) -> bool:
        """Whether an instance is being loaded."""
        return any(away.loading is not None for away in self._away.values())

    def wake(self, instance_id: str) -> None:
        """Have an instance look for something to do. A parked one waits for its time."""
        live = self._instances.get(instance_id)
        if live is not None:
            self._instances.deliver(live, ())
        elif instance_id not in self._away:
            self._load(instance_id, _Away())

    def arrive(self, instance_id: str, execution_id: str, event: ArrivedEvent) -> None:
        """Give an event to an execution of an instance, wherever it is; one of another execution is dropped."""
        live = self._instances.get(instance_id)
        if live is not None:
            if live.record.execution_id == execution_id:
                self._instances.deliver(live, (event,))
            return
        away = self._away.get(instance_id)
        if away is None:
            self._load(instance_id, _Away([event], execution_id))
        elif away.execution_id in (None, execution_id):
            away.execution_id = execution_id
            away.mailbox.append(event)

    def post(self, message: Message) -> None:
        """Give a message to an instance, wherever it is. A parked one is not waited for to be terminated."""
        instance_id = message.instance_id
        live = self._instances.get(instance_id)
        away = self._away.get(instance_id)
        if live is not None:
            self._instances.deliver(live, (message,))
        elif away is None:
            self._load(instance_id, _Away([message]))
        else:
            if not is_full(away.mailbox) or _ends(message):
                away.mailbox.append(message)
            else:
                away.more = True
            if away.retry is not None and _ends(message):
                away.retry.cancel()
                self._load(instance_id, away)

    def left(self, instance: LiveInstance, error: Exception | None) -> None:
        """Take over a live instance that was dropped: load it again; park it when that does not help."""
        instance_id = instance.instance_id
        events = [*instance.taken, *instance.mailbox]
        away = _Away(events, instance.record.execution_id, failures=instance.failures)
        if error is None:
            away.lost_race = True
            self._load(instance_id, away)
        elif not instance.created:
            pass  # whoever starts it was told, and creates its record first; it is brought in from there
        elif instance.failures == 0:
            # What is in memory may be at fault; history is not. Try once more from there.
            away.failures = 1
            self._load(instance_id, away)
        else:
            self._away[instance_id] = away
            self._start(instance_id, away, self._park(instance_id, away, error))

    def forget(self, instance_id: str) -> None:
        """Drop what waits for an instance whose partition belongs to somebody else now."""
        away = self._away.pop(instance_id, None)
        if away is not None:
            if away.loading is not None:
                away.loading.cancel()
            if away.retry is not None:
                away.retry.cancel()

    def ids(self) -> list[str]:
        """Ids of the instances that are loading or parked."""
        return list(self._away)

    async def close(self) -> None:
        """Stop loading and waiting."""
        tasks = [away.loading for away in self._away.values() if away.loading is not None]
        for instance_id in self.ids():
            self.forget(instance_id)
        if tasks:
            await asyncio.wait(tasks)

    # --- loading -------------------------------------------------------------------------------

    def _load(self, instance_id: str, away: _Away) -> None:
        if not self._owns(instance_id):
            return
        self._away[instance_id] = away
        self._start(instance_id, away, self._bring_in(instance_id, away))

    def _start(self, instance_id: str, away: _Away, work: Coroutine[Any, Any, None]) -> None:
        away.retry = None
        away.loading = asyncio.get_running_loop().create_task(work, name=f"durable-load-{instance_id}")
        away.loading.add_done_callback(lambda task: self._ended(away, task))

    def _ended(self, away: _Away, task: asyncio.Task[None]) -> None:
        away.loading = None
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error

    async def _bring_in(self, instance_id: str, away: _Away) -> None:
        async with self._loads:
            try:
                loaded = await self._loaded(instance_id, away)
            except Exception as error:
                await self._park(instance_id, away, error)
                return
        if self._away.get(instance_id) is away:
            del self._away[instance_id]
            self._take_in(instance_id, away, loaded)
        elif isinstance(loaded, Loaded) and loaded.instance.execution is not None:
            loaded.instance.execution.discard()

    async def _loaded(self, instance_id: str, away: _Away) -> Loaded | Gone | Early:
        # Else the loader would take what is being settled here for what a former owner left behind.
        await self._caught_up(instance_id)
        try:
            load = partial(self._loader.load, instance_id, away.execution_id, away.mailbox, whole=away.in_trouble)
            return await self._patience.insist(load)
        except Exception:
            if not any(map(_ends, away.mailbox)):
                raise
            # It cannot go on, but it can be ended.
            return await self._patience.insist(lambda: self._loader.load(instance_id, inert=True))

    def _take_in(self, instance_id: str, away: _Away, loaded: Loaded | Gone | Early) -> None:
        if isinstance(loaded, Early):
            # Its messages wait in the store. Of those that came after the inbox was read one may end it.
            if len(away.mailbox) > loaded.seen:
                self._load(instance_id, _Away())
            else:
                self._effects.begin_at(instance_id, loaded.due_at)
            return
        if away.lost_race:
            keep = set() if isinstance(loaded, Gone) else set(loaded.instance.state.activities)
            self._effects.keep_activities(instance_id, keep)
        if isinstance(loaded, Gone):
            waiting = [item for item in away.mailbox if type(item) is Message]
            self._effects.refuse([*waiting, *loaded.messages], loaded.answers)
            if away.more:
                self._effects.read_inbox(instance_id)
            return
        instance = loaded.instance
        if away.execution_id == instance.record.execution_id:
            # The loader gave it its start, if that is to come, and what history keeps for it.
            known = instance.mailbox
            outcomes = (item for item in away.mailbox if type(item) not in (Message, ExecutionStarted))
            instance.mailbox += [item for item in outcomes if item not in known]
        # Of the messages only those that came after the inbox was read: it had the others, unless they were taken in.
        late = [item for item in away.mailbox[loaded.seen :] if type(item) is Message]
        if instance.more:
            pass  # they come after what is not read yet
        elif late and generation_of(instance.record.execution_id):
            self._effects.read_inbox(instance_id)  # only the store knows what its former executions took in
        else:
            instance.mailbox += late
            instance.more = away.more
        instance.failures = away.failures
        self._instances.add(instance)
        if instance.execution is None:
            return  # it is only ended: what it waits for need not be run again
        for scheduled, number in loaded.outstanding:
            self._effects.start_activity(instance, scheduled, number)

    # --- parking -------------------------------------------------------------------------------

    async def _park(self, instance_id: str, away: _Away, error: Exception) -> None:
        """Show the problem in the instance's record, and try again later."""
        away.failures += 1
        delay = min(_FIRST_PARKED * 2 ** (away.failures - 1), _LAST_PARKED)
        problem = f"{type(error).__name__}: {error}"
        explains_itself = away.failures > 2 or isinstance(error, UnknownFunctionError | VersionMismatchError)
        stack = None if explains_itself else error
        _log.error("instance %r is parked, next try in %g s: %s", instance_id, delay, problem, exc_info=stack)
        record = await self._patience.insist(lambda: self._backend.get([instance_id]))
        if record[0] is not None:
            note = Annotation(instance_id, record[0].rev, problem, record[0].recoveries, record[0].heartbeats)
            await self._patience.insist(lambda: self._backend.annotate([note]))
        if self._away.get(instance_id) is away:
            if away.failures == 1 and any(map(_ends, away.mailbox)):
                delay = 0.0  # it was terminated meanwhile
            away.retry = asyncio.get_running_loop().call_later(delay, self._load, instance_id, away)


def _ends(item: Item) -> bool:
    """Whether an item of a mailbox ends its instance, whatever its code does."""
    return type(item) is Message and type(item.event) is ExecutionTerminated
