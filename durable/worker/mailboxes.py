"""Long inboxes: how far ahead the messages of one instance are read.

Rule of this file: an inbox is read in order, a page beyond what is in the mailbox, and the next page when the
instance comes to rest. Until then nothing goes to it by another road, as it would overtake what is in the store.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from durable.backend import Message
from durable.worker.live import Item, LiveInstance

MAX_MAILBOX = 5000
"""Messages of one instance that are read ahead; more wait in the store until those are taken in."""

_log = logging.getLogger("durable.worker")


def is_full(mailbox: Sequence[Item]) -> bool:
    """Whether a mailbox takes no more messages."""
    return len(mailbox) >= MAX_MAILBOX


def has_room(instance: LiveInstance) -> bool:
    """Whether a message may go to an instance by another road than the store, where none waits."""
    return not instance.more and not is_full(instance.mailbox)


def page_for(instance: LiveInstance | None) -> int:
    """How many messages to ask for, so that a page of them is new.

    Those in the mailbox or a turn come again, and so may the grant of each critical section that is still open:
    it is not marked before the section is left.
    """
    if instance is None:
        return MAX_MAILBOX
    return MAX_MAILBOX + len(instance.mailbox) + len(instance.taken) + len(instance.state.sections)


def note_read(instance: LiveInstance, messages: Sequence[Message], limit: int | None) -> None:
    """Note whether a read of at most ``limit`` messages has left some in the store; they are read later."""
    if limit is None or len(messages) < limit:
        instance.has_backlog = instance.more  # which may be set: one came after this was read
        return
    instance.more = True
    if not instance.has_backlog:
        instance.has_backlog = True
        _log.warning(
            "more than %d messages wait for instance %r (%s); they are read from the store as it takes them in",
            MAX_MAILBOX - 1,
            instance.instance_id,
            instance.record.name,
        )


def news(instance: LiveInstance, messages: Sequence[Message]) -> Sequence[Message]:
    """Those of ``messages`` that are not in the mailbox yet; one at least, so that the instance looks at it again."""
    if not instance.mailbox:
        return messages
    known = {item.message_id for item in instance.mailbox if type(item) is Message}
    return [message for message in messages if message.message_id not in known] or messages[:1]
