"""Measures of a DC-IGN against a renderer: what it draws, and what its code does, for heads that
nobody has seen, in any pose and light.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from nets import metrics as image_metrics
from nets.data.scenes.batches import unit
from nets.data.scenes.factors import FACTORS
from nets.dcign import metrics
from nets.dcign.latents import Latents, decode, encode
from nets.dcign.visuals import to_bytes
from nets.random import uniform
from nets.worlds.heads.world import RANGES, SPLITS, identities

OTHERS = 1 << 30  # first person, in a split, that no batch of the world shows
# The published grids: values of each factor for which each face is drawn.
GRIDS = {"azimuth": 31, "elevation": 17, "light": 41}
NEAR_FRONT = {"azimuth": 0.3, "elevation": 0.15, "light": 0.4}  # radians, of known images
SSIM_OF = 64  # images
FACES = 20  # of the grids
BOTH = ("azimuth", "light")  # set at once, as well as alone
READ = (40, 20)  # persons, and images of each, that codes are read off
RECOGNISED = 50  # persons
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
    """`each` scenes of every person, pose and light uniform in +- ranges: (persons * each,).

    Persons whom no batch of training or testing shows.
    """
    person = SPLITS[split] + OTHERS + torch.arange(persons).repeat_interleave(each)
    draw = uniform(seed, f"views {split}", torch.arange(persons * each), len(FACTORS))
    scene = {name: ((2 * draw[:, i] - 1) * ranges[name]).float() for i, name in enumerate(FACTORS)}
    return scene | {"person": person, "identity": identities(person)}


def score(generated: Tensor, truth: Tensor) -> dict[str, float]:
    """Of images (N, 1, S, S) in [0, 1]: "mse" of grey values, mean over all, and "ssim", mean
    over the first 64, since it takes far longer.
    """
    grey = [to_bytes(images[:SSIM_OF]).expand(-1, 3, -1, -1) for images in (generated, truth)]
    return {
        "mse": metrics.mean_squared_error(generated, truth).mean().item(),
        "ssim": image_metrics.ssim(*grey).mean().item(),
    }


def test_scene(world: Renderer, each: int, images: int | None = None) -> Scene:
    """The labels of the test images, of `each` batches a type at most, one after the other; of
    about so many `images`, evenly among them.
    """
    batches = [world.scene(k, n) for k, count in world.counts.items()
               for n in range(min(count, each))]  # fmt: skip
    scene = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
    step = max(1, len(scene["person"]) // images) if images else 1
    return {name: value[::step] for name, value in scene.items()}


def rerendering(
    latents: Latents, world: Renderer, scene: Scene, seed: int = 0
) -> dict[str, dict[str, float]]:
    """Images of `scene` with latents set to what stands for other values of their factors,
    against the truth at those values, and the errors of copying the image and of the network's
    own reconstruction of the truth: by factor, and, as "azimuth+light", for both at once.
    """
    image = unit(world.draw(scene))
    code = encode(latents.net, image)
    expected = {}
    for place, (name, matches) in enumerate(latents.maps.items()):
        low, high = matches.factor[0].item(), matches.factor[-1].item()
        draw = uniform(seed, f"rerender {place}", torch.arange(len(image)), 1)[:, 0].float()
        expected[name] = low + (high - low) * draw
    asked: list[tuple[str, ...]] = [(name,) for name in expected]
    asked += [BOTH] * (set(BOTH) <= expected.keys())
    result: dict[str, dict[str, float]] = {}
    for names in asked:
        truth = unit(world.draw({**scene, **{name: expected[name] for name in names}}))
        set_code = code
        for name in names:
            value = latents.maps[name](expected[name])
            set_code = metrics.set_latent(set_code, latents.owners[name].start, value)
        result["+".join(names)] = _against(latents, set_code, truth, {"copy": image})
    return result


def swaps(latents: Latents, world: Renderer, scene: Scene) -> dict[str, float]:
    """Pose and light of an image with the shape of another, against the truth; and the errors of
    copying either.
    """
    n = len(scene["person"])
    other = {name: value.roll(n // 2, 0) for name, value in scene.items()}
    image, second = unit(world.draw(scene)), unit(world.draw(other))
    code = encode(latents.net, image)
    code[:, latents.intrinsic] = encode(latents.net, second)[:, latents.intrinsic]
    asked = {name: scene[name] for name in FACTORS}
    truth = unit(world.draw({**other, **asked}))
    return _against(latents, code, truth, {"copy_pose": image, "copy_shape": second})


def _against(
    latents: Latents, code: Tensor, truth: Tensor, copies: dict[str, Tensor]
) -> dict[str, float]:
    """Scores of decoded codes, of trivial answers, and of the truth's own reconstruction."""
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
    """The scatter plots of the paper and the curves of invariance, on FACES faces.

    returns  for each factor "value" (V,), "latent" (faces, V) of its owner, and "similarity" (V,):
             of the shape latents to those at the value nearest to 0, mean over faces
    """
    faces = FACES
    base = views("test", faces, 1, RANGES, seed)
    result, shapes = {}, {}
    for name in (n for n in latents.factors if n in RANGES):
        value = torch.linspace(-RANGES[name], RANGES[name], GRIDS[name])
        scene = {key: x.repeat_interleave(len(value), 0) for key, x in base.items()}
        scene[name] = value.repeat(faces)
        code = encode(latents.net, unit(world.draw(scene))).view(faces, len(value), -1)
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
    """Whether people known from five near-frontal images are found again in any pose and light:
    by the shape latents, by all of them, by pixels; with the rate of guessing.
    """
    persons = RECOGNISED
    known = views("test", persons, 5, NEAR_FRONT, seed=1)
    new = views("test", persons, 10, RANGES, seed=2)
    images = [unit(world.draw(scene)) for scene in (known, new)]
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
    """What can be read off the code of images in which everything changes: decoding, DCI, MIG,
    SAP, and how far apart codes of one person are.
    """
    train, test = (views(split, *READ, RANGES, seed=3) for split in ("train", "test"))
    code, new = (encode(latents.net, unit(world.draw(scene))) for scene in (train, test))
    named = [name for name in latents.factors if name in FACTORS]
    owners = {name: latents.owners[name] for name in (*named, latents.groups[-1].name)}
    result: dict[str, Any] = {"decoding": {}}
    for name in named:
        matches = metrics.decoding(code, train[name], new, test[name], owners[name])
        result["decoding"] |= {f"{name}_{key}": value for key, value in matches.items()}
    shape = latents.groups[-1].name
    numbers = {**{name: test[name] for name in named}, shape: test["identity"]}
    ids = {**{name: test[name] for name in named}, shape: test["person"]}
    result["dci"] = metrics.dci(metrics.importance(new, numbers))
    result["mig"] = metrics.gaps(metrics.information_table(new, ids), owners)
    result["sap"] = metrics.gaps(metrics.explained_table(new, ids), owners)
    result["invariance"] = {
        "within_over_between_shape": metrics.spread(new[:, latents.intrinsic], test["person"]),
        "within_over_between_all": metrics.spread(new, test["person"]),
    }
    return result
