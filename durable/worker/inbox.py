"""The inbox: messages that came through the store, and marking those that nobody takes in.

Rule of this file: reading is batched, and a message read for an execution that has ended meanwhile is
read again: it may have been taken in, and marked, in between.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from durable.backend import Backend, Message
from durable.clock import Clock
from durable.outbox import releases
from durable.worker.live import LiveInstance, Phase
from durable.worker.mailboxes import has_room, news, note_read, page_for
from durable.worker.patience import Patience

_BATCH = 500  # instances
_MOST = 20_000  # messages of a batch


class Inbox:
    """Reads the inboxes of instances on demand and hands their messages to ``post``.

    ``live`` finds those in memory; ``caught_up`` waits until what one has taken in is marked.
    """

    def __init__(
        self,
        backend: Backend,
        partition_count: int,
        patience: Patience,
        clock: Clock,
        post: Callable[[Message], None],
        live: Callable[[str], LiveInstance | None],
        caught_up: Callable[[str], Awaitable[None]],
    ) -> None:
        self._backend = backend
        self._count = partition_count
        self._patience = patience
        self._clock = clock
        self._post = post
        self._live = live
        self._caught_up = caught_up
        self._wanted: dict[str, None] = {}
        self._put_off: set[str] = set()
        self._under_way: frozenset[str] = frozenset()
        self._refused: dict[str, Message] = {}
        self._answers: list[Message] = []
        self._something = asyncio.Event()

    def want(self, instance_id: str) -> None:
        """Read what is in the inbox of an instance, soon; when it comes to rest, if its mailbox is full."""
        live = self._live(instance_id)
        if live is not None and live.under_way and not has_room(live):
            live.more = True
            return
        self._wanted[instance_id] = None
        self._something.set()

    def read_on(self, instance_id: str) -> Coroutine[Any, Any, None]:
        """Read the next messages of a long inbox, when those that the instance has taken in are marked."""
        self._put_off.add(instance_id)

        async def work() -> None:
            await self._caught_up(instance_id)
            self.settled(instance_id)

        return work()

    def is_reading(self, instance_id: str) -> bool:
        """Whether messages of an instance are to come from the store."""
        return instance_id in self._wanted or instance_id in self._put_off or instance_id in self._under_way

    def settled(self, instance_id: str) -> None:
        """What an instance has taken in is marked."""
        if instance_id in self._put_off:
            self._put_off.discard(instance_id)
            self.want(instance_id)

    def refuse(self, messages: Sequence[Message], answers: Sequence[Message] = ()) -> None:
        """Mark these, soon: nobody takes them in. ``answers`` are sent before."""
        self._answers += answers
        for message in messages:
            self._refused[message.message_id] = message
        self._something.set()

    async def run(self) -> None:
        """Read and mark until cancelled."""
        while True:
            await self._something.wait()
            self._something.clear()
            while self._wanted or self._refused:
                if self._refused:  # first: a page that holds nothing but these would be read again and again
                    await self._mark()
                if self._wanted:
                    await self._read()

    async def _read(self) -> None:
        batch = list(self._wanted)[:_BATCH]
        for instance_id in batch:
            del self._wanted[instance_id]
        before = {instance_id: self._execution_of(instance_id) for instance_id in batch}
        self._put_off |= {instance_id for instance_id in batch if before[instance_id] is None}
        batch = [instance_id for instance_id in batch if before[instance_id] is not None]
        self._under_way = frozenset(batch)
        if len(batch) > 1:
            messages = await self._patience.insist(partial(self._backend.receive, batch, _MOST))
            if len(messages) < _MOST:
                self._under_way = frozenset()
                for message in messages:
                    self._hand_over(message, before[message.instance_id])
                return
        for instance_id in batch:  # each by itself, so that a long inbox keeps nobody waiting
            await self._read_one(instance_id, before[instance_id])

    async def _read_one(self, instance_id: str, before: str | None) -> None:
        limit = page_for(self._live(instance_id))
        messages = await self._patience.insist(partial(self._backend.receive, [instance_id], limit))
        self._under_way -= {instance_id}
        live = self._live(instance_id)
        if live is not None and before == self._execution_of(instance_id):
            note_read(live, messages, limit)
            messages = news(live, messages)
        for message in messages:
            self._hand_over(message, before)

    def _hand_over(self, message: Message, before: str | None) -> None:
        if before == self._execution_of(message.instance_id):
            self._post(message)
        else:
            self.want(message.instance_id)

    def _execution_of(self, instance_id: str) -> str | None:
        """Which execution is in memory, "" for none.

        None while what an instance took in before it continued as new is not marked yet: then its inbox cannot be read.
        """
        live = self._live(instance_id)
        if live is None:
            return ""
        return None if live.phase is Phase.SETTLING else live.record.execution_id

    async def _mark(self) -> None:
        refused, self._refused = list(self._refused.values()), {}
        now = self._clock()
        answers, self._answers = self._answers, []
        answers += [answer for message in refused for answer in releases(message, self._count, now)]
        if answers:  # before they are marked, so that a crash in between repeats it
            await self._patience.insist(partial(self._backend.send, answers))
            for answer in answers:
                self._post(answer)
        await self._patience.insist(partial(self._backend.consume, refused, now))
