"""RandomIds: ids from the system's randomness, drawn for many at a time.

Rule of this file: an id cannot be guessed, and no two are alike. Each look at the system's randomness lets other
threads have Python; one of a store that is writing then takes it, and to get it back costs more than many ids.
"""

from __future__ import annotations

from secrets import token_hex

_DIGITS = 32
_AT_ONCE = 128


class RandomIds:
    """Ids of 32 hexadecimal digits, 128 random bits each.

    A copy of it in a forked process would give the same ids: it belongs to a client, and like that to one process.
    """

    def __init__(self) -> None:
        self._drawn: list[str] = []

    def draw(self) -> str:
        """An id that was not drawn before."""
        if not self._drawn:
            digits = token_hex(_AT_ONCE * _DIGITS // 2)
            self._drawn = [digits[start : start + _DIGITS] for start in range(0, len(digits), _DIGITS)]
        return self._drawn.pop()
