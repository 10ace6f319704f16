from hypothesis import given, settings
from hypothesis import strategies as st

from jaxad.data.hold_out import held_out_fifth


@settings(max_examples=25)
@given(st.sets(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), max_size=40))
def test_a_fifth_whatever_the_order(names: set[str]) -> None:
    chosen = held_out_fifth(sorted(names))
    assert chosen <= names
    assert len(chosen) == (-(-len(names) // 5) if len(names) > 1 else 0)
    assert chosen == held_out_fifth(sorted(names, reverse=True))


def test_the_choice_is_fixed() -> None:
    names = [f"images/cell{i:04d}.png" for i in range(1, 11)]
    assert sorted(held_out_fifth(names)) == ["images/cell0006.png", "images/cell0009.png"]
