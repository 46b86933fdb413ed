"""Training of the interactor: what it is shown, and that it learns, stops and goes on."""

import csv
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support import CLIP, TURTLE, rgb, true_mask

from maskbank import cli
from maskbank.files.masks import read_id_mask, write_id_mask
from maskbank.networks.interactor import CROP_SIZE, Interactor
from maskbank.networks.models import BUNDLED_INTERACTORS
from maskbank.networks.outliner import load_outliner
from maskbank.networks.prompts import OUTSIDE, CropWindow, Prompts, window_around
from maskbank.networks.weights import load_state_dict
from maskbank.training import interactor
from maskbank.training.interactor import HELD_OUT_EVERY, PromptBatches, calibrate, split_sources, train_interactor
from maskbank.training.prompts import PromptMaker, tight_box
from maskbank.training.run import RunOptions
from maskbank.training.sources import Source, load_sources
from maskbank.tuning.samples import Sample

INTERACTOR = BUNDLED_INTERACTORS["interactor"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three frames of the sample clip as stills, in the three kinds of files that photos come in."""
    folder = tmp_path_factory.mktemp("data") / "static" / "pond"
    folder.mkdir(parents=True)
    for index, ending in ((0, "webp"), (25, "jpg"), (50, "jpeg")):
        Image.fromarray(rgb(index)).resize((320, 180)).save(folder / f"{index}.{ending}")
        write_id_mask(folder / f"{index}.png", read_id_mask(CLIP / "masks" / f"{index:05d}.png")[::2, ::2])
    return folder.parents[1]


def test_photos_of_all_kinds_are_read(data: Path) -> None:
    [pond], videos = load_sources(data)
    assert len(pond.items) == 3 and not videos


def test_a_window_shows_the_box_and_what_is_around_it() -> None:
    window = window_around((100, 50, 200, 150))
    assert (window.left, window.top, window.width, window.height) == (80, 30, 140, 140)
    thin = window_around((100, 50, 110, 150))
    assert thin.height == 140 and thin.width == 70  # not so thin that the picture is torn apart
    np.testing.assert_allclose(window.to_crop(np.array([[80, 30], [220, 170]])), [[0, 0], [CROP_SIZE] * 2])


def test_what_lies_beyond_the_image_is_grey() -> None:
    crop = CropWindow(-100, -50, 200, 100).crop(np.full((90, 120, 3), 200, np.uint8), OUTSIDE)
    assert crop.shape == (CROP_SIZE, CROP_SIZE, 3)
    half = CROP_SIZE // 2
    assert (crop[: half - 2] == OUTSIDE).all() and (crop[:, : half - 2] == OUTSIDE).all()
    assert (crop[half + 2 :, half + 2 :] == 200).all()


@pytest.mark.parametrize(
    "window", [CropWindow(300, 150, 150, 120), CropWindow(-40, -30, 200, 200), CropWindow(500, 250, 300, 200)]
)
def test_what_is_cropped_is_pasted_where_it_was(window: CropWindow) -> None:
    mask = true_mask(0, TURTLE)
    small = window.crop(mask * np.uint8(255), 0)[::2, ::2].astype(np.float32) - 127.5
    pasted = window.paste(small, *mask.shape) > 0
    inside = np.zeros_like(mask)
    inside[max(window.top, 0) : window.top + window.height, max(window.left, 0) : window.left + window.width] = True
    assert not pasted[~inside].any()
    assert (pasted != (mask & inside)).sum() <= 0.1 * max((mask & inside).sum(), 10)


def test_prompts_are_drawn_where_they_are() -> None:
    window = CropWindow(0, 0, 512, 512)
    before = np.zeros((400, 400), np.uint8)
    before[:200] = 1
    box, positive, negative, mask = Prompts((100, 50, 200, 150), [(300, 40)], [(20, 500)], before).draw(window)
    assert box[25:75, 50:100].all() and box.sum() == 255 * 50 * 50
    assert positive[20, 150] and not positive[40, 150] and negative[250, 10]
    assert mask[10, 10] and not mask[150, 10]


def test_samples_hold_their_object(data: Path) -> None:
    [pond], _ = load_sources(data)
    maker = PromptMaker([pond], np.random.default_rng(0))
    crops = [maker.crop() for _ in range(60)]
    for crop in crops:
        assert crop.image.shape == (CROP_SIZE, CROP_SIZE, 3) and crop.mask.shape == (CROP_SIZE, CROP_SIZE)
        box, positive, negative, _ = crop.prompts
        assert box.any() or positive.any() or negative.any()
        on, beside = crop.mask[positive > 0], crop.mask[negative > 0]
        assert on.size == 0 or (on > 127).mean() > 0.3
        assert beside.size == 0 or (beside < 128).mean() > 0.3
        if box.any():
            overlap = (box > 0) & (crop.mask > 127)
            assert overlap.sum() > 0.5 * (crop.mask > 127).sum()
    kinds = {tuple(channel.any() for channel in crop.prompts) for crop in crops}
    assert (True, False, False, False) in kinds and len(kinds) > 4
    again = PromptMaker([pond], np.random.default_rng(0)).crop()
    np.testing.assert_array_equal(again.prompts, crops[0].prompts)


def test_data_without_objects_is_refused_in_a_sentence(tmp_path: Path) -> None:
    blank = Sample(np.zeros((90, 120, 3), np.uint8), np.zeros((90, 120), np.uint8))
    with pytest.raises(ValueError, match="no objects of 200 pixels or more"):
        PromptMaker([Source("blank", [[blank]])], np.random.default_rng(0)).crop()


def test_some_images_are_kept_to_measure_with(data: Path) -> None:
    [pond], _ = load_sources(data)
    many = Source("many", pond.items * HELD_OUT_EVERY)
    [few, trained], [held_out] = split_sources([pond, many])
    assert len(few.items) == 3
    assert (len(trained.items), len(held_out.items)) == (3 * (HELD_OUT_EVERY - 1), 3)


def test_a_batch_has_as_many_crops_as_one_asks_for(data: Path) -> None:
    images, prompts, masks = next(iter(PromptBatches(load_sources(data)[0], (0,), batch=5)))
    assert images.shape == (5, CROP_SIZE, CROP_SIZE, 3) and prompts.shape[0] == masks.shape[0] == 5


@pytest.mark.parametrize("bias", [-9.0, 0.0, 9.0])
def test_what_it_expects_of_its_masks_is_brought_to_what_they_have(
    data: Path, monkeypatch: pytest.MonkeyPatch, bias: float
) -> None:
    monkeypatch.setattr(interactor, "HELD_OUT_CROPS", 32)
    network = Interactor()
    network.load_state_dict({name: value.float() for name, value in load_state_dict(INTERACTOR).items()})
    network.quality[-1].bias.data.fill_(bias)
    sources = load_sources(data)[0]
    jaccard = calibrate(network, sources)
    seen = itertools.islice(PromptBatches(sources, (0,)), 2)
    with torch.no_grad():
        expected = torch.cat([interactor._seen(network, images, prompts).quality for images, prompts, _ in seen])
    assert 0.5 < jaccard < 1
    assert expected.float().sigmoid().mean().item() == pytest.approx(jaccard, abs=0.005)


def test_it_learns_stops_and_goes_on(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "run"
    command = ["train-interactor", "--data", str(data), "--out", str(out), "--steps", "3"]
    assert cli.main([*command, "--stop-after", "0.0001"]) == 0
    stopped = torch.load(out / "state.pt", weights_only=True)["step"]
    assert cli.main(command) == 0
    assert stopped < torch.load(out / "state.pt", weights_only=True)["step"] == 3
    assert capsys.readouterr().out.splitlines()[-1] == str(out / "interactor.safetensors")
    box = tight_box(true_mask(0, TURTLE).astype(np.uint8))
    assert load_outliner(out / "interactor.safetensors", torch.device("cpu")).object_in_box(box, rgb(0)).mask.any()
    assert (out / "log.csv").read_text().splitlines()[0] == "step,seconds,loss,jaccard,held_out_j"
    assert cli.main([*command, "--seed", "5"]) == 1
    assert "began with another --seed" in capsys.readouterr().err
    assert cli.main([*command, "--learning-rate", "1e-4"]) == 1
    assert "began with another --learning-rate" in capsys.readouterr().err
    assert cli.main([*command, "--batch", "2"]) == 1
    assert "began with another --batch" in capsys.readouterr().err
    assert cli.main(command) == 0
    assert f"The run in {out} had ended: nothing was trained." in capsys.readouterr().err
    tuned = train_interactor([data], tmp_path / "tuned", RunOptions(steps=1, init=out / "interactor.safetensors"))
    assert tuned.exists()


def test_it_is_measured_when_the_run_has_ended(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interactor, "HELD_OUT_EVERY", 2)
    monkeypatch.setattr(interactor, "HELD_OUT_CROPS", 16)

    def measured(options: RunOptions) -> list[str]:
        train_interactor([data], tmp_path / "run", options, batch=2)
        with (tmp_path / "run" / "log.csv").open() as log:
            return [row["held_out_j"] for row in csv.DictReader(log) if row["held_out_j"]]

    assert measured(RunOptions(steps=2, stop_after=0.0001)) == []
    assert len(measured(RunOptions(steps=2))) == 1


def test_it_is_trained_in_one_process(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"^The interactor is trained in one process, without torchrun\.$"):
        train_interactor([data], tmp_path / "run", RunOptions(steps=1))
    assert not (tmp_path / "run").exists()
