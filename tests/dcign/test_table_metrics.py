"""Re-rendering and disentanglement on tables of images, by engines whose answers are known."""

from __future__ import annotations

import json
import math

import pytest
import torch

import evaluate
from dcign_tiny import SIZE, write_run
from nets.data.io.images import write_image
from nets.data.scenes.batches import unit
from nets.data.scenes.factors import FactorTable
from nets.dcign import table_metrics
from nets.dcign.latents import Latents

VIEWS = 24  # every 15 degrees
SETS = {"azimuth": "A", "shape": "S"}


def drawn(angle: torch.Tensor, person: torch.Tensor) -> torch.Tensor:
    """(N, 1, 8, 8) uint8: a bright column that turns with the angle, on a person's own grey."""
    column = torch.arange(8) * math.pi / 4
    bright = 60 * (1 + (angle[:, None] - column).cos())
    rows = torch.arange(8) < 4
    image = bright[:, None] * rows[:, None] + 10 * (person[:, None, None] + 1)
    return image[:, None].round().to(torch.uint8)


def write_scenes(folder, persons: dict[str, str], full: bool = True):
    """A table of persons by split, in `VIEWS` azimuths of a full or of a half turn."""
    rows = ["file,azimuth,shape,split"]
    step = (2 if full else 1) * math.pi / VIEWS
    for split, names in persons.items():
        for name in names:
            angle = torch.arange(VIEWS) * step
            images = drawn(angle, torch.full((VIEWS,), ord(name) - ord("a")))
            for k, image in enumerate(images):
                write_image(folder / f"{name}{k}.png", image)
                rows.append(f"{name}{k}.png,{k * step},{name},{split}")
    (folder / "factors.csv").write_text("\n".join(rows) + "\n")
    return folder / "factors.csv"


class Engine(torch.nn.Module):
    """A perfect engine: its code is (cosine, sine, person), and it draws from it."""

    latents, image_size = 3, 8

    def __init__(self, deaf: bool = False):
        super().__init__()
        self.bias, self.deaf = torch.nn.Parameter(torch.zeros(1)), deaf

    def encode(self, image):
        grey = (image * 255).round()
        person = grey[:, 0, 7, 0] / 10 - 1
        bright = (grey[:, 0, 0] - grey[:, 0, 7]) / 60 - 1
        column = torch.arange(8) * math.pi / 4
        circle = [bright @ column.cos() / 4, bright @ column.sin() / 4]
        return (torch.stack([*circle, person], 1),)

    def decode(self, code):
        angle = torch.atan2(code[:, 1], code[:, 0])
        return unit(drawn(angle * (not self.deaf), code[:, 2].round()))


def opened(path, split):
    return FactorTable(path, split, SETS, None, 8)


def latents_of(net, path):
    trained = {"groups": ["azimuth=2", "shape=rest"], "regime": "disentangled", "batch_size": None}
    return Latents(net, trained, known=opened(path, "train"))


def test_a_perfect_engine_turns_unseen_objects(tmp_path):
    path = write_scenes(tmp_path, {"train": "abc", "test": "gh"})
    latents = latents_of(Engine(), path)
    unseen, known = opened(path, "test"), opened(path, "train")
    part = table_metrics.rerendering(latents, unseen, known)["azimuth"]
    assert part["pairs"] == 2 * VIEWS * (VIEWS - 1)
    # 20 knots for 24 views: the map is a little off, and nothing else.
    assert part["made_mse"] < 1e-3 < 0.02 < part["copy_mse"]
    assert part["own_mse"] < 1e-5
    assert part["unchanged_mse"] == pytest.approx(part["copy_mse"], rel=1e-3)
    assert part["ratio_to_copy"] == pytest.approx(part["made_mse"] / part["copy_mse"])
    # The mean training image near the target knows the angle, but not the object's grey.
    darker = ((6.5 - 1) * 10 / 255) ** 2 + (0.5 * 10 / 255) ** 2
    assert part["mean_mse"] == pytest.approx(darker, rel=0.1)
    assert set(part["persons"]) == {"g", "h"} and max(part["persons"].values()) < 0.05


def test_an_engine_that_ignores_its_latents_is_no_better_than_the_source(tmp_path):
    path = write_scenes(tmp_path, {"train": "abc", "test": "gh"})
    latents = latents_of(Engine(deaf=True), path)
    unseen, known = opened(path, "test"), opened(path, "train")
    part = table_metrics.rerendering(latents, unseen, known)["azimuth"]
    assert part["made_mse"] == pytest.approx(part["unchanged_mse"])
    assert part["ratio_to_copy"] == pytest.approx(1, abs=0.1)


def test_many_pairs_are_drawn_and_the_same_again(tmp_path, monkeypatch):
    path = write_scenes(tmp_path, {"train": "abc", "test": "gh"})
    monkeypatch.setattr(table_metrics, "PAIRS", 50)
    unseen, known = opened(path, "test"), opened(path, "train")
    parts = [
        table_metrics.rerendering(latents_of(Engine(), path), unseen, known)["azimuth"]
        for _ in range(2)
    ]
    assert parts[0] == parts[1] and parts[0]["pairs"] == 50


def test_readings_of_a_perfect_engine(tmp_path):
    path = write_scenes(tmp_path, {"train": "abcd", "test": "efghi"})
    unseen, known = opened(path, "test"), opened(path, "train")
    result = table_metrics.readings(latents_of(Engine(), path), unseen, known)
    assert result["decoding"]["azimuth_own"] > 0.99 and result["decoding"]["azimuth_all"] > 0.99
    assert result["decoding"]["azimuth_others"] < 0.01
    assert result["factor_vae"]["accuracy"] > 0.9 and result["beta_vae"]["accuracy"] > 0.99
    assert result["mig"]["shape_own"] > 0.5


@pytest.mark.parametrize("full", [True, False], ids=["full turn", "half turn"])
def test_evaluate_scores_a_run_on_its_table_and_on_one_of_others(tmp_path, capsys, full):
    (tmp_path / "own").mkdir()
    (tmp_path / "others").mkdir()
    write_scenes(tmp_path / "own", {"train": "abc", "test": "de"}, full)
    write_scenes(tmp_path / "others", {"test": "fgh"}, full)  # none to train on
    groups = ["azimuth=2" if full else "azimuth=1", "shape=rest"]
    run = write_run(tmp_path / "run", groups=groups, data=str(tmp_path / "own"), batch_size=2,
                    image_size=SIZE)  # fmt: skip
    out = tmp_path / "o.json"
    command = ["--checkpoint", str(run), "--precision", "fp32", "--out", str(out)]
    for data, persons in ((None, {"d", "e"}), ("others", {"f", "g", "h"})):
        evaluate.main([*command, *(["--data", str(tmp_path / data)] if data else [])])
        report = json.loads(out.read_text())
        assert set(report["rerender azimuth"]["persons"]) == persons
        assert math.isfinite(report["rerender azimuth"]["ratio_to_copy"])
        assert 0 < report["correlation"]["azimuth_within"] <= 1
        assert ("azimuth_within_spearman" in report["correlation"]) != full
        for name in ("decoding", "dci", "mig", "sap", "beta_vae", "factor_vae"):
            assert all(map(math.isfinite, report[name].values())), name
    assert "ratio_to_copy" in capsys.readouterr().out
