"""Avatars: what is made once of an identity, and frames of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from nets.bilayer.network.layers import Pair
from nets.ops import uv_sample

if TYPE_CHECKING:
    from nets.bilayer.network.model import Bilayer


class Avatar(NamedTuple):
    """b identities, as tensors that depend on nothing else: any number live side by side.

    texture  (b, 3, S, S); in [-1, 1] unless enhanced
    pairs    what the inference generator's adaptive layers take, (b, ...) each
    images   (b, n, 3, S, S), the sources as given, for `enhance`
    poses    (b, n, 2 K), likewise; None if there were none
    """

    texture: Tensor
    pairs: list[Pair]
    images: Tensor
    poses: Tensor | None

    def rows(self, chosen: slice) -> Avatar:
        """Some of the identities."""
        poses = None if self.poses is None else self.poses[chosen]
        pairs = [(weight[chosen], bias[chosen]) for weight, bias in self.pairs]
        return Avatar(self.texture[chosen], pairs, self.images[chosen], poses)


class Frames(NamedTuple):
    """Pictures of avatars in all their layers; the leading dimensions are those of the poses.

    image           (..., 3, S, S): low_frequency + high_frequency; may leave [-1, 1]. Masked only
                    if that was asked for
    mask            (..., 1, S, S) in [0, 1], the foreground; None if the network predicts none
    uvs             (..., S, S, 2) (x, y) in the texture, pixel centres in the frame [-1, 1]
    low_frequency   (..., 3, S, S) in [-1, 1]
    high_frequency  (..., 3, S, S), what the texture gives
    """

    image: Tensor
    mask: Tensor | None
    uvs: Tensor
    low_frequency: Tensor
    high_frequency: Tensor


@torch.no_grad()
def create_avatar(
    model: Bilayer,
    source_image: Tensor,
    source_pose: Tensor | None = None,
    source_stickman: Tensor | None = None,
    source_mask: Tensor | None = None,
) -> Avatar:
    """The avatars of b identities, from one or several pictures of each.

    source_image     (b, n, 3, S, S) in [-1, 1], or (b, 3, S, S) for n = 1, or (3, S, S); the
                     embeddings of an identity's n pictures are averaged
    source_pose      (b, n, 2 K) in [-1, 1], shortened likewise; only `enhance` needs them
    source_stickman  like source_image; may be None if the network draws on none
    source_mask      like source_image with one channel, in [0, 1]; the foreground. May be None if
                     the network does not mask its sources
    The model must be in evaluation mode.
    """
    _evaluating(model)
    images = _leading(source_image, 5)
    data = {"source_imgs": images}
    for name, value in (("source_stickmen", source_stickman), ("source_segs", source_mask)):
        if value is not None:
            data[name] = _leading(value, 5)
            if data[name].shape[:2] != images.shape[:2]:
                raise ValueError(
                    f"create_avatar: {name} must be {list(images.shape[:2])} pictures, "
                    f"got {list(data[name].shape[:2])}"
                )
    made = model(data, ["identity_embedder", "texture_generator"])
    pairs = model.inference_generator.prj_inf(made["source_idt_embeds"])
    poses = None if source_pose is None else _leading(source_pose, 3)
    return Avatar(made["pred_tex_hf_rgbs"][:, 0], pairs, images, poses)


@torch.no_grad()
def drive(model: Bilayer, avatar: Avatar, target_pose: Tensor, masked: bool = False) -> Frames:
    """Pictures of avatars in poses.

    target_pose  (b, t, 2 K) in [-1, 1]; or (N, 2 K), N / b consecutive ones for each of the b
                 identities; or (2 K,)
    masked       the image on a background of -1 by its predicted mask
    """
    _evaluating(model)
    lead = target_pose.shape[:-1]
    b = len(avatar.texture)
    poses = target_pose.reshape(-1, target_pose.shape[-1])
    if len(poses) % b or (target_pose.ndim == 3 and len(target_pose) != b):
        raise ValueError(f"drive: {list(lead)} poses cannot be shared out among {b} identities")
    net = model.inference_generator
    embeds = model.keypoints_embedder(poses[None])[0]
    delta, low, logits = net(embeds, avatar.pairs)
    high = uv_sample(avatar.texture, delta)
    image, mask = low + high, None if logits is None else logits.sigmoid()
    if masked:
        if mask is None:
            raise ValueError("drive: this network predicts no mask")
        image = image * mask - (1 - mask)
    made = (image, mask, net.uvs(delta), low, high)
    return Frames(*(None if x is None else x.reshape(*lead, *x.shape[1:]) for x in made))


@torch.no_grad()
def enhance(model: Bilayer, avatar: Avatar) -> Avatar:
    """The avatars with textures that the enhancer has fitted to their sources."""
    _evaluating(model)
    if avatar.poses is None:
        raise ValueError("enhance: the avatar was made without source_pose")
    net = model.inference_generator
    b, n = avatar.poses.shape[:2]
    embeds = model.keypoints_embedder(avatar.poses).flatten(0, 1)
    delta, low, logits = net(embeds, avatar.pairs)
    masks = None if logits is None else logits.sigmoid().unflatten(0, (b, n))
    texture = model.texture_enhancer(
        avatar.texture,
        avatar.images,
        delta.unflatten(0, (b, n)),
        low.unflatten(0, (b, n)),
        masks,
        model.source_frames(avatar.images),
    )
    return avatar._replace(texture=texture)


def _evaluating(model: Bilayer) -> None:
    if model.training:
        raise ValueError("bilayer: avatars need the model in evaluation mode: model.eval()")


def _leading(value: Tensor, ndim: int) -> Tensor:
    """Dimensions b and n, where they were left out: n first."""
    if value.ndim == ndim - 1:
        return value[:, None]
    if value.ndim == ndim - 2:
        return value[None, None]
    if value.ndim != ndim:
        raise ValueError(
            f"create_avatar: a source must have {ndim - 2} to {ndim} dimensions, "
            f"got {list(value.shape)}"
        )
    return value
