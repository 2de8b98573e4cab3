"""Avatars of source images, and their fit to these images by gradient descent.

A network that was trained on few persons, or on drawn ones, does not draw the face of another.
`fit` changes what an avatar holds of its person: the texture, and the parameters of the adaptive
layers. The networks stay as they are, so expressions and turns of the head still come from them.

It is the fine-tuning of Zakharov, Shysheya, Burkov, Lempitsky, "Few-Shot Adversarial Learning of
Realistic Neural Talking Head Models", ICCV 2019, section 3.3, of these tensors alone. The texture
enhancer of the bilayer model learns to do in four steps what plain descent does here in many.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from nets.bilayer.network.model import Avatar, Bilayer, enhance
from nets.bilayer.warm_start import Loaded
from nets.data.clips import augment
from nets.ops import uv_sample
from nets.run.seeds import generator

VIEWS = 2  # of an identity's sources in a step: as it is; shifted, turned and resized
RATES = {"texture": 1e-2, "adaptive": 5e-3}  # of Adam at the start; fall to 0 by a cosine
LOW, MASK = 0.2, 0.1  # weights of the low-frequency image and of the mask, beside 1 of the image
OUTSIDE = 0.2  # weight of a pixel outside of the person, whose pixels have 1


def avatars_of(
    model: Loaded, data: Mapping[str, Tensor], fit_steps: int = 0, enhanced: bool | None = None
) -> Avatar:
    """The avatars of a batch's sources, in evaluation mode.

    data       as `nets.bilayer.data.prepare` returns it: source_imgs, source_poses and others
    fit_steps  of `fit`; 0: none
    enhanced   run the texture enhancer, before the fit; default: if the checkpoint has one
    """
    with torch.no_grad():
        avatar = model.net.create_avatar(
            data["source_imgs"],
            data["source_poses"],
            data.get("source_stickmen"),
            data.get("source_segs"),
        )._replace(background=data.get("source_background"))
        if enhanced or (enhanced is None and "texture_enhancer" in model.net.names):
            avatar = enhance(model.net, avatar)
    if not fit_steps:
        return avatar
    with model.precision.autocast():
        return fit(model.net, avatar, fit_steps, data.get("source_segs"))


@torch.enable_grad()
def fit(model: Bilayer, avatar: Avatar, steps: int, masks: Tensor | None = None) -> Avatar:
    """The avatars after `steps` steps towards their own source images; always the same result.

    masks  (b, n, 1, S, S) in [0, 1], the foreground of the n sources; None: all pixels count alike,
           and predicted masks stay free
    Raises ValueError if an avatar has no source poses, and unless the model is in evaluation mode.
    """
    if model.training:
        raise ValueError("fit: the model must be in evaluation mode; call model.eval()")
    if avatar.poses is None:
        raise ValueError("fit: the avatar was created without source_pose")
    sources = avatar.images.detach().float()
    b, n = sources.shape[:2]
    texture = _leaf(avatar.texture)
    pairs = [(_leaf(weight), _leaf(bias)) for weight, bias in avatar.pairs]
    adaptive = [tensor for pair in pairs for tensor in pair]
    optimizer = torch.optim.Adam([
        {"params": [texture], "rate": RATES["texture"]},
        {"params": adaptive, "rate": RATES["adaptive"]},
    ], betas=(0.9, 0.99))  # fmt: skip
    weights = torch.ones_like(sources[:, :, :1])
    if masks is not None:
        weights = OUTSIDE + (1 - OUTSIDE) * masks.float()
    layers = torch.cat([sources, weights, weights if masks is None else masks.float()], 2)
    draw = generator(0, "fit")
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = group["rate"] * (1 + math.cos(math.pi * step / steps)) / 2
        chosen = [(step * VIEWS + view) % n for view in range(VIEWS)]
        noise = torch.randn(VIEWS, 4, generator=draw).to(sources.device)
        noise[0] = 0
        poses, motion = jittered(avatar.poses[:, chosen].flatten(0, 1), noise.repeat(b, 1))
        seen = augment.move_images(layers[:, chosen].flatten(0, 1), motion)
        image, weight, mask = seen[:, :3], seen[:, 3:4], seen[:, 4:]
        with torch.no_grad():
            embeds = model.keypoints_embedder(poses[None])[0]
        delta, low, logits = model.inference_generator(embeds, pairs)
        low = low.float()
        both = torch.stack([low + uv_sample(texture, delta), low])
        off = ((both - image).abs() * weight).mean((1, 2, 3, 4)) / weight.mean()
        loss = off[0] + LOW * off[1]
        if masks is not None and logits is not None:
            loss = loss + MASK * F.binary_cross_entropy_with_logits(logits.float(), mask)
        gradients = torch.autograd.grad(loss, [texture, *adaptive])
        for tensor, gradient in zip([texture, *adaptive], gradients, strict=True):
            tensor.grad = gradient
        optimizer.step()
    fitted = [(weight.detach(), bias.detach()) for weight, bias in pairs]
    return avatar._replace(texture=texture.detach(), pairs=fitted)


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().float().clone().requires_grad_(True)


def jittered(poses: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Poses (N, 2 K) with a shift, a turn and another size about their centre; and the motions.

    noise  (N, 4), standard normal; see `nets.data.clips.augment.motions`
    """
    points = poses.unflatten(1, (-1, 2))
    motion = augment.motions(noise, points.mean(1))
    return augment.move_points(points, motion).flatten(1), motion
