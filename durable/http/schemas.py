"""The JSON schemas of what the API answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from durable.core.state import RuntimeStatus


def _object(required: Mapping[str, Any], optional: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return {"type": "object", "properties": {**required, **(optional or {})}, "required": list(required)}


_TEXT = {"type": "string"}
_TEXT_OR_NULL = {"type": ["string", "null"]}
_TIME = {"type": "string", "format": "date-time"}
_TIME_OR_NULL = {"type": ["string", "null"], "format": "date-time"}
_LINK_NAMES = (
    "statusQueryGetUri",
    "sendEventPostUri",
    "terminatePostUri",
    "rewindPostUri",
    "purgeHistoryDeleteUri",
    "restartPostUri",
    "suspendPostUri",
    "resumePostUri",
)

SCHEMAS: Mapping[str, Any] = {
    "Error": _object({"error": _object({"type": _TEXT, "message": _TEXT})}),
    "Links": _object({"id": _TEXT, **dict.fromkeys(_LINK_NAMES, _TEXT)}),
    "Failure": _object(
        {
            "errorType": _TEXT,
            "errorMessage": _TEXT,
            "innerFailure": {"anyOf": [{"$ref": "#/components/schemas/Failure"}, {"type": "null"}]},
            "isNonRetriable": {"type": "boolean"},
        }
    ),
    "Status": _object(
        {
            "name": _TEXT,
            "instanceId": _TEXT,
            "runtimeStatus": {"type": "string", "enum": [status.value for status in RuntimeStatus]},
            "input": {},
            "customStatus": {},
            "output": {},
            "createdTime": _TIME,
            "lastUpdatedTime": _TIME,
            "completedTime": _TIME_OR_NULL,
            "executionId": _TEXT,
            "parentInstanceId": _TEXT_OR_NULL,
            "rootInstanceId": _TEXT_OR_NULL,
            "scheduledStartTime": _TIME_OR_NULL,
            "purgeTime": _TIME_OR_NULL,
            "hold": _TEXT_OR_NULL,
            "forkedFrom": {"type": ["object", "null"]},
            "version": _TEXT_OR_NULL,
            "tags": {"type": "object", "additionalProperties": _TEXT},
            "failureDetails": {"anyOf": [{"$ref": "#/components/schemas/Failure"}, {"type": "null"}]},
            "problem": _TEXT_OR_NULL,
        },
        {
            "historyEvents": {"type": "array", "items": _object({"EventType": _TEXT, "Timestamp": _TIME})},
            "traceUrl": _TEXT,
        },
    ),
    "HistoryEvent": _object({"index": {"type": "integer"}, "eventType": _TEXT, "timestamp": _TIME}),
    "Purged": _object({"instancesDeleted": {"type": "integer", "minimum": 0}}),
    "EntityRow": _object(
        {"entityId": _object({"name": _TEXT, "key": _TEXT}), "lastOperationTime": _TIME}, {"state": {}}
    ),
}
