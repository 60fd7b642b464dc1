"""What goes wrong in a driver, as the port's errors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

from pymongo.errors import (
    AutoReconnect,
    BulkWriteError,
    ConfigurationError,
    InvalidOperation,
    OperationFailure,
    PyMongoError,
    WriteConcernError,
)

from durable.backend import BackendClosed, BackendError, BackendUnavailable

_NO_CHANGE_STREAMS = 40573
_PASSING = {
    6: "HostUnreachable",
    7: "HostNotFound",
    24: "LockTimeout",
    43: "CursorNotFound",
    46: "LockBusy",
    50: "MaxTimeMSExpired",
    64: "WriteConcernFailed",
    89: "NetworkTimeout",
    91: "ShutdownInProgress",
    112: "WriteConflict",
    133: "FailedToSatisfyReadPreference",
    134: "ReadConcernMajorityNotAvailableYet",
    189: "PrimarySteppedDown",
    202: "NetworkInterfaceExceededTimeLimit",
    262: "ExceededTimeLimit",
    9001: "SocketException",
    10107: "NotWritablePrimary",
    11600: "InterruptedAtShutdown",
    11602: "InterruptedDueToReplStateChange",
    13435: "NotPrimaryNoSecondaryOk",
    13436: "NotPrimaryOrSecondary",
}
"""What a server answers while it stops, elects or is overloaded: its error codes and its names for them."""


class ChangeStreamsUnsupported(BackendError):  # noqa: N818 - a property of the server
    """The server has no change streams: it is not a member of a replica set."""


@contextmanager
def translated() -> Iterator[None]:
    """Turn a driver's error into the port's: what may pass is BackendUnavailable, the rest BackendError."""
    try:
        yield
    except InvalidOperation as error:
        raise BackendClosed(f"the connection to MongoDB is closed: {error}") from error
    except ConfigurationError as error:
        raise BackendError(f"MongoDB cannot be used with these settings: {error}") from error
    except PyMongoError as error:
        if _may_pass(error):
            raise BackendUnavailable(f"MongoDB did not answer as it should, the outcome is unknown: {error}") from error
        if isinstance(error, OperationFailure) and error.code == _NO_CHANGE_STREAMS:
            raise ChangeStreamsUnsupported(str(error)) from error
        raise BackendError(f"MongoDB refused: {error}") from error


def _may_pass(error: PyMongoError) -> bool:
    if isinstance(error, BulkWriteError):
        details = cast("Mapping[str, Any]", error.details)
        codes = {problem.get("code") for problem in details.get("writeErrors", ())}
        return bool(details.get("writeConcernErrors")) or not codes.isdisjoint(_PASSING)
    if isinstance(error, AutoReconnect | WriteConcernError) or error.timeout:
        return True
    return isinstance(error, OperationFailure) and (
        error.code in _PASSING
        or error.has_error_label("RetryableWriteError")
        or error.has_error_label("TransientTransactionError")
    )
