"""What wakes instances that are not at work: hints of the store, and what a scan of it found.

Rule of this file: it decides who is to look where. An instance that is in memory, or on its way there, is told to look
into its inbox; any other is brought in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from durable.backend import Hint, Wakeup
from durable.clock import Clock
from durable.worker.activities import ActivityRunner
from durable.worker.committer import Committer
from durable.worker.delivery import Delivery
from durable.worker.freshness import Freshness
from durable.worker.inbox import Inbox
from durable.worker.instances import Instances
from durable.worker.live import LiveInstance
from durable.worker.recovery import Recovery
from durable.worker.timers import WakeUps


class Waking:
    """Has the instances of one worker look for what they have to do."""

    def __init__(
        self,
        instances: Instances,
        recovery: Recovery,
        inbox: Inbox,
        delivery: Delivery,
        committer: Committer,
        activities: ActivityRunner,
        wakeups: WakeUps,
        freshness: Freshness,
        clock: Clock,
        wake_at: Callable[[LiveInstance], None],
    ) -> None:
        self._instances = instances
        self._recovery = recovery
        self._inbox = inbox
        self._delivery = delivery
        self._committer = committer
        self._activities = activities
        self._wakeups = wakeups
        self._freshness = freshness
        self._clock = clock
        self._wake_at = wake_at

    def hinted(self, instance_id: str, hint: Hint) -> None:
        """An instance of this worker has changed in the store, or a message came for it."""
        is_here = self._instances.get(instance_id) is not None
        if hint.message_id is not None:
            known = self._delivery.knows(hint.message_id)  # this worker posted it
        else:
            known = not is_here and self._committer.ahead(instance_id) is not None  # by a turn that ran here
        if known:
            return
        if is_here or instance_id in self._recovery:
            self._inbox.want(instance_id)
        else:
            self._recovery.wake(instance_id)

    def found(self, wakeups: Sequence[Wakeup]) -> None:
        """These instances have something to do, now or soon."""
        now = self._clock()
        at_work = {attempt.instance_id for attempt in self._activities if attempt.on_end is None}
        for wakeup in wakeups:
            live = self._instances.get(wakeup.instance_id)
            if live is not None and not live.under_way:
                self._freshness.doubt(live)
            if wakeup.due_at > now:
                if live is None:
                    self._wakeups.schedule(wakeup.instance_id, wakeup.due_at)
                elif not live.under_way:  # or it does so when it comes to rest
                    self._wake_at(live)  # what is in memory knows more than its record
            elif wakeup.due_at == 0 and (
                wakeup.instance_id in at_work  # of one whose activity runs here we shall hear
                or wakeup.instance_id in self._recovery
                or live is not None
            ):
                self._inbox.want(wakeup.instance_id)
            else:
                self._recovery.wake(wakeup.instance_id)
