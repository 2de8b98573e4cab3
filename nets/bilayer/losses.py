"""Losses of the bilayer avatars, with formula and weight (Zakharov et al. 2020, section 3.3).

`Losses` reads tensors by name from the dictionary of a training pass. Its terms are weighted, so
the objective is their sum. It trains the discriminator and the generators together, since
`Bilayer.forward` separates their gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn

from nets.bilayer.defaults import words
from nets.perceptual import feature_distances, layer_name

Pass = Mapping[str, Tensor | list[Tensor]]  # published name -> value; see `Bilayer.forward`
Number = TypeVar("Number", int, float)


class WarpingWeight:
    """The weight of the warping regulariser, which decays during training.

    It is multiplied by `decay` after every `schedule` calls and never falls below `eps`. It is
    constant with a decay of 1 or a schedule below 1.
    """

    def __init__(self, weight: float, decay: float, schedule: int, eps: float):
        self.weight, self.calls = float(weight), 0
        self.decay, self.schedule, self.eps = decay, schedule, eps

    def next(self) -> float:
        """The weight of this training call."""
        weight = self.weight
        self.calls += 1
        if self.decay != 1 and self.schedule > 0 and self.calls % self.schedule == 0:
            self.weight = max(self.weight * self.decay, self.eps)
        return weight

    def state_dict(self) -> dict[str, float | int]:
        return {"wpr_weight": self.weight, "wpr_calls": self.calls}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.weight, self.calls = float(state["wpr_weight"]), int(state["wpr_calls"])


class KeypointPlaces:
    """A place in the texture for each keypoint: the mean of its places in all images so far.

    Images alone can fail to train the offsets. A texture without contrast gives them no gradient,
    and wrong offsets keep the texture without contrast. Keypoints tell which pixels of two images
    show the same place of a face, whatever its colour is.
    """

    def __init__(self) -> None:
        self.places: Tensor | None = None  # (K, 2), in [-1, 1]
        self.calls = 0

    def add(self, poses: Tensor) -> None:
        """Update the mean by the poses (b, t, 2 K) of a training step, of all ranks."""
        mean = poses.detach().float().mean((0, 1)).unflatten(0, (-1, 2))
        if distributed.is_initialized():
            distributed.all_reduce(mean)
            mean /= distributed.get_world_size()
        self.calls += 1
        old = mean if self.places is None else self.places.to(mean.device)
        self.places = old + (mean - old) / self.calls

    def distance(self, uvs: Tensor, poses: Tensor) -> Tensor:
        """The mean L1 distance between each keypoint's place and the place that its pixel reads.

        uvs    (b, t, S, S, 2), the place in the texture that each pixel reads, (x, y) in [-1, 1]
        poses  (b, t, 2 K) in [-1, 1]
        """
        points = poses.float().flatten(0, 1).unflatten(1, (-1, 2))
        fields = uvs.float().flatten(0, 1).permute(0, 3, 1, 2)
        result = F.grid_sample(fields, points[:, None], padding_mode="border", align_corners=False)
        places = points.mean(0) if self.places is None else self.places
        return F.l1_loss(result[:, :, 0].mT, places.expand_as(points))

    def state_dict(self) -> dict[str, Any]:
        return {"kpc_places": self.places, "kpc_calls": self.calls}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.places, self.calls = state.get("kpc_places"), int(state.get("kpc_calls", 0))


def feature_boxes(poses: Tensor, size: int) -> Tensor:
    """The boxes around the right eye, the left eye and the mouth, (N, 3, size, size) bool.

    poses  (N, 136) in [-1, 1], 68 points in the order of iBUG 300-W
    A box is around the points of its part, enlarged by a pixel on each side. Eyes and mouth are a
    few percent of a face, so that a mean over all pixels leaves them blurred.
    """
    at = torch.arange(size, device=poses.device)
    points = (poses.unflatten(1, (-1, 2)) + 1) / 2 * size
    boxes = []
    for part in (slice(36, 42), slice(42, 48), slice(48, 68)):
        low, high = points[:, part].amin(1)[..., None] - 1, points[:, part].amax(1)[..., None] + 1
        column, line = ((at >= low) & (at <= high)).unbind(1)
        boxes.append(line[:, :, None] & column[:, None])
    return torch.stack(boxes, 1)


PUBLISHED = (
    "adversarial",
    "feature_matching",
    "perceptual",
    "pixelwise",
    "segmentation",
    "warping_regularizer",
)
# The last two are new here: `KeypointPlaces`, and `feature_boxes`.
LOSSES = (*PUBLISHED, "keypoint_correspondence", "face_features")
EXTRACTORS = {  # published name -> family of `nets.pretrained.vgg`
    "vgg19_imagenet_pytorch": "torchvision",
    "vgg16_face_caffe": "face",
}

# The published defaults, except for seg_loss_apply_to: the published value names no tensor.
DEFAULTS: dict[str, Any] = {
    "losses_train": list(PUBLISHED),
    "adv_pred_type": "ragan",
    "adv_loss_weight": 0.5,
    "fem_loss_type": "l1",
    "fem_loss_weight": 10.0,
    "per_full_net_names": "vgg19_imagenet_pytorch, vgg16_face_caffe",
    "per_net_layers": "1,6,11,20,29; 1,6,11,18,25",
    "per_pooling": "avgpool",
    "per_loss_apply_to": "pred_target_imgs_lf_detached, target_imgs",
    "per_loss_type": "l1",
    "per_loss_weights": "10.0, 0.01",
    "per_layer_weights": "0.03125, 0.0625, 0.125, 0.25, 1.0",
    "per_loss_names": "VGG19, VGGFace",
    "pix_loss_type": "l1",
    "pix_loss_weights": "10.0",
    "pix_loss_apply_to": "pred_target_delta_lf_rgbs, target_imgs",
    "pix_loss_names": "L1",
    "seg_loss_type": "bce",
    "seg_loss_weights": "10.0",
    "seg_loss_apply_to": "pred_target_segs_logits, target_segs",
    "seg_loss_names": "BCE",
    "wpr_loss_type": "l1",
    "wpr_loss_weight": 10.0,
    "wpr_loss_weight_decay": 0.9,
    "wpr_loss_decay_schedule": 50,
    "wpr_loss_apply_to": "pred_target_delta_uvs",
    "kpc_loss_weight": 10.0,
    "ffe_loss_weight": 10.0,
    "eps": 1e-7,
}


def adversarial_losses(
    real: Tensor, fake_for_dis: Tensor, fake_for_gen: Tensor, kind: str = "ragan"
) -> tuple[Tensor, Tensor]:
    """Hinge losses of the discriminator and of the generator, means over all patches.

    real, fake_for_dis  scores r and f of the discriminator's pass
    fake_for_gen        scores f of the generator's pass; r is a constant there
    kind                "gan": pr = r, pf = f
                        "rgan": pr = r - f, pf = f - r
                        "ragan": pr = r - mean f, pf = f - mean r
    returns             D = mean relu(1 - pr) + mean relu(1 + pf)
                        G = mean relu(1 - pf) + mean relu(1 + pr); for "gan" -mean pf
    """
    r, f = _relative(real, fake_for_dis, kind)
    dis = F.relu(1 - r).mean() + F.relu(1 + f).mean()
    r, f = _relative(real.detach(), fake_for_gen, kind)
    gen = -f.mean() if kind == "gan" else F.relu(1 - f).mean() + F.relu(1 + r).mean()
    return dis, gen


def _relative(real: Tensor, fake: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """(pr, pf) of `adversarial_losses`."""
    if kind == "gan":
        return real, fake
    if kind == "rgan":
        return real - fake, fake - real
    if kind == "ragan":
        return real - fake.mean(), fake - real.mean()
    raise ValueError(f"bilayer: adv_pred_type must be gan, rgan or ragan, got {kind!r}")


def feature_matching(real: Sequence[Tensor], fake: Sequence[Tensor], kind: str = "l1") -> Tensor:
    """The mean over layers of the L1 or MSE distances of features; real ones are constants."""
    pairs = zip(real, fake, strict=True)
    return torch.stack([distance(f, r, kind) for r, f in pairs]).mean()


def distance(prediction: Tensor, target: Tensor, kind: str) -> Tensor:
    """The mean distance of a prediction from a constant target, in float32.

    kind  "l1", "mse", or "ce": the cross entropy of logits (N, C, ...) and class indices (N, ...)
    """
    prediction = prediction if prediction.dtype == torch.float64 else prediction.float()
    if kind == "ce":
        return F.cross_entropy(prediction, target.detach())
    if kind not in ("l1", "mse"):
        raise ValueError(f"bilayer: a loss type must be l1, mse or ce, got {kind!r}")
    target = target.detach().to(prediction.dtype)
    return (F.l1_loss if kind == "l1" else F.mse_loss)(prediction, target)


def dice(prediction: Tensor, target: Tensor) -> Tensor:
    """log(sum p^2 + sum t^2) - log(sum 2 p t), without a sigmoid on p."""
    prediction, target = prediction.float(), target.detach().float()
    top = prediction.square().sum() + target.square().sum()
    return top.log() - (2 * prediction * target).sum().log()


def perceptual(
    vgg: nn.Module,
    prediction: Tensor,
    target: Tensor,
    layers: Sequence[str],
    weights: Sequence[float],
    kind: str = "l1",
) -> Tensor:
    """sum_k weights_k * mean |F_k(prediction) - F_k(target)|, or of the squares for "mse".

    prediction, target  (N, 3, S, S) in [-1, 1]
    layers              names of the feature layers F_k of `vgg`
    """
    if kind not in ("l1", "mse"):
        raise ValueError(f"bilayer: per_loss_type must be l1 or mse, got {kind!r}")
    squared = kind == "mse"
    distances = feature_distances(prediction, target, layers, vgg=vgg, squared=squared)
    pairs = zip(layers, weights, strict=True)
    first, *others = [w * distances[f"feature_{layer}"].mean() for layer, w in pairs]
    return sum(others, first)


class LossPair(NamedTuple):
    """A term of a loss: two names in the data of a pass, its factor and its name in the log."""

    prediction: str
    target: str
    weight: float
    name: str


class PerceptualPair(NamedTuple):
    """A term of the perceptual loss; see `LossPair`.

    extractor  published name of the feature network
    layers     names of its layers
    """

    prediction: str
    target: str
    extractor: str
    layers: list[str]
    weight: float
    name: str


class Losses(nn.Module):
    """The losses of a run's options: `losses(data)` is a dictionary of weighted scalars.

    options     flags by their published names; absent ones are those of `DEFAULTS`
    extractors  published name -> frozen feature network, for those of `needed_extractors`

    `state_dict` holds the decaying weight of the warping regulariser and the mean places of the
    keypoints. Raises ValueError on options that contradict each other.
    """

    def __init__(
        self, options: Mapping[str, Any], extractors: Mapping[str, nn.Module] | None = None
    ):
        super().__init__()
        self.options = o = {**DEFAULTS, **options}
        self.names = words(o["losses_train"])
        _known("losses_train", self.names, LOSSES)
        self.per = _perceptual_pairs(o) if "perceptual" in self.names else []
        absent = [n for n in needed_extractors(o) if n not in (extractors or {})]
        if absent:
            raise ValueError(f"bilayer: the perceptual loss needs the network {absent[0]}")
        used = needed_extractors(o)
        self.extractors = nn.ModuleDict({n: (extractors or {})[n] for n in used})
        self.pix = _pairs(o, "pix")
        self.seg = _pairs(o, "seg")
        _known("adv_pred_type", [o["adv_pred_type"]], ("gan", "rgan", "ragan"))
        _known("fem_loss_type", [o["fem_loss_type"]], ("l1", "mse"))
        _known("pix_loss_type", [o["pix_loss_type"]], ("l1", "mse", "ce"))
        _known("seg_loss_type", [o["seg_loss_type"]], ("bce", "dice"))
        _known("wpr_loss_type", [o["wpr_loss_type"]], ("l1", "mse"))
        self.warping = WarpingWeight(
            o["wpr_loss_weight"], o["wpr_loss_weight_decay"], o["wpr_loss_decay_schedule"], o["eps"]
        )
        self.places = KeypointPlaces()

    def train(self, mode: bool = True) -> Losses:
        """Set the mode of the losses; the extractors keep theirs."""
        self.training = mode
        return self

    def forward(self, data: Pass) -> dict[str, Tensor]:
        """The weighted terms of a training pass, scalars.

        Names with the default options: D_ADV, G_ADV, G_FM, G_VGG19, G_VGGFace, G_L1, G_BCE, G_WPR.
        Raises ValueError if `data` lacks a tensor.
        """
        out: dict[str, Tensor] = {}
        for name in self.names:
            getattr(self, f"_{name}")(data, out)
        return out

    # The module's own state only: torch's overloads also fill a dict, which nobody passes here.
    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        placed = "keypoint_correspondence" in self.names
        return self.warping.state_dict() | (self.places.state_dict() if placed else {})

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> None:
        self.warping.load_state_dict(state_dict)
        self.places.load_state_dict(state_dict)

    def _adversarial(self, data: Pass, out: dict[str, Tensor]) -> None:
        names = ("real_scores", "fake_scores_dis", "fake_scores_gen")
        real, fake_dis, fake_gen = (_need(data, name).float() for name in names)
        dis, gen = adversarial_losses(real, fake_dis, fake_gen, self.options["adv_pred_type"])
        weight = self.options["adv_loss_weight"]
        out["D_ADV"], out["G_ADV"] = weight * dis, weight * gen

    def _feature_matching(self, data: Pass, out: dict[str, Tensor]) -> None:
        real, fake = _features(data, "real_feats_gen"), _features(data, "fake_feats_gen")
        out["G_FM"] = self.options["fem_loss_weight"] * feature_matching(
            real, fake, self.options["fem_loss_type"]
        )

    def _perceptual(self, data: Pass, out: dict[str, Tensor]) -> None:
        layer_weights = numbers(self.options["per_layer_weights"], float)
        for prediction, target, extractor, layers, weight, name in self.per:
            out[f"G_{name}"] = weight * perceptual(
                self.extractors[extractor],
                _need(data, prediction).flatten(0, 1),
                _need(data, target).flatten(0, 1),
                layers,
                layer_weights,
                self.options["per_loss_type"],
            )

    def _pixelwise(self, data: Pass, out: dict[str, Tensor]) -> None:
        for prediction, target, weight, name in self.pix:
            kind = self.options["pix_loss_type"]
            value = distance(_need(data, prediction), _need(data, target), kind)
            out[f"G_{name}"] = weight * value

    def _segmentation(self, data: Pass, out: dict[str, Tensor]) -> None:
        for prediction, target, weight, name in self.seg:
            logits, truth = _need(data, prediction).float(), _need(data, target).detach().float()
            if self.options["seg_loss_type"] == "bce":
                value = F.binary_cross_entropy_with_logits(logits, truth)
            else:
                value = dice(logits, truth)
            out[f"G_{name}"] = weight * value

    def _warping_regularizer(self, data: Pass, out: dict[str, Tensor]) -> None:
        deltas = [_need(data, name).float() for name in words(self.options["wpr_loss_apply_to"])]
        weight = self.warping.next() if torch.is_grad_enabled() else self.warping.weight
        if weight <= self.options["eps"] and self.options["wpr_loss_weight"]:
            return  # the weight is at its floor, so the loss is no longer used
        squared = self.options["wpr_loss_type"] == "mse"
        sizes = [(d.square() if squared else d.abs()).mean() for d in deltas]
        out["G_WPR"] = weight * torch.stack(sizes).mean()

    def _keypoint_correspondence(self, data: Pass, out: dict[str, Tensor]) -> None:
        poses = _need(data, "target_poses")
        if torch.is_grad_enabled():
            self.places.add(poses)
        value = self.places.distance(_need(data, "pred_target_uvs"), poses)
        out["G_KPC"] = self.options["kpc_loss_weight"] * value

    def _face_features(self, data: Pass, out: dict[str, Tensor]) -> None:
        weight = self.options["ffe_loss_weight"]
        for prediction, target, _, name in self.pix:
            one, other = (_need(data, n).flatten(0, 1) for n in (prediction, target))
            boxes = feature_boxes(_need(data, "target_poses").flatten(0, 1), one.shape[-1]).float()
            error = (one.float() - other.detach().float()).abs().mean(1, keepdim=True)
            means = (error * boxes).sum((0, 2, 3)) / boxes.sum((0, 2, 3)).clamp(min=1)
            out[f"G_FFE_{name}"] = weight * means.mean()


def needed_extractors(options: Mapping[str, Any]) -> list[str]:
    """Published names of the perceptual loss's feature networks with a weight above zero."""
    options = {**DEFAULTS, **options}
    if "perceptual" not in words(options["losses_train"]):
        return []
    return list(dict.fromkeys(pair.extractor for pair in _perceptual_pairs(options)))


def _perceptual_pairs(o: Mapping[str, Any]) -> list[PerceptualPair]:
    """The terms of the perceptual loss with a weight above zero."""
    extractors = words(o["per_full_net_names"])
    _known("per_full_net_names", extractors, tuple(EXTRACTORS))
    layers = [numbers(part, int) for part in str(o["per_net_layers"]).split(";")]
    weights = numbers(o["per_loss_weights"], float)
    count = len(numbers(o["per_layer_weights"], float))
    if len(layers) != len(extractors) or len(weights) != len(extractors):
        raise ValueError(
            "bilayer: per_net_layers and per_loss_weights must have one entry for each of "
            f"{', '.join(extractors)}, got {len(layers)} and {len(weights)}"
        )
    if any(len(row) != count for row in layers):
        raise ValueError(f"bilayer: per_net_layers must hold {count} layers for each network")
    pairs = _two(o["per_loss_apply_to"], "per_loss_apply_to")
    names = [words(part) for part in str(o["per_loss_names"]).split(";")]
    if len(names) != len(pairs) or any(len(row) != len(extractors) for row in names):
        raise ValueError("bilayer: per_loss_names must name each network for each pair")
    rows = []
    for (prediction, target), row in zip(pairs, names, strict=True):
        parts = zip(extractors, layers, weights, row, strict=True)
        for extractor, indices, weight, name in parts:
            blocks = (2, 2, 4, 4, 4) if "19" in extractor else (2, 2, 3, 3, 3)
            result = [layer_name(index, blocks) for index in indices]
            if weight:
                rows.append(PerceptualPair(prediction, target, extractor, result, weight, name))
    return rows


def _pairs(o: Mapping[str, Any], key: str) -> list[LossPair]:
    """The terms of the loss `key`, pix or seg."""
    pairs = _two(o[f"{key}_loss_apply_to"], f"{key}_loss_apply_to")
    weights, names = numbers(o[f"{key}_loss_weights"], float), words(o[f"{key}_loss_names"])
    if not len(pairs) == len(weights) == len(names):
        raise ValueError(
            f"bilayer: {key}_loss_apply_to, {key}_loss_weights and {key}_loss_names must have "
            f"equally many entries, got {len(pairs)}, {len(weights)} and {len(names)}"
        )
    return [LossPair(*p, w, n) for p, w, n in zip(pairs, weights, names, strict=True)]


def _two(value: str, key: str) -> list[tuple[str, str]]:
    """The pairs (prediction, target) of the option `key`."""
    pairs = []
    for part in value.split(";"):
        names = words(part)
        if len(names) != 2:
            raise ValueError(
                f'bilayer: {key} must be pairs "prediction, target; ...", got {value!r}'
            )
        pairs.append((names[0], names[1]))
    return pairs


def numbers(value: Any, kind: Callable[[Any], Number]) -> list[Number]:
    """The numbers of an option: a number, a list, or numbers separated by commas."""
    if isinstance(value, int | float):
        return [kind(value)]
    try:
        return [kind(part) for part in words(value)]
    except ValueError as error:
        raise ValueError(f"bilayer: must be numbers separated by commas, got {value!r}") from error


def _known(key: str, values: Sequence[str], known: Sequence[str]) -> None:
    """Raise ValueError on a value that is not known."""
    unknown = [v for v in values if v not in known]
    if unknown:
        raise ValueError(f"bilayer: {key} must be of {', '.join(known)}, got {unknown[0]!r}")


def _need(data: Pass, name: str) -> Tensor:
    """A tensor of a pass. Raises ValueError if it is missing, or a list."""
    value = _entry(data, name)
    if not isinstance(value, Tensor):
        raise ValueError(f"bilayer: {name} must be a tensor, is a list of {len(value)}")
    return value


def _features(data: Pass, name: str) -> Sequence[Tensor]:
    """A list of tensors of a pass. Raises ValueError if it is missing."""
    return list(_entry(data, name))


def _entry(data: Pass, name: str) -> Tensor | list[Tensor]:
    if name not in data:
        generated = ", ".join(sorted(k for k in data if k.startswith(("pred_", "target_"))))
        raise ValueError(
            f"bilayer: a loss reads {name}, which is missing in this pass; it has {generated}"
        )
    return data[name]
