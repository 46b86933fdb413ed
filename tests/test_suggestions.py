"""Which frame to outline next."""

import pytest

from maskbank.tracking.suggestions import next_step, suggest


def sure_but_for(doubts: dict[int, float | None], length: int = 40) -> list[float | None]:
    """Confidences of a run that was outlined on its first frame."""
    return [{0: None, **doubts}.get(frame, 0.97) for frame in range(length)]


def test_the_frame_of_least_confidence_is_suggested_with_its_object():
    [found] = suggest({"car": sure_but_for({}), "koi": sure_but_for({20: 0.5, 30: 0.6})}, 1)
    assert (found.position, found.objects) == (20, ("koi",))
    assert found.error == pytest.approx(0.54)


def test_objects_that_are_wrong_together_count_together():
    one, other = sure_but_for({10: 0.4, 30: 0.5}), sure_but_for({10: 0.97, 30: 0.6})
    [found] = suggest({1: one, 2: other}, 1)
    assert (found.position, found.objects) == (30, (1, 2))


def test_next_to_an_outline_another_one_is_worth_less():
    """The reach is four of the forty frames."""
    assert suggest({1: sure_but_for({1: 0.3, 20: 0.7})}, 1)[0].position == 20
    assert suggest({1: sure_but_for({4: 0.3, 20: 0.7})}, 1)[0].position == 4
    assert suggest({1: sure_but_for({4: 0.3, 5: None, 20: 0.7})}, 1)[0].position == 20


def test_several_suggestions_are_apart_and_in_order():
    doubts = {20: 0.3, 21: 0.31, 22: 0.32, 35: 0.5}
    found = suggest({1: sure_but_for(doubts)}, 8)
    assert [each.position for each in found] == [20, 35, 22, 21]  # what is worth 0.1 with 20 and 22 outlined
    assert [each.error for each in found] == sorted((each.error for each in found), reverse=True)
    assert [each.position for each in suggest({1: sure_but_for(doubts)}, 2)] == [20, 35]


def test_it_stops_where_nothing_is_to_be_gained():
    assert suggest({1: sure_but_for({}), 2: sure_but_for({9: 0.95})}, 3) == []
    assert [each.position for each in suggest({1: sure_but_for({9: 0.93})}, 3)] == [9]
    assert suggest({1: [None] * 5}, 3) == [] == suggest({}, 3)


def test_the_next_step_in_words():
    names, numbers = {1: "car", 2: "koi"}, range(100, 140)
    both = {1: sure_but_for({20: 0.6}), 2: sure_but_for({20: 0.4})}
    assert next_step(names, both, numbers) == "Outline next: frame 120, koi, car."
    assert next_step(names, {1: sure_but_for({})}, numbers).startswith("No frame is worth another outline")


def test_of_a_crowd_a_few_are_named():
    names = {each: f"person {each}" for each in range(59)}
    doubts = {each: sure_but_for({20: 0.4}) for each in names}
    first = "person 0, person 1, person 2, person 3, person 4"
    assert next_step(names, doubts, range(40)) == f"Outline next: frame 20, {first} and 54 others."
    six = {each: doubts[each] for each in range(6)}
    assert next_step(names, six, range(40)) == f"Outline next: frame 20, {first} and 1 other."
    assert next_step(names, {each: doubts[each] for each in range(5)}, range(40)).endswith(f"20, {first}.")


def test_only_candidates_are_suggested():
    assert [each.position for each in suggest({1: sure_but_for({20: 0.3, 30: 0.6})}, 1, {10, 30})] == [30]
    assert suggest({1: sure_but_for({20: 0.3})}, 1, {10}) == []
