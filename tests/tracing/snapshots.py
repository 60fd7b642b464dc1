"""``python -m tests.tracing.snapshots`` writes the spans of each history as they are now; look at the diff."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from durable.core.events import HistoryEvent
from durable.projection import project, span_to_dict
from tests.tracing.histories import all_histories, instance_of

FOLDER = Path(__file__).parent / "snapshots"


def spans_text(history: Sequence[HistoryEvent]) -> str:
    """The spans of a history, one a line."""
    return "".join(json.dumps(span_to_dict(span)) + "\n" for span in project("golden", history, instance_of(history)))


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, history in all_histories().items():
        (FOLDER / f"{name}.jsonl").write_text(spans_text(history), "utf-8")


if __name__ == "__main__":
    main()
