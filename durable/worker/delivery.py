"""Delivery: what committed turns send, given to the receivers in this process without waiting for the store.

Rule of this file: a short cut and no more. Everything sent is stored by settling as well; a receiver that is not
in memory gets it from there. What one sends to another comes in order: as long as something has to come from the store,
nothing overtakes it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from durable.backend import Commit, CommitOutcome, InstanceRecord, Message, Start
from durable.core.events import ExecutionRewound
from durable.core.ids import generation_of
from durable.worker.inbox import Inbox
from durable.worker.instances import Instances
from durable.worker.live import Created, LiveInstance
from durable.worker.mailboxes import has_room
from durable.worker.recovery import Recovery

_REMEMBERED = 20_000


@dataclass(slots=True)
class _UnderWay:
    """What was sent to one receiver and is not settled yet; ``holder`` is who has it all in memory, if anybody has."""

    holder: LiveInstance | None
    message_ids: set[str] = field(default_factory=set)


class Delivery:
    """Hands messages and starts to the instances of one worker."""

    def __init__(
        self,
        instances: Instances,
        recovery: Recovery,
        inbox: Inbox,
        owns: Callable[[str], bool],
        start_instance: Callable[[InstanceRecord, Created], bool],
    ) -> None:
        self._instances = instances
        self._recovery = recovery
        self._inbox = inbox
        self._owns = owns
        self._start_instance = start_instance
        self._started: set[str] = set()  # what was started here, from the commit until it is settled
        self._under_way: dict[str, _UnderWay] = {}
        self._recent: dict[str, None] = {}  # ids of the last messages posted, of which the store will tell, too

    def committed(self, commit: Commit) -> None:
        """A turn is committed: what it sends may be acted on."""
        rewound = type(commit.checkpoint.events[0]) is ExecutionRewound
        for start in commit.starts:
            if not rewound:  # those exist, most likely; the store knows
                self._start(start)
        for message in commit.messages:
            receiver = message.instance_id
            live = self._instances.get(receiver) if self._has_all_before(message, commit) else None
            under_way = self._under_way.setdefault(receiver, _UnderWay(live))
            under_way.message_ids.add(message.message_id)
            if under_way.holder is not live:
                under_way.holder = None
            elif live is not None:
                self._remember(message)
                self._instances.deliver(live, (message,))

    def settled(self, commits: Sequence[Commit]) -> None:
        """What these commits send is in the store."""
        for commit in commits:
            for start in commit.starts:
                self._settle_start(start, commit.record.instance_id)
            for message in commit.messages:
                self._settle_message(message)
            if commit.record.execution_id != commit.checkpoint.execution_id:
                self._instances.settled(commit)
                self._inbox.settled(commit.record.instance_id)

    def recovered(self, commits: Sequence[Commit]) -> None:
        """What these commits of a former owner send is in the store now."""
        for commit in commits:
            for start in commit.starts:
                if self._owns(start.record.instance_id):
                    self._recovery.wake(start.record.instance_id)
            for message in commit.messages:
                self._fetch(message.instance_id)

    def _has_all_before(self, message: Message, commit: Commit) -> bool:
        """Whether nothing that its sender sent before has still to come to the receiver from the store."""
        if not self._may_deliver(message.instance_id):
            return False
        sender = self._instances.get(commit.record.instance_id)
        if message.execution_id is not None or sender is None or sender.told is None:
            return True  # an answer comes alone; or all that was sent before went through here
        known = message.instance_id in sender.told
        sender.told.add(message.instance_id)
        return known

    def _may_deliver(self, instance_id: str) -> bool:
        """Whether nothing for the instance waits in the store, from where it is to come first."""
        live = self._instances.get(instance_id)
        return not self._inbox.is_reading(instance_id) and (live is None or has_room(live))

    def _fetch(self, receiver: str) -> None:
        """Have an instance of this worker take from the store what is there for it."""
        if self._instances.get(receiver) is not None or receiver in self._recovery:
            self._inbox.want(receiver)
        elif self._owns(receiver):
            self._recovery.wake(receiver)

    def _settle_message(self, message: Message) -> None:
        receiver = message.instance_id
        under_way = self._under_way.get(receiver)
        holder = None
        if under_way is not None and message.message_id in under_way.message_ids:
            under_way.message_ids.discard(message.message_id)
            holder = under_way.holder
            if not under_way.message_ids:
                del self._under_way[receiver]
        if holder is None or holder is not self._instances.get(receiver):
            self._fetch(receiver)

    def _start(self, start: Start) -> None:
        def created(outcome: CommitOutcome | None) -> None:
            if outcome is CommitOutcome.EXISTS and start.otherwise is not None:
                self.post(start.otherwise)

        if self._start_instance(start.record, created):
            self._started.add(start.record.instance_id)

    def _settle_start(self, start: Start, starter: str) -> None:
        started = start.record.instance_id
        if started in self._started:
            self._started.discard(started)
            return
        if self._owns(started):
            self._recovery.wake(started)
        if start.otherwise is not None and self._owns(starter):
            self._inbox.want(starter)  # that the id was taken is told by a message

    def post(self, message: Message) -> None:
        """Give a message that is in the store to its receiver, if that is this worker's."""
        if not self._owns(message.instance_id):
            return
        live = self._instances.get(message.instance_id)
        if live is not None and (generation_of(live.record.execution_id) or not self._may_deliver(message.instance_id)):
            self._inbox.want(message.instance_id)  # only the store knows what came before, or is taken in already
        else:
            self._remember(message)
            self._recovery.post(message)

    def knows(self, message_id: str) -> bool:
        """Whether a message was posted here not long ago."""
        return message_id in self._recent

    def _remember(self, message: Message) -> None:
        self._recent[message.message_id] = None
        if len(self._recent) > _REMEMBERED:
            for message_id in list(self._recent)[: _REMEMBERED // 2]:
                del self._recent[message_id]
