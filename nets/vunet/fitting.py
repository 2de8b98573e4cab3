"""A VUNet fitted to one person's image by gradient descent.

A network that was trained on few people, or on drawn ones, gives the person of a photograph the
colours and the background that it knows. `fit` trains its decoder a little further, on that one
image in its own pose, shifted, turned, resized and mirrored. The encoders stay as they are.

It is the fine-tuning of Zakharov, Shysheya, Burkov, Lempitsky, "Few-Shot Adversarial Learning of
Realistic Neural Talking Head Models", ICCV 2019, section 3.3, without an adversary.
"""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from nets.data.clips import augment
from nets.layers import signed
from nets.run.precision import Precision
from nets.run.seeds import generator
from nets.vunet import VUNet
from nets.vunet.data import PersonInputs

VIEWS = 2  # of the image in a step: as it is, and one that `augment` moves and perhaps mirrors
RATE = 1e-3  # of Adam at the start; falls to 0 by a cosine


def fit(
    net: VUNet,
    inputs: PersonInputs,
    image: Tensor,
    joints: Tensor,
    steps: int,
    precision: Precision,
) -> VUNet:
    """The network with a decoder of its own for one person; the other parts are shared with `net`.

    image   (3 or 4, S, S) uint8, joints (J, 2) in its pixels, NaN where unknown
    Always the same result for the same input.
    """
    fitted = copy.copy(net)
    fitted._modules = {**net._modules, "decoder": copy.deepcopy(net.decoder)}
    weights = [p.requires_grad_(True) for p in fitted.decoder.parameters()]
    optimizer = torch.optim.Adam(weights, betas=(0.9, 0.99))
    whole = signed(image[None, :3])
    with torch.no_grad(), precision.autocast():
        latents = net.encode(inputs.appearance(image[None], joints[None]))[1]
    coarse, fine = (z.expand(VIEWS, -1, -1, -1) for z in latents)
    draw, side = generator(0, "fit"), inputs.size
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = RATE * (1 + math.cos(math.pi * step / steps)) / 2
        noise = torch.randn(VIEWS, 4, generator=draw)
        mirrored = torch.rand(VIEWS, generator=draw) < 0.5
        noise[0], mirrored[0] = 0, False
        motion, mirrored = augment.motions(noise.to(image.device)), mirrored.to(image.device)
        target = augment.move_images(whole.expand(VIEWS, -1, -1, -1), motion)
        target = augment.flip_images(target, mirrored)
        places = joints[None] / side * 2 - 1
        points = (augment.move_points(places.expand(VIEWS, -1, -1), motion) + 1) / 2 * side
        points = augment.flip_joints(points, mirrored, side, inputs.joint_order)
        with precision.autocast():
            result = fitted.decode(inputs.pose(points), (coarse, fine))[0]
        loss = F.l1_loss(result.float(), target)
        gradients = torch.autograd.grad(loss, weights, allow_unused=True)
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient
        optimizer.step()
    fitted.decoder.requires_grad_(False)
    return fitted
