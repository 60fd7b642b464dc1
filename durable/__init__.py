"""Durable orchestrations for asyncio services: plain ``async def`` functions that survive crashes."""

from durable.activity_context import ActivityContext
from durable.backend import BackendUnavailable
from durable.core.context import OrchestrationContext
from durable.core.errors import (
    ActivityFailedError,
    ActivityTimeoutError,
    CallFailedError,
    ContinuedAsNew,
    DurableError,
    EntityOperationFailedError,
    FailureDetails,
    HistoryLimitError,
    InstanceExistsError,
    InstanceFinishedError,
    InstanceHeldError,
    InstanceNotFailedError,
    InstanceNotFinishedError,
    InstanceNotFoundError,
    LockingRulesViolationError,
    NonDeterminismError,
    NonRetryableError,
    OrchestrationCanceledError,
    OrchestrationFailedError,
    OrchestrationTerminatedError,
    PayloadError,
    PayloadTooLargeError,
    PoisonActivityError,
    RegistrationError,
    RetryableError,
    StuckOrchestrationError,
    SubOrchestrationFailedError,
    TaskLimitError,
    UnknownFunctionError,
    UnsupportedHistoryError,
    VersionMismatchError,
)
from durable.core.event_parts import ForkOrigin
from durable.core.ids import EntityId
from durable.core.retry import RetryPolicy
from durable.core.state import RuntimeStatus
from durable.core.versions import VersionFailure, VersionMatch
from durable.definitions import Activity, Orchestrator, ParentClose
from durable.entity_client import EntityState
from durable.entity_context import EntityContext
from durable.handle import InstanceHandle, InstanceStatus
from durable.health import HubHealth, WorkerStatus
from durable.httpcall.activity import HttpCaller
from durable.httpcall.credentials import AzureTokenSource
from durable.httpcall.errors import (
    HttpCallError,
    HttpNotAllowedError,
    HttpPollingError,
    HttpRedirectError,
    HttpResponseError,
    UnknownCredentialError,
)
from durable.httpcall.values import HttpResponse, Secret
from durable.hub import TaskHub
from durable.querying import InstancePage, InstanceQuery
from durable.queues import ActivityQueue
from durable.registry import Registry
from durable.retaining import Retain
from durable.saga import CompensationError, Saga
from durable.settings import Settings
from durable.tasks import QueuesNotSupportedError
from durable.transactions import TransactionsNotSupportedError

__all__ = [
    "Activity",
    "ActivityContext",
    "ActivityFailedError",
    "ActivityQueue",
    "ActivityTimeoutError",
    "AzureTokenSource",
    "BackendUnavailable",
    "CallFailedError",
    "CompensationError",
    "ContinuedAsNew",
    "DurableError",
    "EntityContext",
    "EntityId",
    "EntityOperationFailedError",
    "EntityState",
    "FailureDetails",
    "ForkOrigin",
    "HistoryLimitError",
    "HttpCallError",
    "HttpCaller",
    "HttpNotAllowedError",
    "HttpPollingError",
    "HttpRedirectError",
    "HttpResponse",
    "HttpResponseError",
    "HubHealth",
    "InstanceExistsError",
    "InstanceFinishedError",
    "InstanceHandle",
    "InstanceHeldError",
    "InstanceNotFailedError",
    "InstanceNotFinishedError",
    "InstanceNotFoundError",
    "InstancePage",
    "InstanceQuery",
    "InstanceStatus",
    "LockingRulesViolationError",
    "NonDeterminismError",
    "NonRetryableError",
    "OrchestrationCanceledError",
    "OrchestrationContext",
    "OrchestrationFailedError",
    "OrchestrationTerminatedError",
    "Orchestrator",
    "ParentClose",
    "PayloadError",
    "PayloadTooLargeError",
    "PoisonActivityError",
    "QueuesNotSupportedError",
    "RegistrationError",
    "Registry",
    "Retain",
    "RetryPolicy",
    "RetryableError",
    "RuntimeStatus",
    "Saga",
    "Secret",
    "Settings",
    "StuckOrchestrationError",
    "SubOrchestrationFailedError",
    "TaskHub",
    "TaskLimitError",
    "TransactionsNotSupportedError",
    "UnknownCredentialError",
    "UnknownFunctionError",
    "UnsupportedHistoryError",
    "VersionFailure",
    "VersionMatch",
    "VersionMismatchError",
    "WorkerStatus",
]
