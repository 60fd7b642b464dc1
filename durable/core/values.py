"""Values: dataclasses that nobody changes, at the price of plain ones.

Rule of this file: a ``frozen`` dataclass sets each field by ``object.__setattr__``, eight times as slow
as an assignment, and an instance makes hundreds of values. So the type checker keeps them from being
changed, and the run time does not.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def value(cls: type[T]) -> type[T]:
    """Make ``cls`` a slotted dataclass that type checkers treat as frozen."""
    made: Any = dataclass(slots=True)(cls)
    result: type[T] = made
    return result
