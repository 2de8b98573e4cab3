"""The objective of a training step: the loss, its weights, and the network of features it needs."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from nets.errors import UserError
from nets.pretrained.features import load_features
from nets.pretrained.mobilenet import MobileNetV2
from nets.pretrained.vgg import VGG19
from nets.run import options
from nets.run.precision import Precision
from nets.run.run import Run
from nets.vunet import VUNet, VUNetOutput, losses

LAST = 1 << 60  # a step after the end of every ramp


def term_weights(args: options.Namespace, step: int) -> dict[str, float]:
    """Image form: term -> weight at a step, of the terms with a weight above 0, and the KL.

    Raises UserError for a ramp that is not whole.
    """
    result = {}
    for term in losses.IMAGE_TERMS:
        settings = args.losses[term]
        ramp = [
            settings[f"{end}_ramp_{value}"] for end in ("start", "end") for value in ("it", "val")
        ]
        if None not in ramp:
            if ramp[0] > ramp[2]:
                raise UserError(f"losses.{term}: a ramp must end at or after start_ramp_it")
            final = args.keep_kl and term == "KL"
            result[term] = ramp[3] if final else losses.linear_ramp(step, *ramp)
        elif any(value is not None for value in ramp):
            raise UserError(f"losses.{term}: a ramp needs all of its four settings")
        elif settings["weight"] is not None:
            result[term] = settings["weight"]
    return {term: weight for term, weight in result.items() if weight or term == "KL"}


def kl_factor(args: options.Namespace, step: int, end: int) -> float:
    """The weight of the KL at a step.

    end  step at which training ends

    In the parts form it rises linearly from kl_min to kl_max, late in training: the decoder ignores
    the latents at first.
    """
    if args.variant == "image":
        return term_weights(args, step).get("KL", 0.0)
    if args.keep_kl:
        return args.kl_max
    start = end // 2 if args.kl_start is None else args.kl_start
    stop = 3 * end // 4 if args.kl_end is None else args.kl_end
    return losses.linear_ramp(step, start, args.kl_min, max(start, stop), args.kl_max)


def optimizer_of(args: options.Namespace, net: VUNet) -> torch.optim.Adam:
    """Adam; with a `gain_rate` other than 1, gains and biases are a group with that factor."""
    groups: list[dict[str, Any]] = [{"params": list(net.parameters())}]
    if args.gain_rate != 1:
        filters = [p for p in net.parameters() if p.ndim > 1]
        others = [p for p in net.parameters() if p.ndim == 1]
        groups = [{"params": filters}, {"params": others, "factor": args.gain_rate}]
    return torch.optim.Adam(groups, args.lr, tuple(args.betas), fused=True)


def open_vgg(args: options.Namespace, run: Run, precision: Precision) -> VGG19 | MobileNetV2 | None:
    """The network of the features on the device; None if no term of the loss needs it.

    Raises UserError if its weights are missing.
    """
    if args.variant == "image":
        layers = args.losses["perceptual"]["vgg_feat_weights"][1:]  # 0: the image itself
        needed = "perceptual" in term_weights(args, LAST) and any(layers)
    else:
        used = zip(args.feature_layers, args.feature_weights, args.gram_weights, strict=True)
        needed = any(layer != "input_1" and (f or g) for layer, f, g in used)
    if not needed:
        return None
    family = "torchvision" if args.variant == "image" else "caffe"
    load = partial(load_features, args.perceptual, args.vgg_weights, family)
    if args.vgg_download:  # on rank 0, before the other ranks look for the file
        run.ranks.on_main(lambda: load(download=True) and None)
    net = load()
    run.print(f"perceptual loss: {net.description}")
    return precision.place(net)


def loss_of(
    args: options.Namespace,
    net: VGG19 | MobileNetV2 | None,
    out: VUNetOutput,
    target: Tensor,
    mask: Tensor | None,
    step: int,
    end: int,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a batch, a scalar, and its terms by name.

    net     as `open_vgg` returned it
    out     of a pass in mode "train"
    target  (N, 3, S, S) in [-1, 1]
    mask    (N, S, S) bool, the person: other pixels have the weight `background_weight`; None: all
            pixels count the same
    end     step at which training ends
    """
    posterior, prior = out.posterior, out.prior
    assert posterior is not None  # only mode "sample" has none
    if mask is not None:  # |w y - w t| = w |y - t|
        weight = torch.where(mask[:, None], 1.0, args.background_weight)
        out, target = out._replace(image=out.image * weight), target * weight
    if args.variant == "image":
        # The KL is always a term. Otherwise the prior would get no gradient in some steps, which
        # ranks that average gradients do not allow.
        factors = {"KL": 0.0, **term_weights(args, step)}
        layers = args.losses["perceptual"]["vgg_feat_weights"]
        return losses.image_losses(out.image, target, posterior, prior, factors, net, layers)
    return losses.parts_losses(
        out.image,
        target,
        posterior,
        prior,
        kl_factor(args, step, end),
        net,
        args.feature_layers,
        args.feature_weights,
        args.gram_weights,
        args.texture_weight,
    )
