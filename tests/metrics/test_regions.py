import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jaxad.errors import InputError
from jaxad.metrics import label_regions
from jaxad.metrics.regions import find_regions


def flood_fill(masks: np.ndarray) -> list[set[tuple[int, int, int]]]:
    """The components by their definition: reachable through the eight neighbours."""
    left = {(int(n), int(y), int(x)) for n, y, x in zip(*np.nonzero(masks))}
    components = []
    while left:
        stack = [min(left)]
        left.remove(stack[0])
        component = set(stack)
        while stack:
            n, y, x = stack.pop()
            near = {(n, y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            component |= near
            stack += near
        components.append(component)
    return components


@hypothesis.given(
    hnp.arrays(
        bool,
        st.tuples(st.integers(0, 3), st.integers(1, 8), st.integers(1, 8)),
        fill=st.nothing(),
    )
)
@hypothesis.settings(max_examples=50, deadline=None)
def test_regions_are_what_eight_neighbours_reach(masks: np.ndarray) -> None:
    labels, areas = label_regions(masks)
    assert labels.dtype == np.int32
    assert areas.dtype == np.int64
    components = flood_fill(masks)
    assert len(areas) == len(components)
    numbers = set()
    for component in components:
        found = {int(labels[pixel]) for pixel in component}
        assert len(found) == 1
        number = found.pop()
        assert areas[number - 1] == len(component)
        numbers.add(number)
    assert numbers == set(range(1, len(areas) + 1))
    assert not labels[~masks].any()


def test_regions_do_not_reach_into_the_next_image() -> None:
    masks = np.zeros((2, 4, 4), bool)
    masks[0, 3] = True
    masks[1, 0] = True
    assert label_regions(masks).areas.tolist() == [4, 4]


def test_grey_masks_are_refused() -> None:
    with pytest.raises(InputError, match="mask > 0"):
        label_regions(np.full((1, 4, 4), 128, np.uint8))
    with pytest.raises(InputError, match=r"\(N, H, W\)"):
        label_regions(np.ones((4, 4), bool))


def test_regions_of_a_map() -> None:
    scores = np.zeros((6, 8), np.float32)
    scores[0, 0] = scores[1, 1] = 2.0  # diagonal neighbours touch
    scores[3:5, 4:8] = 1.0
    scores[4, 7] = 5.0
    scores[5, 0] = 0.5
    found = find_regions(scores, 0.5, most=10)
    assert found == [((4, 3, 8, 5), 8, 5.0), ((0, 0, 2, 2), 2, 2.0)]
    assert find_regions(scores, 0.5, most=1) == found[:1]
    assert find_regions(scores, 5.0, most=10) == []
    assert len(find_regions(np.indices((9, 9)).sum(0) % 2.0, 0.5, most=100)) == 1
