"""Measures of a DC-IGN on a table of images: re-rendering and disentanglement of unseen persons.

A table holds each person, or object, at several values of a factor. So the image that a changed
latent should give is there: that of the same person at the asked value.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nets.data.scenes.batches import unit
from nets.data.scenes.factors import FactorTable
from nets.dcign import disentanglement, metrics
from nets.dcign.latents import Latents, decode, encode, progress
from nets.random import uniform

PAIRS = 4000  # pairs of source and target, at most, for a factor
ROWS = 4000  # training images, at most, for means and decoding


def errors(images: Tensor, truth: Tensor) -> Tensor:
    """Mean squared error of each image, (N,) float64."""
    return metrics.mean_squared_error(images, truth)


def near(values: Tensor, images: Tensor, asked: Tensor, turns: bool) -> Tensor:
    """Mean image, for each asked value, of those in the same of 20 bins of the values' range.

    values   (N,) of the images (N, 1, S, S)
    asked    (M,); a value whose bin is empty gets the mean of all images
    turns    the values are angles, and the bins divide a full turn
    returns  (M, 1, S, S)
    """
    if turns:
        values, asked = values.remainder(metrics.TURN), asked.remainder(metrics.TURN)
    low, high = (0.0, metrics.TURN) if turns else (values.min().item(), values.max().item())

    def places(of: Tensor) -> Tensor:
        share = (of.double() - low) / max(high - low, 1e-12)
        return (share * metrics.BINS).long().clamp(0, metrics.BINS - 1)

    own, whole = places(values), images.mean(0)
    means = [images[own == i].mean(0) if (own == i).any() else whole for i in range(metrics.BINS)]
    return torch.stack(means)[places(asked)]


def spread_rows(table: FactorTable, most: int) -> list[int]:
    """Numbers of at most `most` rows of a table, at equal distances."""
    count = len(table.rows)
    several = min(count, most)
    return [i * count // several for i in range(several)]


def rerendering(
    latents: Latents, unseen: FactorTable, known: FactorTable, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Scores of images whose factor is set to the value of another image of the same person.

    The value of the latents comes from the map of `known`, the training images. Of all ordered
    pairs of a person's images, 4000 are drawn if there are more. The result has an entry for each
    factor:
      made, copy   MSE of the result, and of the unchanged source, against the target
      unchanged    that of the source's reconstruction, whose latents are not set
      own          that of the target's own reconstruction
      mean         that of the mean training image near the target's value, which knows no person
      ratio_to_copy, ratio_to_mean   made over copy, and over mean
      persons      ratio_to_copy by person
    """
    result: dict[str, dict[str, Any]] = {}
    rows = spread_rows(known, ROWS)
    batch = known.take(rows)
    seen = unit(batch["image"])
    for place, (name, latent_map) in enumerate(latents.maps.items()):
        pairs, persons = _pairs(unseen, name, seed + place)
        shown = torch.tensor(sorted(set(pairs.flatten().tolist())))
        at = torch.full((len(unseen.rows),), -1)
        at[shown] = torch.arange(len(shown))
        source, target = at[pairs[:, 0]], at[pairs[:, 1]]
        images = unseen.take(shown.tolist())
        image, value = unit(images["image"]), images[name]
        code = encode(latents.net, image)
        own = decode(latents.net, code)
        asked = metrics.set_latents(code[source], latents.owners[name], latent_map(value[target]))
        mean = near(batch[name], seen, value, latent_map.turns)
        wrong = {
            "made": _in_parts(latents, asked, image, target),
            "copy": errors(image[source], image[target]),
            "unchanged": errors(own[source], image[target]),
            "own": errors(own, image)[target],
            "mean": errors(mean, image)[target],
        }
        total = {key: of.mean().item() for key, of in wrong.items()}
        by_person = {
            who: (wrong["made"][mine].mean() / wrong["copy"][mine].mean().clamp_min(1e-12)).item()
            for who in sorted(set(persons))
            for mine in [torch.tensor([p == who for p in persons])]
        }
        result[name] = {
            "ratio_to_copy": total["made"] / max(total["copy"], 1e-12),
            "ratio_to_mean": total["made"] / max(total["mean"], 1e-12),
            **{f"{key}_mse": of for key, of in total.items()},
            "pairs": len(pairs),
            "persons": by_person,
        }
    return result


def _pairs(table: FactorTable, name: str, seed: int) -> tuple[Tensor, list[str]]:
    """(rows (P, 2) of source and target, person of each pair) of images that differ in a factor."""
    found = [
        (a, b)
        for number in range(table.counts[name])
        for group in [table.members(name, number)]
        for a in group
        for b in group
        if a != b
    ]
    pairs = torch.tensor(found)
    if len(pairs) > PAIRS:
        keys = uniform(seed, f"pairs {name}", torch.arange(len(pairs)), 1)[:, 0]
        pairs = pairs[keys.argsort()[:PAIRS].sort().values]
    person = list(table.columns.values())[-1]
    return pairs, [table.rows[a][person] for a in pairs[:, 0].tolist()]


def _in_parts(latents: Latents, code: Tensor, image: Tensor, target: Tensor) -> Tensor:
    """Errors of decoded codes against image[target], in parts, so that memory stays small."""
    parts = zip(code.split(256), target.split(256), strict=True)
    steps = list(parts)
    return torch.cat(
        [errors(decode(latents.net, c), image[t]) for c, t in progress(steps, "re-rendering")]
    )


def readings(latents: Latents, unseen: FactorTable, known: FactorTable) -> dict[str, Any]:
    """Decoding and disentanglement scores of codes of all images of a table.

    Decoding is learnt from training images. All other scores are of the unseen ones.
    """
    named = [name for name in latents.factors if name in unseen.labels]
    shape = latents.groups[-1].name
    code, factors = _codes(latents, unseen, spread_rows(unseen, ROWS))
    old, old_factors = _codes(latents, known, spread_rows(known, ROWS))
    numbers: dict[str, Tensor] = {}
    decoding: dict[str, float] = {}
    for name in named:
        turns = metrics.is_full_turn(old_factors[name])
        numbers[name] = metrics.columns(factors[name], turns)
        found = metrics.decoding(
            old, metrics.columns(old_factors[name], turns), code, numbers[name],
            latents.owners[name],
        )  # fmt: skip
        decoding |= {f"{name}_{key}": value for key, value in found.items()}
        if turns:  # neighbouring angles are far apart as numbers
            factors[name] = disentanglement.bins(factors[name].remainder(metrics.TURN))
    numbers[shape] = torch.nn.functional.one_hot(factors[shape]).double()
    owners = {name: latents.owners[name] for name in (*named, shape)}
    scores = disentanglement.scores(code, numbers, factors, owners)
    return {"decoding": decoding, **scores}


def _codes(
    latents: Latents, table: FactorTable, rows: list[int]
) -> tuple[Tensor, dict[str, Tensor]]:
    """(codes (N, D), factors by name: numbers, and for the last type the person's number)."""
    batch = table.take(rows)
    code = encode(latents.net, batch.pop("image"))
    person = list(table.columns.values())[-1]
    names = sorted({row[person] for row in table.rows})
    batch[latents.groups[-1].name] = torch.tensor(
        [names.index(table.rows[i][person]) for i in rows]
    )
    return code, batch
