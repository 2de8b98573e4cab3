"""Measures of a DC-IGN against a renderer, for unseen heads in any pose and light."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from nets import metrics as image_metrics
from nets.data.scenes.batches import unit
from nets.data.scenes.factors import FACTORS
from nets.dcign import disentanglement, metrics
from nets.dcign.latents import Latents, decode, encode, progress
from nets.dcign.visuals import to_bytes
from nets.random import uniform
from nets.worlds.heads.world import RANGES, SPLITS, identities

OTHERS = 1 << 30  # offset within a split of persons that no batch of the world shows
# Number of values of each factor for which each face is drawn; the authors took 60, 17 and 81.
GRIDS = {"azimuth": 31, "elevation": 17, "light": 41}
NEAR_FRONT = {"azimuth": 0.3, "elevation": 0.15, "light": 0.4}  # ranges of known images, radians
SSIM_OF = 64  # images; SSIM takes far longer than the squared error
FACES = 20  # faces in a grid
BOTH = ("azimuth", "light")  # factors that are also set at once
READ = (40, 20)  # persons, and images of each, in `readings`
RECOGNISED = 50  # persons in `recognitions`
Scene = dict[str, Tensor]  # labels by name, (N, ...): the factors, identity, person


@runtime_checkable
class Renderer(Protocol):
    """Batches of a world that can draw any scene exactly."""

    counts: dict[str, int]  # batches of each type

    def scene(self, kind: str, number: int) -> Scene:
        """The labels of a batch."""

    def draw(self, scene: Mapping[str, Tensor], /) -> Tensor:
        """The images (N, 1, S, S) uint8 of labels."""


def views(split: str, persons: int, each: int, ranges: dict[str, float], seed: int = 0) -> Scene:
    """Random scenes (persons * each,) of persons that no batch of training or testing shows.

    each    scenes of each person
    ranges  factor -> r; the factor is uniform in [-r, r], radians
    """
    person = SPLITS[split] + OTHERS + torch.arange(persons).repeat_interleave(each)
    share = uniform(seed, f"views {split}", torch.arange(persons * each), len(FACTORS))
    scene = {name: ((2 * share[:, i] - 1) * ranges[name]).float() for i, name in enumerate(FACTORS)}
    return scene | {"person": person, "identity": identities(person)}


def draw(world: Renderer, scene: Scene, at_once: int = 64) -> Tensor:
    """The exact images (N, 1, S, S) in [0, 1] of labels, `at_once` at a time."""
    starts = progress(range(0, len(scene["person"]), at_once), "drawing")
    return unit(
        torch.cat([world.draw({k: v[i : i + at_once] for k, v in scene.items()}) for i in starts])
    )


def score(generated: Tensor, truth: Tensor) -> dict[str, float]:
    """Mean scores of images against the truth: "mse", and "ssim" of the first 64 images.

    generated, truth  (N, 1, S, S) in [0, 1]
    """
    grey = [to_bytes(images[:SSIM_OF]).expand(-1, 3, -1, -1) for images in (generated, truth)]
    return {
        "mse": metrics.mean_squared_error(generated, truth).mean().item(),
        "ssim": image_metrics.ssim(*grey).mean().item(),
    }


def test_scene(world: Renderer, each: int, images: int | None = None) -> Scene:
    """The labels of a world's images, of all types, one batch after the other.

    each    batches of each type, at most
    images  approximate number of images, taken at equal distances; None: all
    """
    batches = [world.scene(k, n) for k, count in world.counts.items()
               for n in range(min(count, each))]  # fmt: skip
    scene = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
    step = max(1, len(scene["person"]) // images) if images else 1
    return {name: value[::step] for name, value in scene.items()}


def rerendering(
    latents: Latents, world: Renderer, scene: Scene, seed: int = 0
) -> dict[str, dict[str, float]]:
    """Scores of images that are decoded after a factor's latent is set to another value.

    The value comes from the map of the latent. The truth is the exact image with the factor at that
    value. The result has an entry for each factor, and "azimuth+light" with both set at once.
    See `_against` for the scores; the trivial answer "copy" is the unchanged image.
    """
    image = draw(world, scene)
    code = encode(latents.net, image)
    expected = {}
    for place, (name, matches) in enumerate(latents.maps.items()):
        low, high = matches.factor[0].item(), matches.factor[-1].item()
        share = uniform(seed, f"rerender {place}", torch.arange(len(image)), 1)[:, 0].float()
        expected[name] = low + (high - low) * share
    asked: list[tuple[str, ...]] = [(name,) for name in expected]
    asked += [BOTH] * (set(BOTH) <= expected.keys())
    result: dict[str, dict[str, float]] = {}
    for names in asked:
        truth = draw(world, {**scene, **{name: expected[name] for name in names}})
        set_code = code
        for name in names:
            value = latents.maps[name](expected[name])
            set_code = metrics.set_latents(set_code, latents.owners[name], value)
        result["+".join(names)] = _against(latents, set_code, truth, {"copy": image})
    return result


def swaps(latents: Latents, world: Renderer, scene: Scene) -> dict[str, float]:
    """Scores of images that combine pose and light of one scene with the shape of another.

    See `_against`; "copy_pose" and "copy_shape" are the two images themselves.
    """
    n = len(scene["person"])
    other = {name: value.roll(n // 2, 0) for name, value in scene.items()}
    image, second = draw(world, scene), draw(world, other)
    code = encode(latents.net, image)
    code[:, latents.intrinsic] = encode(latents.net, second)[:, latents.intrinsic]
    asked = {name: scene[name] for name in FACTORS}
    truth = draw(world, {**other, **asked})
    return _against(latents, code, truth, {"copy_pose": image, "copy_shape": second})


def _against(
    latents: Latents, code: Tensor, truth: Tensor, copies: dict[str, Tensor]
) -> dict[str, float]:
    """Scores of decoded codes, of the truth's own reconstruction, and of trivial answers.

    code     (N, D) of the decoded images, whose scores start with "made_"
    truth    (N, 1, S, S), whose reconstruction has scores that start with "own_"
    copies   trivial answers by name
    returns  NAME_mse, NAME_ssim, and "ratio_to_copy": the MSE over that of the best trivial answer
    """
    images = {
        "made": decode(latents.net, code),
        "own": decode(latents.net, encode(latents.net, truth)),
        **copies,
    }
    result: dict[str, float] = {}
    for name, generated in images.items():
        result |= {f"{name}_{key}": value for key, value in score(generated, truth).items()}
    best = min(result[f"{name}_mse"] for name in copies)
    return {"ratio_to_copy": result["made_mse"] / max(best, 1e-12), **result}


def grids(latents: Latents, world: Renderer, seed: int = 0) -> dict[str, dict[str, Tensor]]:
    """Data of the paper's scatter plots and of the curves of invariance, for FACES faces.

    returns  for each factor "value" (V,) radians, "latent" (faces, V), the factor's own latent, and
             "similarity" (V,), the mean cosine of the shape latents to those at the value nearest 0
    """
    faces = FACES
    base = views("test", faces, 1, RANGES, seed)
    result, shapes = {}, {}
    for name in (n for n in latents.factors if n in RANGES):
        value = torch.linspace(-RANGES[name], RANGES[name], GRIDS[name])
        scene = {key: x.repeat_interleave(len(value), 0) for key, x in base.items()}
        scene[name] = value.repeat(faces)
        code = encode(latents.net, draw(world, scene)).view(faces, len(value), -1)
        latent = code[..., latents.owners[name].start]
        shapes[name] = code[..., latents.intrinsic]
        result[name] = {"value": value, "latent": latent}
    everything = torch.cat([shape.flatten(0, 1) for shape in shapes.values()])
    mean = everything.double().mean(0)
    for name, shape in shapes.items():
        middle = result[name]["value"].abs().argmin()
        near = metrics.similarity(shape, shape[:, middle : middle + 1], mean)
        result[name]["similarity"] = near.mean(0)
    return result


def recognitions(latents: Latents, world: Renderer) -> dict[str, float]:
    """Recognition rates of persons in any pose and light, from five near-frontal images of each.

    The rates are those of `metrics.recognition` from the shape latents, all latents, and pixels;
    and "chance", the rate of guessing.
    """
    persons = RECOGNISED
    known = views("test", persons, 5, NEAR_FRONT, seed=1)
    new = views("test", persons, 10, RANGES, seed=2)
    images = [draw(world, scene) for scene in (known, new)]
    codes = [encode(latents.net, image) for image in images]
    what = {
        "shape": [code[:, latents.intrinsic] for code in codes],
        "all": codes,
        "pixels": [image.flatten(1) for image in images],
    }
    people = (known["person"], new["person"])
    result: dict[str, float] = {}
    for name, (a, b) in what.items():
        matches = metrics.recognition(a, people[0], b, people[1])
        result |= {f"{how}_{name}": rate for how, rate in matches.items()}
    return result | {"chance": 1 / persons}


def readings(latents: Latents, world: Renderer) -> dict[str, Any]:
    """Decoding, DCI, MIG, SAP and invariance of codes of images in which all factors change."""
    train, test = (views(split, *READ, RANGES, seed=3) for split in ("train", "test"))
    code, new = (encode(latents.net, draw(world, scene)) for scene in (train, test))
    named = [name for name in latents.factors if name in FACTORS]
    owners = {name: latents.owners[name] for name in (*named, latents.groups[-1].name)}
    result: dict[str, Any] = {"decoding": {}}
    for name in named:
        matches = metrics.decoding(code, train[name], new, test[name], owners[name])
        result["decoding"] |= {f"{name}_{key}": value for key, value in matches.items()}
    shape = latents.groups[-1].name
    numbers = {**{name: test[name] for name in named}, shape: test["identity"]}
    ids = {**{name: test[name] for name in named}, shape: test["person"]}
    result |= disentanglement.scores(new, numbers, ids, owners)
    result["invariance"] = {
        "within_over_between_shape": metrics.spread(new[:, latents.intrinsic], test["person"]),
        "within_over_between_all": metrics.spread(new, test["person"]),
    }
    return result
