"""The feature bank: what its policies promise, whatever they are fed."""

import math
from dataclasses import replace

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from support import bank_tensors
from torch import Tensor

from maskbank.bank.entries import Entries
from maskbank.bank.feature_bank import BankFullError, FeatureBank
from maskbank.bank.merging import merge, unmatched
from maskbank.bank.policies import PAPER_TOTAL, AdaptivePolicy, PaperPolicy, paper_budget
from maskbank.bank.quantization import dequantize, quantize

CK, CV = 3, 4


def noise(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def frame_entries(n: int, frame: int, seed: int = 0, objects: int = 2) -> Entries:
    """Fresh random entries of one frame; with 3 key channels many of them are similar enough to merge."""
    rng = noise(seed)
    valid = torch.rand(objects, generator=rng) < 0.7
    keys, values = torch.randn(CK, n, generator=rng), torch.randn(objects, CV, n, generator=rng)
    return Entries.of_frame(keys, values, frame, valid).quantized()  # as banks keep them


def entries_of(
    keys: list[list[float]],
    values: list[list[list[float]]] | None = None,
    valid: list[list[bool]] | None = None,
    frame: list[int] | None = None,
    use: list[float] | None = None,
) -> Entries:
    """Entries written out: keys by entry, values and valid by object and entry."""
    n = len(keys)
    return Entries(
        keys=torch.tensor(keys).T,
        values=torch.tensor(values or [[[1.0, 0.0]] * n]).transpose(1, 2),
        valid=torch.tensor(valid or [[True] * n]),
        frame=torch.tensor(frame or [0] * n),
        usage=torch.tensor(use or [0.0] * n),
    )


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def angle(one: Tensor, other: Tensor) -> float:
    return math.acos(min(1.0, torch.cosine_similarity(one, other, dim=0).item()))


@st.composite
def histories(draw: st.DrawFn) -> tuple[AdaptivePolicy, list[tuple[str, int]]]:
    policy = AdaptivePolicy(
        budget=draw(st.integers(5, 40)),
        recent_frames=draw(st.integers(0, 4)),
        older=draw(st.sampled_from([0, 3, 100])),
        match_threshold=draw(st.sampled_from([-1.0, 0.5, 0.95, 1.0])),
    )
    step = st.tuples(st.sampled_from(["seed", "memorize", "memorize", "use", "add"]), st.integers(1, 12))
    return policy, draw(st.lists(step, min_size=1, max_size=25))


@settings(deadline=None, max_examples=60)
@given(histories())
def test_adaptive_policy_keeps_its_promises(history: tuple[AdaptivePolicy, list[tuple[str, int]]]) -> None:
    """Budget, permanent seeds, whole recent frames, and untouched older revisions, after every call."""
    policy, steps = history
    bank, objects, seeds, revisions = FeatureBank(), 2, [], []
    for t, (step, n) in enumerate(steps):
        revisions.append((bank, bank_tensors(bank)))
        entries = frame_entries(n, frame=t, seed=t, objects=objects)
        if step == "seed":
            if sum(map(len, seeds)) + n > policy.budget:
                with pytest.raises(BankFullError, match=f"budget of {policy.budget} .* frame of {n} does"):
                    policy.seed(bank, entries)
                continue
            bank = policy.seed(bank, entries)
            seeds.append(entries)
        elif step == "memorize":
            room = policy.budget - sum(map(len, seeds))
            bank = policy.memorize(bank, entries)
            if policy.recent_frames and n <= room:
                assert torch.equal(bank.recent[-1].keys, entries.keys)
            assert len(bank.recent) <= policy.recent_frames
        elif step == "use":
            bank = bank.count_usage(torch.rand(len(bank), generator=noise(t)))
        else:
            objects += 1
            bank = bank.add_objects(1)
        assert len(bank) <= policy.budget
        assert bank.older is None or len(bank.older) <= policy.older
        assert all(part.values.isfinite().all() and part.keys.isfinite().all() for part in bank.parts)

    if seeds:
        assert torch.equal(bank.seeds.keys, torch.cat([entries.keys for entries in seeds], 1))
        assert torch.equal(bank.seeds.frame, torch.cat([entries.frame for entries in seeds]))
        values = torch.cat([e.values for s in seeds for e in [s.add_objects(objects - len(s.valid))]], -1)
        assert torch.equal(bank.seeds.values, values)
    else:
        assert bank.seeds is None
    for revision, before in revisions:
        assert same(bank_tensors(revision), before)


def test_recent_frames_leave_one_by_one_and_the_oldest_first() -> None:
    policy = AdaptivePolicy(budget=100, recent_frames=2, match_threshold=1.0)
    bank = policy.seed(FeatureBank(), frame_entries(3, 0))
    frames = [frame_entries(4, t, seed=t) for t in range(1, 6)]
    for entries in frames:
        bank = policy.memorize(bank, entries)
    assert [part.keys.tolist() for part in bank.recent] == [frames[3].keys.tolist(), frames[4].keys.tolist()]
    assert bank.older.frame.tolist() == [1] * 4 + [2] * 4 + [3] * 4
    assert torch.equal(bank.older.keys, torch.cat([entries.keys for entries in frames[:3]], 1))


def test_recent_frames_give_way_to_a_small_budget() -> None:
    policy = AdaptivePolicy(budget=10, recent_frames=3, match_threshold=1.0)
    bank = policy.seed(FeatureBank(), frame_entries(4, 0))
    for t in (1, 2):
        bank = policy.memorize(bank, frame_entries(4, t, seed=t))
    assert [len(entries) for entries in bank.recent] == [4]
    assert bank.older.frame.tolist() == [1, 1]
    bank = policy.memorize(bank, frame_entries(7, 3))  # more than fits beside the seed, even alone
    assert (bank.recent, len(bank.older), len(bank)) == ((), 6, 10)


def test_a_seed_takes_the_room_of_recent_frames_but_never_of_other_seeds() -> None:
    policy = AdaptivePolicy(budget=10, recent_frames=1)
    bank = policy.memorize(policy.seed(FeatureBank(), frame_entries(5, 0)), frame_entries(3, 1))
    crowded = policy.seed(bank, frame_entries(4, 2))
    assert (len(crowded.seeds), crowded.recent, len(crowded.older)) == (9, (), 1)
    with pytest.raises(BankFullError) as refused:
        policy.seed(crowded, frame_entries(2, 3))
    assert str(refused.value) == (
        "The feature bank has a budget of 10 entries, of which outlined frames hold 9 for ever: one more outlined "
        "frame of 2 does not fit."
    )


def test_what_objects_are_on_a_frame_that_is_outlined_again_is_replaced() -> None:
    policy = AdaptivePolicy(budget=20)
    both = torch.ones(2, 5, dtype=torch.bool)
    fine, coarse = (replace(frame_entries(5, 1, seed=i), valid=both) for i in (1, 2))  # at two scales
    bank = policy.seed_again(policy.seed(FeatureBank(), fine), coarse)
    bank = policy.seed(bank, replace(frame_entries(5, 2, seed=3), valid=both))

    replaced = policy.seed(bank, replace(frame_entries(5, 9, seed=4), valid=both), again=[1])
    assert replaced.seeds.frame.tolist() == [2] * 5 + [9] * 5

    first_only = replace(frame_entries(5, 9, seed=4), valid=torch.tensor([[True] * 5, [False] * 5]))
    bank = policy.seed(bank, first_only, again=[1])
    assert bank.seeds.frame.tolist() == [1] * 10 + [2] * 5 + [9] * 5
    assert bank.seeds.valid.tolist() == [[False] * 10 + [True] * 10, [True] * 15 + [False] * 5]
    second_only = replace(frame_entries(5, 11, seed=5), valid=first_only.valid.flip(0))
    bank = policy.seed(bank, second_only, again=[1, 9])
    assert bank.seeds.frame.tolist() == [2] * 5 + [9] * 5 + [11] * 5
    with pytest.raises(BankFullError):
        policy.seed(bank, replace(frame_entries(6, 12, seed=6)))


def test_the_number_of_entries_is_flat_after_warm_up() -> None:
    policy = AdaptivePolicy(budget=50, recent_frames=2, match_threshold=1.0)
    bank, sizes = policy.seed(FeatureBank(), frame_entries(8, 0)), []
    for t in range(1, 60):
        bank = policy.memorize(bank, frame_entries(8, t, seed=t))
        sizes.append(len(bank))
    assert sizes[5:] == [50] * 54


def test_thinning_drops_what_is_least_used_for_its_age() -> None:
    older = entries_of(
        [[1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 1.0, 0], [0, 0, 0, 1.0]],
        frame=[0, 4, 8, 8],
        use=[9.0, 6.0, 1.0, 3.0],  # per age at frame 10: 0.9, 1.0, 0.5, 1.5
    )
    kept = {}
    for room in (3, 2, 1):
        policy = AdaptivePolicy(budget=room + 1, recent_frames=1)
        bank = policy.memorize(FeatureBank(older=older), entries_of([[1.0, 1.0, 0, 0]], frame=[10]))
        kept[room] = bank.older.usage.tolist()
    assert kept == {3: [9.0, 6.0, 3.0], 2: [6.0, 3.0], 1: [3.0]}


def test_tracking_backwards_ages_entries_too() -> None:
    older = entries_of([[1.0, 0], [0, 1.0]], frame=[20, 12], use=[4.0, 1.0])  # at frame 10: 0.4, 0.5
    bank = AdaptivePolicy(budget=2, recent_frames=1).memorize(
        FeatureBank(older=older), entries_of([[1.0, 1.0]], frame=[10])
    )
    assert bank.older.usage.tolist() == [1.0]


def test_a_merge_turns_keys_and_values_towards_the_mean_of_what_merges() -> None:
    older = entries_of([[2.0, 0.0], [0.0, 3.0]], [[[4.0, 0.0], [0.0, 5.0]]])
    new = entries_of([[9.0, 0.9], [7.0, -0.7], [1.0, 1.0]], [[[0.0, 8.0], [0.0, 2.0], [6.0, 6.0]]])
    merged, rest = merge(older, new, rate=0.5, threshold=0.9)
    assert rest.keys.flatten().tolist() == [1.0, 1.0] and rest.values.flatten().tolist() == [6.0, 6.0]
    # Both first keys are 0.1 rad from the old one, on either side: its direction stays.
    length = 1 + math.cos(math.atan(0.1))  # of their mean it is a little less than 1
    assert torch.allclose(merged.keys, torch.tensor([[length, 0.0], [0.0, 3.0]]))
    # The values follow the keys' match: half way from (1, 0) to (0, 1), and as much shorter.
    half = 4 / 2
    assert torch.allclose(merged.values, torch.tensor([[[half, 0.0], [half, 5.0]]]))


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000), rate=st.sampled_from([0.05, 0.1, 0.3]), n=st.integers(1, 30))
def test_merging_never_makes_vectors_longer(seed: int, rate: float, n: int) -> None:
    older, new = frame_entries(n, 0, seed), frame_entries(20, 1, seed + 1)
    new = Entries(new.keys, new.values, older.valid[:, :1].repeat(1, 20), new.frame, new.usage)
    kept, rest = merge(older, new, rate, threshold=0.8)
    # Within 0.8 of the other direction, a key loses less than half of a rate's share of the difference.
    assert (kept.keys.norm(dim=0) >= older.keys.norm(dim=0) * (1 - rate)).all()
    assert (kept.keys.norm(dim=0) <= older.keys.norm(dim=0) * (1 + 1e-5)).all()
    assert (kept.usage is older.usage) and (kept.frame is older.frame)
    moved = (kept.keys != older.keys).any(dim=0)
    assert moved.any() or len(rest) == 20
    assert (kept.values.norm(dim=1) <= older.values.norm(dim=1) * (1 + 1e-5)).all()
    assert torch.equal(unmatched(older, new, 0.8).keys, rest.keys)  # what merges is what adds nothing


def test_only_entries_that_the_same_objects_may_read_are_merged() -> None:
    older = entries_of(
        [[1.0, 0.0], [0.8, 0.6]],
        [[[1.0, 0.0]] * 2, [[1.0, 0.0]] * 2],
        valid=[[True, True], [False, True]],
    )
    new = entries_of([[1.0, 0.0]], [[[0.0, 1.0]], [[0.0, 1.0]]], valid=[[True], [True]])
    merged, rest = merge(older, new, rate=0.1, threshold=0.7)
    assert len(rest) == 0
    # The best match is not for both objects, so the second best takes the merge.
    assert torch.equal(merged.values[..., 0], older.values[..., 0])
    assert not torch.equal(merged.values[..., 1], older.values[..., 1])
    assert torch.equal(merged.valid, older.valid)
    lonely = entries_of([[1.0, 0.0]], [[[0.0, 1.0]], [[0.0, 1.0]]], valid=[[False], [True]])
    merged, rest = merge(older, lonely, rate=0.1, threshold=-1.0)
    assert len(rest) == 1 and torch.equal(merged.keys, older.keys)


def test_merging_in_chunks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    older, new = frame_entries(30, 0, 1), frame_entries(50, 1, 1)
    whole = merge(older, new, 0.1, 0.9)
    monkeypatch.setattr("maskbank.bank.merging.MATCH_ELEMENTS", 200)
    chunked = merge(older, new, 0.1, 0.9)
    assert 0 < len(whole[1]) < 50
    for one, other in zip(whole, chunked, strict=True):
        assert torch.allclose(one.keys, other.keys) and torch.allclose(one.values, other.values)


def test_an_older_entry_stays_as_it_was_seen_for_thousands_of_frames() -> None:
    policy = AdaptivePolicy(budget=4, recent_frames=0)
    bank = policy.memorize(FeatureBank(), entries_of([[3.0, 0.0]], [[[5.0, 0.0]]]))
    first = bank.older
    for t in range(1, 1000):
        bank = policy.memorize(bank, entries_of([[1.0, 0.2]], [[[math.cos(t), math.sin(t)]]], frame=[t]))
    assert len(bank) == 1 and torch.equal(bank.older.keys, first.keys) and torch.equal(bank.older.values, first.values)
    bank = policy.memorize(bank, entries_of([[0.0, 1.0]], [[[1.0, 0.0]]], frame=[1000]))
    assert bank.older.frame.tolist() == [0, 1000]  # what resembles nothing is added


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10_000), steps=st.sampled_from([1, 15, 31, 127]), scale=st.sampled_from([1e-30, 1.0, 1e30]))
def test_vectors_that_were_quantized_are_quantized_to_the_same(seed: int, steps: int, scale: float) -> None:
    vectors = torch.randn(2, 5, 40, generator=torch.Generator().manual_seed(seed)) * scale
    vectors[0, :, 3] = 0
    rounded = dequantize(*quantize(vectors, steps))
    assert torch.equal(dequantize(*quantize(rounded, steps)), rounded)
    largest = vectors.abs().amax(1, keepdim=True)
    assert ((rounded - vectors).abs() <= largest * (0.51 / steps + 1 / 256)).all()
    assert not rounded[0, :, 3].any()


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10_000), steps=st.sampled_from([1, 7, 15]), scale=st.sampled_from([1e-30, 0.01, 1.0, 1e3, 1e30])
)
def test_half_precision_holds_few_steps_exactly(seed: int, steps: int, scale: float) -> None:
    vectors = torch.randn(2, 5, 40, generator=torch.Generator().manual_seed(seed)) * scale
    rounded = dequantize(*quantize(vectors, steps, torch.float16))
    assert rounded.isfinite().all() and torch.equal(rounded.half().float(), rounded)
    assert torch.equal(dequantize(*quantize(rounded.half(), steps, torch.float16)), rounded)
    if 0.01 <= scale <= 1e3:
        largest = vectors.abs().amax(1, keepdim=True)
        assert ((rounded - vectors).abs() <= largest * (0.51 / steps + 1 / 64)).all()


@settings(deadline=None, max_examples=40)
@given(history=histories(), seeded=st.booleans())
def test_a_bank_survives_being_taken_apart(history: tuple[AdaptivePolicy, list[tuple[str, int]]], seeded: bool) -> None:
    policy, steps = history
    bank = FeatureBank(seeds=frame_entries(5, 0) if seeded else None)
    for t, (_, n) in enumerate(steps):
        bank = policy.memorize(bank, frame_entries(n, t, seed=t))
    again = FeatureBank.of_parts(dict(sorted(bank.named_parts().items())))
    assert again.parts == bank.parts  # the same objects
    assert (again.seeds, again.older, again.recent) == (bank.seeds, bank.older, bank.recent)


def test_more_than_ten_recent_frames_come_back_in_order() -> None:
    bank = FeatureBank(recent=tuple(frame_entries(1, t) for t in range(12)))
    shuffled = dict(sorted(bank.named_parts().items()))
    assert [int(e.frame[0]) for e in FeatureBank.of_parts(shuffled).recent] == list(range(12))


def test_use_is_counted_in_the_order_of_the_parts_and_shares_all_else() -> None:
    bank = FeatureBank(frame_entries(2, 0), frame_entries(1, 1), (frame_entries(2, 2), frame_entries(1, 3)))
    counted = bank.count_usage(torch.arange(6.0)).count_usage(torch.ones(6))
    assert torch.cat([part.usage for part in counted.parts]).tolist() == [1, 2, 3, 4, 5, 6]
    assert counted.seeds.usage.tolist() == [1, 2] and counted.recent[1].usage.tolist() == [6]
    assert counted.older.keys is bank.older.keys and counted.older.values is bank.older.values
    assert bank.seeds.usage.tolist() == [0, 0]
    with pytest.raises(ValueError, match="6 entries cannot count increments of shape"):
        bank.count_usage(torch.zeros(5))


def test_new_objects_read_nothing_of_what_is_there() -> None:
    bank = FeatureBank(frame_entries(2, 0), None, (frame_entries(3, 1),)).add_objects(2)
    for part, before in zip(bank.parts, (frame_entries(2, 0), frame_entries(3, 1)), strict=True):
        assert part.values.shape == (4, CV, len(part))
        assert torch.equal(part.values[:2], before.values) and torch.equal(part.valid[:2], before.valid)
        assert not part.values[2:].any() and not part.valid[2:].any()
    joined = AdaptivePolicy(budget=20).seed(bank, frame_entries(2, 5, objects=4))
    assert joined.seeds.values.shape == (4, CV, 4)
    with pytest.raises(ValueError, match="cannot be joined"):
        AdaptivePolicy(budget=20).seed(bank, frame_entries(2, 5, objects=2))


def test_fresh_entries_of_a_frame() -> None:
    entries = Entries.of_frame(torch.zeros(CK, 3), torch.zeros(2, CV, 3), 7, torch.tensor([True, False]))
    assert entries.valid.tolist() == [[True] * 3, [False] * 3]
    assert entries.frame.tolist() == [7, 7, 7] and entries.usage.tolist() == [0, 0, 0]
    assert Entries.of_frame(torch.zeros(CK, 1), torch.zeros(2, CV, 1), 0).valid.all()
    picked = frame_entries(5, 0).select(torch.tensor([4, 1]))
    assert torch.equal(picked.values, frame_entries(5, 0).values[..., [4, 1]]) and len(picked) == 2


def test_the_paper_budget() -> None:
    assert [paper_budget(PAPER_TOTAL, classes) for classes in (2, 3, 7)] == [120_000, 100_000, 42_857]


def test_the_paper_policy_keeps_no_frame_for_ever() -> None:
    policy = PaperPolicy(budget_per_class=3, merge_threshold=1.0)
    bank = policy.seed(FeatureBank(), entries_of([[1.0, 0], [0, 1.0]]))
    assert (bank.seeds, bank.recent, len(bank.older)) == (None, (), 2)
    # Scores 5 and 1 at frame 2: all up to int(1) + 1 go, before the new entries come.
    bank = policy.seed(bank.count_usage(torch.tensor([10.0, 2.0])), entries_of([[1.0, 1.0], [1.0, -1.0]], frame=[2, 2]))
    assert bank.older.frame.tolist() == [0, 2, 2] and bank.older.usage.tolist() == [10.0, 0.0, 0.0]
    # Dropping goes on until there is room: now nothing is left of what was there.
    bank = policy.memorize(bank, entries_of([[1.0, 2.0], [2.0, -1.0], [-1.0, 0.0]], frame=[3, 3, 3]))
    assert bank.older.frame.tolist() == [3, 3, 3]


def test_the_paper_policy_never_empties_a_bank() -> None:
    """Where the budget is smaller than a frame and nothing changes, the authors' rule drops all that there is."""
    policy = PaperPolicy(budget_per_class=2, merge_threshold=0.9)
    still = [[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]]
    bank = policy.seed(FeatureBank(), entries_of(still))
    bank = policy.memorize(bank.count_usage(torch.tensor([0.0, 2.0, 1.0])), entries_of(still, frame=[2, 2, 2]))
    assert bank.older.keys.argmax(0).tolist() == [1, 2]


@pytest.mark.parametrize(
    ("settings_", "sentence"),
    [
        ({"budget": 0}, "at least 1 entry, not 0"),
        ({"recent_frames": -1}, "0 or more, not -1"),
        ({"match_threshold": 2.0}, "between -1 and 1, not 2.0"),
    ],
)
def test_settings_without_meaning_are_refused(settings_: dict[str, float], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        AdaptivePolicy(**settings_)


def test_the_papers_rate_is_a_share() -> None:
    with pytest.raises(ValueError, match=r"between 0 and 1, not 1\.5"):
        PaperPolicy(budget_per_class=3, update_rate=1.5)
