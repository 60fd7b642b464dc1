"""What hypothesis makes simulated scenarios of, whatever the instances in them do."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

ANY_SCENARIO: dict[str, Any] = {
    "seed": st.integers(0, 2**32),
    "hubs": st.integers(1, 3),
    "jobs": st.integers(1, 10),
    "failures": st.sampled_from([0.0, 0.05, 0.1, 0.3]),
    "crashes": st.sampled_from([0.0, 0.005, 0.02]),
    "steals": st.booleans(),
    "cache": st.sampled_from([1, 2, 10_000]),
    "settles_on_commit": st.booleans(),
    "slowness": st.sampled_from([0.0, 0.02, 0.1]),
    "skew": st.sampled_from([0.0, 0.5, 10.0]),
}
