"""Training: clips, losses, the unrolled tracker, and a run of a few seconds that is stopped and resumed."""

import csv
import inspect
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from support import CLIP

from maskbank import cli
from maskbank.files.frames import open_frames
from maskbank.files.masks import read_id_mask, write_id_mask
from maskbank.networks.aggregation import aggregate
from maskbank.networks.checkpoints import convert
from maskbank.networks.lite import Lite, full_size
from maskbank.networks.models import BUNDLED_WEIGHTS, interactor_beside, load_segmenter
from maskbank.networks.novelty import familiar, found_places, object_novelty
from maskbank.networks.weights import (
    fit_weights,
    in_half_precision,
    interactor_named_in,
    load_state_dict,
    save_weights,
)
from maskbank.training import novelty, schedules, trainer
from maskbank.training.clips import LARGEST_SEED, SMALLEST_SEED, ClipMaker, ClipRecipe, change_light
from maskbank.training.exports import load_data
from maskbank.training.interactor import train_interactor
from maskbank.training.pretrained import load_pretrained, published_encoder
from maskbank.training.run import RunOptions
from maskbank.training.run_state import WeightAverage
from maskbank.training.schedules import Stage, stage_at
from maskbank.training.sources import Source, load_sources, read_sample
from maskbank.training.trainer import train
from maskbank.tuning import clip_memory
from maskbank.tuning.clip_memory import ClipMemory
from maskbank.tuning.clips import Clip
from maskbank.tuning.losses import EDGE_WEIGHT, dice, edge_weights, frame_loss, hard_cross_entropy
from maskbank.tuning.samples import Sample
from maskbank.tuning.unrolling import unroll

SIZE = 64
LITE = BUNDLED_WEIGHTS["lite"]


@pytest.fixture(autouse=True)
def no_hang() -> Iterator[None]:
    """Training has worker processes: whatever blocks ends in an error instead of for ever."""

    def too_long(*_: object) -> None:
        raise TimeoutError("a training test hangs")

    before, threads = signal.signal(signal.SIGALRM, too_long), cv2.getNumThreads()
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
    cv2.setNumThreads(threads)


@pytest.fixture(autouse=True)
def same_random_numbers_every_time() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Two stills and one sequence of eight frames, from the sample clip at half its size."""
    root = tmp_path_factory.mktemp("data")
    places = {0: root / "static" / "pond", 50: root / "static" / "pond"}
    places |= {index: root / "video" / "pond" / "swim" for index in range(10, 18)}
    for index, image in enumerate(open_frames(CLIP / "frames")):
        if index in places:
            places[index].mkdir(parents=True, exist_ok=True)
            small = cv2.resize(image, (320, 180), interpolation=cv2.INTER_AREA)
            cv2.imwrite(str(places[index] / f"{index:05d}.jpg"), cv2.cvtColor(small, cv2.COLOR_RGB2BGR))
            ids = read_id_mask(CLIP / "masks" / f"{index:05d}.png")[::2, ::2]
            write_id_mask(places[index] / f"{index:05d}.png", ids)
    return root


def red_on_blue(left: int) -> Sample:
    """A red ellipse and, away from it, a red box (ids 4 and 9) on blue, each with some texture."""
    ids = np.zeros((90, 120), np.uint8)
    cv2.ellipse(ids, (left, 30), (18, 11), 20, 0, 360, 4, cv2.FILLED)
    cv2.rectangle(ids, (left + 10, 55), (left + 30, 75), 9, cv2.FILLED)
    texture = np.random.default_rng(left).integers(0, 40, (90, 120, 1), np.uint8)
    return Sample(np.where(ids[..., None] > 0, (200, 40, 40), (40, 40, 200)).astype(np.uint8) + texture, ids)


STILLS = [Source("boxes", [[red_on_blue(30)], [red_on_blue(60)]])]
VIDEOS = [Source("film", [[red_on_blue(30 + 4 * t) for t in range(10)]])]


def clips(seed: int, count: int, recipe: ClipRecipe, stills=STILLS, videos=VIDEOS) -> list[Clip]:
    maker = ClipMaker(stills, videos, np.random.default_rng(seed))
    return [maker.clip(recipe) for _ in range(count)]


# ---------------------------------------------------------------- data and clips


def test_data_is_read_by_source(data):
    [still], [video] = load_sources(data)
    assert (still.name, video.name) == ("pond", "pond")
    assert [len(item) for item in still.items] == [1, 1] and [len(item) for item in video.items] == [8]
    first = still.items[0][0]
    assert first.image.shape == (180, 320, 3) and first.image.dtype == np.uint8
    np.testing.assert_array_equal(first.ids, read_id_mask(CLIP / "masks" / "00000.png")[::2, ::2])
    with pytest.raises(ValueError, match="holds neither static"):
        load_sources(data, exclude=("pond",))


def test_large_samples_are_shrunk_and_grey_masks_show_one_object(tmp_path):
    sample = red_on_blue(30)
    cv2.imwrite(str(tmp_path / "a.jpg"), cv2.resize(sample.image[..., ::-1], (1080, 810)))
    cv2.imwrite(str(tmp_path / "a.png"), 255 * cv2.resize((sample.ids > 0).astype(np.uint8), (1080, 810)))
    read = read_sample(tmp_path / "a.jpg")
    assert read.image.shape == (400, 533, 3) and read.ids.shape == (400, 533)
    assert read.objects() == [1]
    assert abs((read.ids == 1).mean() - (sample.ids > 0).mean()) < 0.01


def test_the_light_changes_from_frame_to_frame():
    plain = ClipRecipe(crop_size=64, frames=4, video=0.0)
    lit, unlit = (clips(3, 60, replace(plain, light=light, cut_away=0.0)) for light in (1.0, 0.0))

    def change(made: list[Clip]) -> float:
        """How far a frame's colour is from that of the one before."""
        means = np.array([clip.images.mean((2, 3)) for clip in made])
        return float(np.abs(np.diff(means, axis=1)).mean())

    assert change(lit) > 1.2 * change(unlit)
    still = np.stack([red_on_blue(30).image[:, :90]] * 5)
    for seed in range(30):
        seen = change_light(still, np.random.default_rng(seed))
        assert seen.shape == still.shape and seen.dtype == np.uint8
        assert (seen[0] != seen[-1]).any(), "it turns into another"
        np.testing.assert_array_equal(seen, change_light(still, np.random.default_rng(seed)))


def test_images_are_read_as_for_tracking(tmp_path):
    """Turned as a camera held it, and in 16 bits."""
    sample = red_on_blue(30)
    ids = (sample.ids > 0).astype(np.uint8)
    write_id_mask(tmp_path / "turned.png", ids)
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(sample.image[::-1, ::-1]).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    read = read_sample(tmp_path / "turned.jpg")
    assert read.image[ids == 1, 0].mean() > 150 > 100 > read.image[ids == 0, 0].mean()
    write_id_mask(tmp_path / "deep.png", ids)
    Image.fromarray(sample.image[..., 0].astype(np.uint16) * 256).save(tmp_path / "deep.tif")
    np.testing.assert_array_equal(read_sample(tmp_path / "deep.tif").image[..., 0], sample.image[..., 0])


def test_clips_are_the_same_for_the_same_seed():
    recipe = ClipRecipe(crop_size=SIZE, frames=3, objects=3)
    one, same, other = clips(5, 8, recipe), clips(5, 8, recipe), clips(6, 8, recipe)
    for a, b in zip(one, same, strict=True):
        np.testing.assert_array_equal(a.images, b.images)
        np.testing.assert_array_equal(a.ids, b.ids)
    assert any((a.images != b.images).any() for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("video", [0.0, 1.0])
def test_clips_show_their_objects(video):
    """Shapes and types; every object is in the seed frame, at a usable size; its pixels are the object's (red)."""
    recipe = ClipRecipe(crop_size=SIZE, frames=3, objects=2, video=video)
    right = total = moved = counts = 0
    for clip in clips(1, 60, recipe):
        assert clip.images.shape == (3, 3, SIZE, SIZE) and clip.images.dtype == np.uint8
        assert clip.ids.shape == (3, SIZE, SIZE) and clip.ids.dtype == np.uint8
        assert clip.images.flags["C_CONTIGUOUS"] and clip.ids.flags["C_CONTIGUOUS"]
        seeds = [int(i) for i in np.unique(clip.ids[0]) if i]
        assert seeds in ([1], [1, 2])
        assert set(np.unique(clip.ids)) <= {0, *seeds}
        for i in seeds:
            assert SMALLEST_SEED <= (clip.ids[0] == i).mean() <= LARGEST_SEED
        counts += len(seeds)
        moved += (clip.ids[0] != clip.ids[-1]).any()
        red, blue = clip.images[:, 0].astype(int), clip.images[:, 2].astype(int)
        if np.abs(red - blue).max() > 30:  # else it was made grey
            right += ((red > blue) & (clip.ids > 0)).sum()
            total += (clip.ids > 0).sum()
    assert right / total > 0.9  # all but blurred rims
    assert counts > 60 and moved > 50


def test_video_clips_keep_the_order_of_time_or_reverse_it():
    """Frame t of the film is as bright as t tells, so the order shows in spite of the changes of light."""
    film = [Sample(np.full((90, 120, 3), 15 + 24 * t, np.uint8), red_on_blue(40).ids) for t in range(10)]
    recipe = ClipRecipe(crop_size=SIZE, frames=4, objects=2, video=1.0, max_gap=3)
    directions = []
    for clip in clips(0, 20, recipe, stills=[], videos=[Source("film", [film])]):
        steps = np.diff(clip.images[:, :, 24:40, 24:40].astype(float).mean((1, 2, 3)))
        directions.append(np.sign(steps.sum()))
        assert (np.sign(steps) == directions[-1]).mean() >= 2 / 3
    assert {-1, 1} <= set(directions)


def test_data_without_a_usable_clip_gives_one_sentence():
    short = [Source("film", [[red_on_blue(30), red_on_blue(34)]])]
    with pytest.raises(ValueError, match=r"^The training data gives no clip of 3 frames: .*\.$"):
        clips(0, 1, ClipRecipe(crop_size=SIZE, frames=3, video=1.0), stills=[], videos=short)
    assert clips(0, 1, ClipRecipe(crop_size=SIZE, frames=2, video=1.0), stills=[], videos=short)


# ---------------------------------------------------------------- losses and unrolling


def batch(recipe: ClipRecipe, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    made = clips(3, count, recipe)
    images = torch.from_numpy(np.stack([clip.images for clip in made])).float() / 255
    return images, torch.from_numpy(np.stack([clip.ids for clip in made])).long()


def test_unroll_gives_every_frame_after_the_seed():
    images, ids = batch(ClipRecipe(crop_size=SIZE, frames=4, objects=3), 2)
    ids[1][ids[1] == 2] = 0  # a slot without an object
    steps = list(unroll(Lite(), images, ids, objects=3))
    assert len(steps) == 3
    for t, (decoded, novel, truth, real) in enumerate(steps, 1):
        assert novel.shape == (2, (SIZE // 16) ** 2) and (novel >= -1e-4).all()
        assert decoded.coarse.shape == (2, 3, SIZE // 4, SIZE // 4)
        assert decoded.logits.shape == (2, 3, SIZE // 2, SIZE // 2)
        assert decoded.presence.shape == decoded.quality.shape == (2, 3)
        assert torch.equal(truth, ids[:, t])
        assert real.tolist() == [[bool((clip[0] == i).any()) for i in (1, 2, 3)] for clip in ids]
        assert torch.isfinite(frame_loss(decoded, truth, real, 1.0))


def test_loss_falls_when_one_batch_is_learnt_by_heart():
    images, ids = batch(ClipRecipe(crop_size=SIZE, frames=3, objects=2), 2)
    network = Lite().train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    losses = []
    for _ in range(15):
        answers = unroll(network, images, ids, 2)
        loss = torch.stack([frame_loss(answer.decoded, answer.truth, answer.real, 1.0) for answer in answers]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-3:]) < 0.7 * losses[0]
    unused = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().any()]
    assert unused == []  # everything learns, where nothing is frozen


def test_right_masks_cost_less_than_wrong_ones():
    truth = torch.zeros(1, 8, 8, dtype=torch.int64)
    truth[:, 2:6, 2:6] = 1
    right = torch.where(truth[:, None] == 1, 9.0, -9.0)  # (1, 1, 8, 8)
    half = right.clone()
    half[..., :4] = -9.0
    assert hard_cross_entropy(right, truth, 1.0) < 0.001 < 1 < hard_cross_entropy(-right, truth, 1.0)
    # an eighth of the pixels is wrong: among the hardest fifth that is more than half, among all it is not
    assert hard_cross_entropy(half, truth, 0.2) > 4 * hard_cross_entropy(half, truth, 1.0)
    target = (truth[:, None] == 1).float()
    costs = [dice(aggregate(logits), target).item() for logits in (right, half, -right)]
    assert costs[0] < 0.01 < 0.3 < costs[1] < 0.4 < 0.9 < costs[2]


def test_pixels_near_an_outline_count_more():
    truth = torch.zeros(1, 20, 20, dtype=torch.int64)
    truth[:, 10:] = 1
    weights = edge_weights(truth)
    assert weights.mean().item() == pytest.approx(1)
    near, far = weights[0, 8:12], torch.cat([weights[0, :8], weights[0, 12:]])
    assert near.unique().item() == pytest.approx(EDGE_WEIGHT * far.unique().item())


def random_frame(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(2, 4, count), torch.randn(2, 3, 5, count)


def remembering(monkeypatch: pytest.MonkeyPatch, thin: float, merge: float) -> ClipMemory:
    torch.manual_seed(0)
    monkeypatch.setattr(clip_memory, "THIN", thin)
    monkeypatch.setattr(clip_memory, "MERGE", merge)
    return ClipMemory(*random_frame(6))


def test_a_clip_is_remembered_whole_when_nothing_happens(monkeypatch: pytest.MonkeyPatch):
    """Then a query with a key of a frame reads mostly that key's value."""
    kept = remembering(monkeypatch, 0, 0)
    key, value = random_frame(6)
    kept.memorize(10 * key, value)
    torch.testing.assert_close(kept.read(10 * key)[0], value, rtol=1e-3, atol=1e-3)


def test_dropped_entries_are_not_read(monkeypatch: pytest.MonkeyPatch):
    kept = remembering(monkeypatch, 1, 0)
    key, value = random_frame(400)
    kept.memorize(100 * key, value)
    found = (kept.read(100 * key)[0] - value).abs().amax((1, 2)) < 1e-3
    assert 0.4 < found.float().mean() < 0.6


def test_alike_entries_are_merged_and_both_frames_can_learn(monkeypatch: pytest.MonkeyPatch):
    kept = remembering(monkeypatch, 0, 1)
    (key, value), other = random_frame(6), random_frame(6)
    key, value = key.requires_grad_(), value.requires_grad_()
    kept.memorize(key, value)
    again = torch.cat([key[..., :4] * 1.01, other[0][..., :2]], 2), torch.cat([value[..., :4], other[1][..., :2]], 3)
    with torch.autocast("cpu", torch.bfloat16):  # as in training
        kept.memorize(*again)
    assert 8 <= kept._frames[-1][2].sum(1).min() < 12  # of 6 + 6 at least four pairs became one
    kept.read(key.detach())[0].sum().backward()
    assert key.grad.abs().sum() > 0 and value.grad.abs().sum() > 0


def test_a_clip_may_cut_away_from_its_objects():
    origins = [*STILLS, Source("others", [[red_on_blue(45)]])]
    for clip in clips(5, 10, ClipRecipe(crop_size=SIZE, frames=4, cut_away=1.0), stills=origins):
        seen = (clip.ids > 0).any((1, 2))
        assert seen[0] and not seen.all()


@pytest.mark.parametrize("stills", [STILLS, []])
def test_data_of_one_origin_is_not_cut_away_from(stills):
    """Its other images may well show the object that would count as gone."""
    for clip in clips(5, 10, ClipRecipe(crop_size=SIZE, frames=4, video=1.0, cut_away=1.0), stills=stills):
        assert (clip.ids > 0).any((1, 2)).all()


def test_frames_of_a_video_alone_are_set_in_motion_too():
    """With all gaps being 0 in video clips these would be as still as the only frame of the video."""
    film = [Source("film", [[red_on_blue(50)] * 2])]
    for clip in clips(6, 5, ClipRecipe(crop_size=SIZE, frames=3, video=0.0), stills=[], videos=film):
        assert (clip.ids[0] != clip.ids[1]).any() and set(np.unique(clip.ids[0])) == {0, 1, 2}


def test_full_size_of_a_decoded_clip_is_that_of_its_frames():
    assert full_size(torch.zeros(2, 3, SIZE // 2, SIZE // 2), (SIZE, SIZE)).shape == (2, 3, SIZE, SIZE)


def test_average_of_weights_follows_the_network():
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1), torch.nn.BatchNorm2d(1))
    average = WeightAverage(network)
    with torch.no_grad():
        network[0].weight.fill_(5.0)
        network[1].num_batches_tracked.fill_(7)
    for step in range(1, 4):
        average.update(network, step)
    assert 0.1 < average.state["0.weight"].item() < 5
    for step in range(4, 2000):
        average.update(network, step)
    assert average.state["0.weight"].item() == pytest.approx(5, abs=0.01)
    assert average.state["1.num_batches_tracked"] == 7


def test_stages_follow_one_another():
    stages = [Stage(until, ClipRecipe(), 1) for until in (0.2, 0.7, 1.0)]
    assert [stage_at(stages, progress) for progress in (0, 0.19, 0.2, 0.69, 0.99, 1.5)] == [
        stages[0], stages[0], stages[1], stages[1], stages[2], stages[2],
    ]  # fmt: skip
    assert tuple(schedules.SCHEDULES) == cli.train.SCHEDULES  # which has names of its own, as it imports nothing heavy
    for schedule in schedules.SCHEDULES.values():
        assert [stage.until for stage in schedule] == sorted(stage.until for stage in schedule)
        assert schedule[-1].until == 1.0


# ---------------------------------------------------------------- the encoder that knows ImageNet


def test_pretrained_encoder_computes_what_was_published():
    """The stem and the first two blocks against the published tensors, with their batch norms as they are."""
    published = torch.load(published_encoder(), weights_only=True)
    network = Lite().eval()
    load_pretrained(network.encoder, published_encoder())

    def layer(x: torch.Tensor, convolution: str, norm: str, **how: int) -> torch.Tensor:
        x = torch.nn.functional.conv2d(x, published[f"{convolution}.weight"], **how)
        names = ("running_mean", "running_var", "weight", "bias")
        return torch.nn.functional.batch_norm(x, *(published[f"{norm}.{name}"] for name in names), eps=1e-3)

    def block(x: torch.Tensor, number: int, stride: int, expands: bool) -> torch.Tensor:
        name = f"_blocks.{number}."
        if expands:
            x = layer(x, name + "_expand_conv", name + "_bn0").clamp(0, 6)
        x = torch.nn.functional.pad(x, (0, 1, 0, 1)) if stride == 2 else torch.nn.functional.pad(x, (1, 1, 1, 1))
        x = layer(x, name + "_depthwise_conv", name + "_bn1", stride=stride, groups=x.shape[1]).clamp(0, 6)
        return layer(x, name + "_project_conv", name + "_bn2")

    image = torch.from_numpy(next(iter(open_frames(CLIP / "frames"))).copy()).permute(2, 0, 1)[None, :, :64, :96] / 255
    with torch.inference_mode():
        x = torch.nn.functional.pad(image * (255 / 128) - 127 / 128, (0, 1, 0, 1))
        f2 = block(layer(x, "_conv_stem", "_bn0", stride=2).clamp(0, 6), 0, 1, expands=False)
        once = block(f2, 1, 2, expands=True)
        f4 = once + block(once, 2, 1, expands=True)
        seen = network.encode(image)
    assert torch.allclose(seen.f2, f2, atol=1e-4) and torch.allclose(seen.f4, f4, atol=1e-4)
    assert f4.abs().max() > 1


@pytest.mark.parametrize("tensors", [{}, {"a": torch.zeros(32, 3, 3, 3)}, {f"{i}": torch.zeros(7) for i in range(300)}])
def test_other_checkpoints_are_no_pretrained_encoder(tmp_path, tensors):
    torch.save(tensors, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other.pth does not hold the weights of EfficientNet-Lite0\.$"):
        load_pretrained(Lite().encoder, tmp_path / "other.pth")


def test_what_the_first_layers_see_stays(data, tmp_path, tiny):
    """Training leaves the frozen layers as published and moves the others."""
    network, fresh = Lite(), Lite()
    load_pretrained(fresh.encoder, published_encoder())
    network.load_state_dict(load_file(train([data], tmp_path, RunOptions(minutes=2 / 60), schedule=tiny)))
    for name in ("stem", "to2", "to4", "to8", "to16"):
        after = getattr(network.encoder, name).state_dict()
        before = in_half_precision(getattr(fresh.encoder, name).state_dict())
        same = all(torch.equal(after[key].half(), value.half()) for key, value in before.items())
        assert same == (name in ("stem", "to2", "to4"))


# ---------------------------------------------------------------- the run


@pytest.fixture
def tiny(monkeypatch) -> str:
    """A schedule whose steps take a moment each, and a line in the log for each of them."""
    stages = (
        Stage(0.5, ClipRecipe(crop_size=SIZE, frames=2, objects=2), 2),
        Stage(1.0, ClipRecipe(crop_size=SIZE, frames=3, objects=2), 2),
    )
    monkeypatch.setitem(schedules.SCHEDULES, "tiny", stages)
    monkeypatch.setattr("maskbank.training.run.LOG_EVERY", 1)
    monkeypatch.setattr(novelty, "CLIPS", 6)
    return "tiny"


def log_of(out: Path) -> list[dict[str, float]]:
    with (out / "log.csv").open(newline="") as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


def test_run_is_stopped_resumed_and_ends(data, tmp_path, tiny, capsys):
    out = tmp_path / "run"
    weights = train([data], out, RunOptions(minutes=2, stop_after=3 / 60), schedule=tiny)
    assert weights == out / "lite.safetensors"
    assert {path.name for path in out.iterdir()} == {"lite.safetensors", "state.pt", "log.csv", "log.png"}
    before, saved = log_of(out), torch.load(out / "state.pt", weights_only=True)
    assert [row["step"] for row in before] == list(range(1, saved["step"] + 1))
    assert all(row["loss"] > 0 and 0 <= row["jaccard"] <= 1 for row in before)
    assert 3 <= saved["spent_s"] < 60
    _, first = load_segmenter("lite", weights, torch.device("cpu"))

    assert train([data], out, RunOptions(minutes=2, stop_after=2 / 60), schedule=tiny) == weights
    after, resumed = log_of(out), torch.load(out / "state.pt", weights_only=True)
    assert after[: len(before)] == before
    assert [row["step"] for row in after] == list(range(1, resumed["step"] + 1))
    assert resumed["optimizer"]["state"][0]["step"] == resumed["step"]  # the optimizer goes on too
    assert resumed["step"] > saved["step"] and resumed["spent_s"] >= saved["spent_s"] + 2
    assert after[len(before)]["loss"] > 0.4 * before[-1]["loss"]  # the running mean does not restart from 0
    _, second = load_segmenter("lite", weights, torch.device("cpu"))
    assert second != first

    capsys.readouterr()
    over = RunOptions(minutes=resumed["spent_s"] / 60 - 1e-6)  # its time is up: nothing more is learnt
    train([data], out, over, schedule=tiny)
    assert torch.load(out / "state.pt", weights_only=True)["step"] == resumed["step"]
    assert f"The run in {out} had ended: nothing was trained. New data needs a new --out." in capsys.readouterr().err


def test_ctrl_c_says_what_the_run_goes_on_from(data, tmp_path, monkeypatch, capsys):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer.Trainer, "loss", interrupted)
    command = ["train", "--data", str(data), "--out", str(tmp_path / "run"), "--steps", "2"]
    assert cli.main(command) == 130
    said = "stopped; the same command goes on from what was saved last, two minutes ago at most."
    assert capsys.readouterr().err.splitlines()[-1] == f"maskbank: {said}"


def test_a_run_is_resumed_as_it_began(data, tmp_path, tiny):
    """Else weights would be a blend with others than it started from, or its rate leap."""
    train([data], tmp_path, RunOptions(minutes=1, stop_after=1e-12), schedule=tiny)
    before = (tmp_path / "lite.safetensors").read_bytes()
    began = {"options": RunOptions(minutes=1, learning_rate=trainer.LEARNING_RATE), "schedule": tiny}
    for name, other in {"init": LITE, "schedule": "short", "learning_rate": 1e-4, "seed": 1}.items():
        told = (
            f"The run in {tmp_path} began with another --{name.replace('_', '-')}: repeat that, or take another --out."
        )
        own = {name: other} if name == "schedule" else {"options": replace(began["options"], **{name: other})}
        with pytest.raises(ValueError, match=re.escape(told)):
            train([data], tmp_path, **began | own)
    assert (tmp_path / "lite.safetensors").read_bytes() == before
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    torch.save({name: value for name, value in state.items() if name != "options"}, tmp_path / "state.pt")
    with pytest.raises(ValueError, match=re.escape(f"The run in {tmp_path} is one of an earlier version")):
        train([data], tmp_path, RunOptions(minutes=1), schedule=tiny)


def test_a_run_is_not_resumed_with_other_data(data, tmp_path, tiny):
    """What it was to be scored on would have been trained on before."""
    train([data], tmp_path / "run", RunOptions(steps=2, stop_after=1e-12), schedule=tiny)
    with pytest.raises(ValueError, match="began with another --exclude: repeat that, or take another --out"):
        train([data], tmp_path / "run", RunOptions(steps=2, exclude=("pond/swim",)), schedule=tiny)
    shutil.copytree(data, tmp_path / "other")
    with pytest.raises(ValueError, match="began with another --data: repeat that, or take another --out"):
        train([tmp_path / "other"], tmp_path / "run", RunOptions(steps=2), schedule=tiny)


def test_reading_the_data_is_no_training(data, tmp_path, tiny, monkeypatch):
    def slowly(*arguments: object) -> object:
        time.sleep(1)
        return load_data(*arguments)

    monkeypatch.setattr("maskbank.training.trainer.load_data", slowly)
    train([data], tmp_path / "run", RunOptions(minutes=0.9 / 60), schedule=tiny)
    assert torch.load(tmp_path / "run" / "state.pt", weights_only=True)["step"] > 0


def test_weights_of_a_very_long_run_can_be_loaded(data, tmp_path, tiny):
    """It counts more batches than half precision can."""
    train([data], tmp_path / "run", RunOptions(steps=2, stop_after=1e-12), schedule=tiny)
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    counters = [name for name in state["network"] if name.endswith("num_batches_tracked")]
    assert counters
    for part in ("network", "average"):
        for name in counters:
            state[part][name] += 70_000
    torch.save(state, tmp_path / "run" / "state.pt")
    weights = load_state_dict(train([data], tmp_path / "run", RunOptions(steps=2), schedule=tiny))
    fit_weights(Lite(), weights, "of a long run")
    assert all(weights[name].dtype == torch.int64 and weights[name] > 70_000 for name in counters)


@pytest.mark.parametrize(("command", "function"), [("train", train), ("train-interactor", train_interactor)])
def test_the_command_line_has_the_defaults_of_the_function(command, function):
    options = cli.entry._parser().parse_args([command, "--data", "x", "--out", "y", "--steps", "1"])
    own = inspect.signature(function).parameters.values()
    defaults = {parameter.name: parameter.default for parameter in own if parameter.default is not parameter.empty}
    assert defaults
    defaults |= {field.name: field.default for field in fields(RunOptions) if field.name != "steps"}
    for name, default in defaults.items():
        value = getattr(options, name)
        assert (tuple(value) if name == "exclude" else value) == default, name


def test_run_starts_from_given_weights(data, tmp_path, tiny):
    first = train([data], tmp_path / "a", RunOptions(minutes=1 / 60), schedule=tiny)
    _, given = load_segmenter("lite", first, torch.device("cpu"))
    again = train([data], tmp_path / "b", RunOptions(minutes=1, init=first, stop_after=1e-12), schedule=tiny)
    assert load_segmenter("lite", again, torch.device("cpu"))[1] == given


def test_trained_weights_go_with_the_interactor_of_those_they_started_from(data, tmp_path, tiny):
    open_weights = BUNDLED_WEIGHTS["lite-open"]
    started = {"open": open_weights, "research": LITE, "scratch": None}
    found = {
        name: train([data], tmp_path / name, RunOptions(minutes=1, init=init, stop_after=1e-12), schedule=tiny)
        for name, init in started.items()
    }
    found["twice"] = train(
        [data], tmp_path / "b", RunOptions(minutes=1, init=found["open"], stop_after=1e-12), schedule=tiny
    )
    found["converted"] = tmp_path / "converted.safetensors"
    convert(found["twice"], found["converted"])
    assert {name: interactor_beside(path).stem for name, path in found.items()} == {
        "open": "interactor-open",
        "research": "interactor",
        "scratch": "interactor",
        "twice": "interactor-open",
        "converted": "interactor-open",
    }


def test_trained_weights_are_trained_gently_unless_told_otherwise(data, tmp_path, tiny, monkeypatch):
    monkeypatch.setitem(schedules.SCHEDULES, "short", schedules.SCHEDULES[tiny])
    gentle = RunOptions(steps=3, init=LITE)
    told = replace(gentle, learning_rate=trainer.LEARNING_RATE)
    runs = {"gentle": {"options": gentle}, "told": {"options": told, "schedule": "short"}}
    moved = {}
    for name, run in runs.items():
        weights = load_file(train([data], tmp_path / name, **run))
        moved[name] = float((weights["key.weight"] - load_state_dict(LITE)["key.weight"]).abs().mean())
    assert 0 < moved["gentle"] < 0.6 * moved["told"]


def test_trained_and_initial_weights_are_blended_half_and_half_unless_told_otherwise(data, tmp_path, tiny):
    """Also by a run that was resumed."""
    run = RunOptions(steps=4, init=LITE)
    train([data], tmp_path / "half", replace(run, stop_after=1e-6), schedule=tiny)
    half = load_file(train([data], tmp_path / "half", run, schedule=tiny))
    trained = torch.load(tmp_path / "half" / "state.pt", weights_only=True)["average"]
    for name, before in load_state_dict(LITE).items():
        if before.is_floating_point() and name != "novelty_threshold":
            blended = (before.float() + trained[name]) / 2
            torch.testing.assert_close(half[name].float(), blended, rtol=1e-3, atol=1e-6)  # half precision
        if "running_" in name:  # the statistics of a job's few images say too little
            assert torch.equal(half[name], before)
    whole = load_file(train([data], tmp_path / "half", run, schedule=tiny, blend=1.0))
    torch.testing.assert_close(whole["key.weight"], trained["key.weight"].half())
    with pytest.raises(ValueError, match="must be above 0 and at most 1, not 7"):
        train([data], tmp_path / "half", run, schedule=tiny, blend=7)


def test_weights_of_two_runs_are_averaged(tmp_path):
    first, second = load_state_dict(LITE), load_state_dict(LITE)
    second["key.bias"] = first["key.bias"] + 2
    save_weights(second, tmp_path / "second.safetensors")
    tool, out = Path(__file__).parents[1] / "tools" / "average_weights.py", tmp_path / "mean.safetensors"
    command = [sys.executable, tool, LITE, tmp_path / "second.safetensors", "--novelty-threshold", "7", "--out", out]
    subprocess.run(command, check=True)
    mean = load_state_dict(out)
    assert torch.allclose(mean["key.bias"].float(), first["key.bias"].float() + 1, atol=0.01)
    assert torch.equal(mean["key.weight"], first["key.weight"]) and mean["novelty_threshold"] == 7
    assert interactor_named_in(out) == "interactor"


def test_trained_weights_know_what_is_novel_to_them(data, tmp_path, tiny):
    """Their keys have moved, and the threshold with them: frames of the data are known, their negatives are not."""
    weights = train([data], tmp_path, RunOptions(steps=2, init=LITE), schedule=tiny)
    network = Lite().eval()
    network.load_state_dict(load_file(weights))
    before, threshold = (float(state["novelty_threshold"]) for state in (load_state_dict(LITE), network.state_dict()))
    assert 0.8 * before < threshold < 1.2 * before and threshold != before
    [sequence] = load_sources(data)[1][0].items
    images, ids = (np.stack([getattr(sample, part) for sample in sequence[:2]]) for part in ("image", "ids"))
    images = torch.from_numpy(images).permute(0, 3, 1, 2)[None].float() / 255
    ids = torch.from_numpy(ids)[None].long()
    for negative in (False, True):
        if negative:
            images[:, 1] = 1 - images[:, 1]
        with torch.inference_mode():
            [frame] = unroll(network, images, ids, objects=2)
        score = object_novelty(frame.novelty[:, None].expand(-1, 2, -1), found_places(frame.decoded.coarse))
        known = familiar(score, network.novelty_threshold)
        assert (known < 0.1).all() if negative else (known > 0.9).all()


def test_runs_of_so_many_steps_are_repeatable(data, tmp_path, tiny):
    runs = [
        train([data], tmp_path / name, RunOptions(steps=4, seed=seed), schedule=tiny)
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    one, same, other = (load_segmenter("lite", weights, torch.device("cpu"))[1] for weights in runs)
    assert one == same != other
    assert [row["step"] for row in log_of(tmp_path / "a")] == [1, 2, 3, 4]
    with pytest.raises(ValueError, match="a length in minutes or in steps, and only one of the two"):
        RunOptions(steps=4, minutes=1)


def test_validation_is_logged_and_drawn(data, tmp_path, tiny):
    train([data], tmp_path, RunOptions(steps=3), schedule=tiny, val=data / "video", val_every=1e-6)
    scores = [(row["step"], row["val_j_and_f"]) for row in log_of(tmp_path) if "val_j_and_f" in row]
    assert [step for step, _ in scores] == [1, 2, 3, 3]
    assert all(0 < score < 100 for _, score in scores) and scores[2] == scores[3]
    assert cv2.imread(str(tmp_path / "log.png")).shape[0] > 500


def test_a_run_is_compared_with_what_it_started_from(data, tmp_path, tiny, capsys):
    """With a learning rate that ruins the weights, and resumed in between: it says so at the end."""
    options = RunOptions(steps=40, learning_rate=0.02, init=LITE)
    run = {"out": tmp_path / "run", "schedule": tiny, "val": data / "video", "val_every": 99}
    train([data], options=replace(options, stop_after=1e-6), **run)
    train([data], options=options, **run)
    told = capsys.readouterr().out.splitlines()[-1]
    numbers = re.fullmatch(rf"J&F on {data}/video: (.+), with the weights it started from (.+?)\. (.+)", told)
    assert float(numbers[2]) > float(numbers[1]) + 1 and float(numbers[2]) == pytest.approx(
        log_of(tmp_path / "run")[0]["val_j_and_f"], abs=0.06
    )
    assert numbers[3] == "Training has made them worse: keep the old ones."


def test_a_rate_that_is_too_high_gives_one_sentence(data, tmp_path, tiny):
    with pytest.raises(ValueError, match="diverged at step [0-9]+: take a lower --learning-rate"):
        train([data], tmp_path, RunOptions(steps=60, learning_rate=1e4, init=LITE), schedule=tiny)
    assert not (tmp_path / "lite.safetensors").exists()


def test_two_processes_train_one_network(data, tmp_path):
    """Under torchrun, with gloo; train() itself checks that they end with the same network.

    Both take part: with one process, whose clips are those of the first of the two, the network becomes another.
    """
    (tmp_path / "run.py").write_text(f"""
import sys
from pathlib import Path
from maskbank.training import run, schedules
from maskbank.training.clips import ClipRecipe
from maskbank.training.trainer import train

run.LOG_EVERY = 1
schedules.SCHEDULES["tiny"] = (schedules.Stage(1.0, ClipRecipe(crop_size={SIZE}, frames=2, objects=2), 2),)
train([Path({str(data)!r})], Path(sys.argv[1]), run.RunOptions(steps=int(sys.argv[2])), schedule="tiny")
""")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    def run(out: str, steps: int, processes: int) -> str:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        command += [str(tmp_path / "run.py"), str(tmp_path / out), str(steps)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert [row["step"] for row in log_of(tmp_path / out)] == list(range(1, steps + 1))
        return load_segmenter("lite", tmp_path / out / "lite.safetensors", torch.device("cpu"))[1]

    assert run("together", 2, processes=2) != run("alone", 2, processes=1)
    run("together", 3, processes=2)  # taken up again


def test_a_run_that_was_killed_forgets_what_it_logged_after_its_state(data, tmp_path, tiny):
    train([data], tmp_path, RunOptions(steps=3), schedule=tiny)
    with (tmp_path / "log.csv").open("a") as file:
        file.write("4,9,0.1,0.9,\n5,9,0.1,0.9,\n")
    train([data], tmp_path, RunOptions(steps=5), schedule=tiny)
    rows = log_of(tmp_path)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5] and rows[3]["seconds"] != 9


def test_a_wrong_folder_for_validation_is_found_out_at_once(data, tmp_path, tiny):
    with pytest.raises(ValueError, match="holds no folder of .jpg or .webp frames with .png masks"):
        train([data], tmp_path / "out", RunOptions(steps=1), schedule=tiny, val=tmp_path / "nowhere")
    assert not (tmp_path / "out" / "state.pt").exists()


def test_training_needs_no_nuclio():
    """The extra `train` brings none."""
    code = "import sys; sys.modules['nuclio_sdk'] = None; import maskbank.training.trainer"
    subprocess.run([sys.executable, "-c", code], check=True)


def one_sentence(capsys) -> str:
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("maskbank: ") and line.endswith(".")
    return line


def test_bad_data_and_weights_give_one_sentence(data, tmp_path, capsys):
    for steps in ("0", "-5", "many"):
        with pytest.raises(SystemExit):
            cli.main(["train", "--data", str(data), "--out", str(tmp_path / "out"), "--steps", steps])
        assert f"argument --steps: '{steps}' is not a whole number above 0" in capsys.readouterr().err

    def run(folder: Path, *more: object) -> int:
        return cli.main(["train", "--data", str(folder), "--out", str(tmp_path / "out"), "--minutes", "1", *more])

    assert run(tmp_path / "nowhere") == 1
    assert "nowhere holds neither static/<source>/ nor video/" in one_sentence(capsys)
    (tmp_path / "text.safetensors").write_text("no weights")
    assert run(data, "--init", str(tmp_path / "text.safetensors")) == 1
    assert "text.safetensors is damaged" in one_sentence(capsys)

    bad = tmp_path / "bad" / "static" / "one"
    bad.mkdir(parents=True)
    for name, words in (("00000.png", "another size"), ("00000.jpg", "00000.jpg cannot be read: The image is damaged")):
        for path in (data / "static" / "pond").glob("00000.*"):
            (bad / path.name).write_bytes(path.read_bytes())
        if name.endswith("png"):
            write_id_mask(bad / name, np.ones((20, 20), np.uint8))
        else:
            (bad / name).write_bytes((bad / name).read_bytes()[:900])
        assert run(tmp_path / "bad") == 1
        assert words in one_sentence(capsys)
    assert sorted(os.listdir(tmp_path / "out")) == []
