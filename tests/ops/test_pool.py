from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxad.ops.pool import top_share_mean


@settings(max_examples=25, deadline=None)
@given(
    share=st.floats(0, 1),
    values=st.lists(st.floats(-10, 10, width=32), min_size=12, max_size=12),
)
def test_top_share_mean_is_the_mean_of_the_highest(share: float, values: list[float]) -> None:
    map_ = jnp.asarray(values, jnp.float32).reshape(1, 3, 4)
    count = max(1, round(share * 12))
    expected = np.sort(np.asarray(values, np.float32))[-count:].mean()
    np.testing.assert_allclose(top_share_mean(map_, share)[0], expected, rtol=1e-5, atol=1e-6)
