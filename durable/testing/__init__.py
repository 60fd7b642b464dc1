"""What users test with."""

from durable.testing.virtual_loop import DeadlockError, VirtualLoop

__all__ = ["DeadlockError", "VirtualLoop"]
