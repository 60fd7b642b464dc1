"""Histories to project: those kept in ``tests/golden``, and made ones that hold every kind of event."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from durable.core import events as ev
from durable.core.codec import event_from_dict, event_to_dict
from durable.core.errors import FailureDetails

GOLDEN = Path(__file__).parent.parent / "golden"
T0 = 1_700_000_000_000_000
SECOND = 1_000_000
CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
BOOM = FailureDetails("builtins.ValueError", "boom")
RECORDED = json.dumps(
    {
        "attributes": {"order": 7, "sizes": ["s", "m"]},
        "events": [["charged", (T0 + SECOND) * 1000, {"amount": 3}]],
        "links": [["0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", {}]],
    }
)


def golden_histories() -> dict[str, list[ev.HistoryEvent]]:
    """Every kept history, by name."""
    return {
        path.stem: [event_from_dict(event) for event in json.loads(path.read_text("utf-8"))]
        for path in sorted(GOLDEN.glob("*.json"))
    }


def instance_of(history: Sequence[ev.HistoryEvent]) -> str:
    """Whose history it is: a fork's begins with the origin's."""
    return [event for event in history if isinstance(event, ev.ExecutionStarted | ev.ExecutionForked)][-1].instance_id


def turn(at: float, arrived: list[ev.HistoryEvent], decided: list[ev.HistoryEvent]) -> list[ev.HistoryEvent]:
    """The rows of one turn; ``at`` is in seconds from the start."""
    now = T0 + round(at * SECOND)
    return [*arrived, ev.OrchestratorStarted(now), *decided, ev.OrchestratorCompleted(now)]


def at(seconds: float) -> int:
    return T0 + round(seconds * SECOND)


def started(instance_id: str = "order-1", execution_id: str = "e1", **more: object) -> ev.ExecutionStarted:
    return ev.ExecutionStarted(T0, instance_id, execution_id, "checkout", "[]", **more)  # type: ignore[arg-type]


def asks_for_everything() -> list[ev.HistoryEvent]:
    """The first turn of an orchestration that does all it can."""
    return turn(
        0,
        [started(version="2", tags={"durable.traceparent": CALLER})],
        [
            ev.VersionMarker(T0, "new-way"),
            ev.TaskScheduled(T0, 1, "charge", "[]"),
            ev.SubOrchestrationInstanceCreated(T0, 2, "ship-1", "ship", "[]"),
            ev.SubOrchestrationInstanceCreated(T0, 3, "report-1", "report", "[]", detached=True),
            ev.EntityOperationCalled(T0, 4, "@stock@7", "take", "[]"),
            ev.EntityOperationSignaled(T0, 5, "@log@all", "add", "[]", scheduled_at=at(60)),
            ev.EntityLockRequested(T0, 6, ("@stock@7", "@stock@8")),
            ev.EventSent(T0, 7, "order-2", "hello", "null"),
            ev.TaskScheduled(T0, 8, "fails", "[]", previous=ev.PreviousAttempt(2, 1)),
            ev.TaskScheduled(T0, 9, "by_hand", "[]"),
            ev.TaskScheduled(T0, 10, "forgotten", "[]"),
            ev.SubOrchestrationInstanceCreated(T0, 11, "ship-2", "ship", "[]"),
            ev.EntityOperationCalled(T0, 12, "@stock@9", "take", "[]"),
            ev.CustomStatusSet(T0, '"busy"'),
            ev.TimerCreated(T0, 13, at(4)),
            ev.TimerCreated(T0, 14, at(900)),
        ],
    )


def everything() -> list[ev.HistoryEvent]:
    """An orchestration that does all it can."""
    return [
        *asks_for_everything(),
        *turn(
            2,
            [
                ev.TaskCompleted(at(1.5), 1, "null", 3, at(1), "worker-1", RECORDED),
                ev.TaskFailed(at(1.6), 8, BOOM, 1, at(0.5), "worker-1"),
                ev.TaskDeferred(at(1.7), 9, 1, at(1), "worker-1"),
                ev.SubOrchestrationInstanceCompleted(at(1.8), 2, "null"),
                ev.SubOrchestrationInstanceFailed(at(1.8), 11, BOOM),
                ev.EntityOperationCompleted(at(1.9), 4, "null"),
                ev.EntityOperationFailed(at(1.9), 12, BOOM),
                ev.EntityLockGranted(at(1.9), 6, ("@stock@7", "@stock@8")),
                ev.EventRaised(at(-5), "go", "null", "order-1/client/1", traceparent=CALLER),
                ev.EventRaised(at(1.9), "go", "null", "order-3/e9/00000002/000007", root=("top", "e0", "")),
                ev.ExecutionSuspended(at(1.9), "pause", "m1"),
            ],
            [],
        ),
        *turn(3, [ev.ExecutionResumed(at(2.9), "go on", "m2")], [ev.EntityUnlockSent(at(3), 6, "@stock@7")]),
        *turn(
            5,
            [ev.TimerFired(at(5), 13, at(4)), ev.TaskCompleted(at(99), 9, "null")],
            [ev.TaskCancelRequested(at(5), 14)],
        ),
        *turn(
            6,
            [ev.ExecutionCancelRequested(at(6), "enough", message_id="m3")],
            [ev.ContinueAsNew(at(6), "e1.1", "[]")],
        ),
    ]


def rewound() -> list[ev.HistoryEvent]:
    """An execution that failed, was rewound, was terminated, was rewound and then completed."""
    first = [
        *turn(
            0,
            [started(parent=ev.ParentInstance("main-1", "m", 4, "top-1", "t"))],
            [ev.TaskScheduled(T0, 1, "a", "[]"), ev.TaskScheduled(T0, 2, "b", "[]")],
        ),
        *turn(1, [ev.TaskCompleted(at(1), 1, "null", 1, at(0.5))], [ev.TaskScheduled(at(1), 3, "c", "[]")]),
    ]
    return [
        *first,
        *turn(
            2,
            [ev.TaskFailed(at(2), 2, BOOM)],
            [ev.TaskCancelRequested(at(2), 3), ev.ExecutionCompleted(at(2), "Failed", failure=BOOM)],
        ),
        *turn(10, [ev.ExecutionRewound(at(10), len(first), message_id="r1")], [ev.TaskScheduled(at(10), 4, "d", "[]")]),
        *turn(
            11,
            [ev.ExecutionTerminated(at(11), message_id="t1")],
            [
                ev.TaskCancelRequested(at(11), 2),
                ev.TaskCancelRequested(at(11), 3),
                ev.TaskCancelRequested(at(11), 4),
                ev.ExecutionCompleted(at(11), "Terminated"),
            ],
        ),
        *turn(20, [ev.ExecutionRewound(at(20), len(first) + 4, message_id="r2")], []),
        *turn(
            21,
            [
                ev.TaskCompleted(at(21), 2, "null", 1, at(20.5)),
                ev.TaskCompleted(at(21), 3, "null", 1, at(20.5)),
                ev.TaskCompleted(at(21), 4, "null", 1, at(20.5)),
            ],
            [ev.ExecutionCompleted(at(21), "Completed", "null")],
        ),
    ]


LATER = ev.EntityOperationSignaled(T0, 0, "@stock@7", "add", "[]", at(9), "@stock@7/client/2", CALLER)
"""A signal for a later time."""


def entity() -> list[ev.HistoryEvent]:
    """An entity that was called, signaled and locked; the signal for a later time is left to its next execution."""
    caller = ("order-1", "e1")
    begun = ev.ExecutionStarted(T0, "@stock@7", "x", "stock", "null")
    called = ev.EntityOperationCalled(T0, 4, "@stock@7", "take", "[]", None, *caller, "order-1/e1/0/4")
    refused = ev.EntityOperationCalled(
        T0, 5, "@stock@7", "take", "[]", None, *caller, "order-1/e1/0/5", ("top", "t", CALLER)
    )
    return [
        *turn(
            1,
            [
                begun,
                called,
                refused,
                ev.EntityOperationSignaled(T0, 9, "@stock@7", "add", "[]", None, "order-1/e1/00000000/000009"),
                LATER,
                ev.EntityLockRequested(T0, 6, ("@stock@7",), 0, None, *caller, "order-1/e1/0/6"),
            ],
            [
                ev.EntityOperationCompleted(at(1), 4, "null", "order-1", "e1"),
                ev.EntityOperationFailed(at(1), 5, BOOM, "order-1", "e1"),
                ev.EntityLockGranted(at(1), 6, ("@stock@7",), "order-1", "e1"),
                ev.EntityStateSet(at(1), "1", ("order-1", "e1", 6), (LATER,), (("order-1/e1/0/4", RECORDED),)),
            ],
        ),
        *turn(
            2,
            [ev.EntityUnlockSent(at(2), 6, "@stock@7", "order-1", "e1", "order-1/e1/1/3")],
            [ev.EntityStateSet(at(2), "1", None, (LATER,)), ev.ContinueAsNew(at(2), "x.1", "{}")],
        ),
    ]


def entity_later() -> list[ev.HistoryEvent]:
    """The next execution of that entity: the signal's time comes, and its operation traces something."""
    before = json.dumps(event_to_dict(ev.EntityStateSet(at(2), "1", None, (LATER,))))
    ended = json.dumps({"attributes": {"order": 7}, "ended": at(10) * 1000})
    return [
        *turn(
            3,
            [ev.ExecutionStarted(at(2), "@stock@7", "x.1", "stock", before)],
            [ev.EntityStateSet(at(3), "1", None, (LATER,))],
        ),
        *turn(
            9, [ev.TimerFired(at(9), 0, at(9))], [ev.EntityStateSet(at(9), "2", traces=(("@stock@7/client/2", ended),))]
        ),
    ]


MADE = {"everything": everything, "rewound": rewound, "entity": entity, "entity_later": entity_later}


def all_histories() -> dict[str, list[ev.HistoryEvent]]:
    """All of them, by name."""
    return golden_histories() | {name: make() for name, make in MADE.items()}
