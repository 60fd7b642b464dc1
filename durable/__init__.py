"""Durable orchestrations for asyncio services: plain ``async def`` functions that survive crashes."""

from durable.activity_context import ActivityContext
from durable.backend import BackendUnavailable
from durable.client import InstanceHandle, InstanceStatus
from durable.core.context import OrchestrationContext
from durable.core.errors import (
    ActivityFailedError,
    ActivityTimeoutError,
    DurableError,
    FailureDetails,
    InstanceExistsError,
    InstanceNotFoundError,
    NonDeterminismError,
    OrchestrationFailedError,
    PayloadError,
    PayloadTooLargeError,
    PoisonActivityError,
    RegistrationError,
    StuckOrchestrationError,
    UnknownFunctionError,
    UnsupportedHistoryError,
)
from durable.core.state import RuntimeStatus
from durable.definitions import Activity, Orchestrator
from durable.hub import TaskHub
from durable.registry import Registry
from durable.settings import Settings

__all__ = [
    "Activity",
    "ActivityContext",
    "ActivityFailedError",
    "ActivityTimeoutError",
    "BackendUnavailable",
    "DurableError",
    "FailureDetails",
    "InstanceExistsError",
    "InstanceHandle",
    "InstanceNotFoundError",
    "InstanceStatus",
    "NonDeterminismError",
    "OrchestrationContext",
    "OrchestrationFailedError",
    "Orchestrator",
    "PayloadError",
    "PayloadTooLargeError",
    "PoisonActivityError",
    "RegistrationError",
    "Registry",
    "RuntimeStatus",
    "Settings",
    "StuckOrchestrationError",
    "TaskHub",
    "UnknownFunctionError",
    "UnsupportedHistoryError",
]
