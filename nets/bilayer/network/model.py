"""Bilayer head avatars: six networks, and a forward pass through some of them.

Zakharov, Ivakhnenko, Shysheya, Lempitsky, "Fast Bi-layer Neural Synthesis of One-Shot Realistic
Head Avatars", ECCV 2020 (arXiv 2008.10174). An identity's texture is generated once. For each
frame, a small generator predicts a low-frequency image, offsets into the texture and a mask:

    image = low frequency + texture(grid + offsets)

Tests compare parameter counts, keys and shapes with those of the published checkpoints. They also
compare avatars, frames, enhanced textures and scores with tests/published/published_bilayer.py,
which is written from their description alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nets.bilayer.defaults import DEFAULTS, NETWORKS, network_names
from nets.bilayer.network.encoders import Discriminator, IdentityEmbedder, KeypointsEmbedder
from nets.bilayer.network.enhancer import TextureEnhancer
from nets.bilayer.network.generators import InferenceGenerator, TextureGenerator
from nets.bilayer.network.layers import Pair
from nets.ops import uv_sample
from nets.spectral import spectral_layers

Data = dict[str, Tensor | list[Tensor]]  # published name -> value; see `Bilayer.forward`


class Bilayer(nn.Module):
    """The networks, as attributes by their names. `forward` runs a training or test pass.

    `train()` puts only the trained networks into training mode: those of `networks_to_train` that
    are not frozen. A network that is not listed there runs without gradients. A frozen network
    passes gradients on to its inputs.

    Images are masked once. With published_masking they are masked by inf_apply_masks, then again by
    enh_apply_masks; the enhanced image is the sum of a masked and an unmasked layer before that.
    """

    identity_embedder: IdentityEmbedder  # each of them only if `names` lists it
    texture_generator: TextureGenerator
    keypoints_embedder: KeypointsEmbedder
    inference_generator: InferenceGenerator
    texture_enhancer: TextureEnhancer
    discriminator: Discriminator

    def __init__(self, networks: Mapping[str, nn.Module], options: Mapping[str, Any]):
        super().__init__()
        self.options = {**DEFAULTS, **options}
        self.names = [name for name in NETWORKS if name in networks]
        for name in self.names:
            setattr(self, name, networks[name])
        self.trained = network_names(self.options, "networks_to_train")
        self.frozen = network_names(self.options, "frozen_networks")
        self._freeze()
        self.train()

    def _freeze(self) -> None:
        """Set which parameters are trained."""
        for name in self.names:
            frozen = name in self.frozen
            getattr(self, name).requires_grad_(name in self.trained and not frozen)
            if frozen and name in self.trained:
                for part in self._released(name):
                    part.requires_grad_(True)

    def _released(self, name: str) -> list[nn.Module]:
        """The parts of a frozen generator that are trained nevertheless."""
        if not self.options.get(f"unfreeze_{name}_last_layers"):
            return []
        net = getattr(self, name)
        generator, projector = (
            (net.gen_tex, net.prj_tex) if hasattr(net, "gen_tex") else (net.gen_inf, net.prj_inf)
        )
        return [projector, generator.heads, *generator.blocks[-2:]]

    def train(self, mode: bool = True) -> Bilayer:
        """Set the mode of the trained networks; the others stay in evaluation mode."""
        self.training = mode
        for name in self.names:
            net = getattr(self, name)
            net.train(mode and name in self.trained and name not in self.frozen)
            if mode and name in self.trained and name in self.frozen:
                for part in self._released(name):
                    for layer in spectral_layers(part):  # trained weights need updated norms
                        layer.train()
        return self

    def forward(self, batch: Mapping[str, Tensor], networks: Sequence[str] | None = None) -> Data:
        """The batch and the results of the networks, by the published names.

        batch     source_imgs (b, n, 3, S, S) in [-1, 1], source_poses (b, n, 2 K) in [-1, 1],
                  source_segs (b, n, 1, S, S) in [0, 1], source_stickmen (b, n, 3, S, S). The same
                  four with target_ and t frames. Entries that no network reads may be absent
        networks  to run, in this order; default: all, in the order of `NETWORKS`
        returns   tensors; lists of tensors for source_idt_embeds, real_feats_gen, fake_feats_gen.
                  target_imgs is masked if the options say so; target_imgs_unmasked is not.
                  The discriminator is trained by real_scores and fake_scores_dis. Gradients of
                  fake_scores_gen and fake_feats_gen reach the generators, not its parameters
        Raises ValueError on a network that this model lacks, and on a missing entry.
        """
        data: Data = {**batch}
        for name in self.names if networks is None else networks:
            if name not in self.names:
                raise ValueError(f"bilayer: the network {name!r} is not part of this model")
            with self._gradients(name):
                getattr(self, f"_run_{name}")(data)
        return data

    def _gradients(self, name: str) -> contextlib.AbstractContextManager[None]:
        """A context without gradients, unless the network needs them."""
        expected = name in self.trained or (
            name == "discriminator"  # its gradients train the generators
            or (name == "inference_generator" and self.options["inf_calc_grad"])
        )
        return contextlib.nullcontext() if expected else torch.no_grad()

    def _run_identity_embedder(self, data: Data) -> None:
        net, options = self.identity_embedder, self.options
        masks = _need(data, "source_segs") if options["emb_apply_masks"] else None
        stickmen = _need(data, "source_stickmen") if net.stickman else None
        images = _need(data, "source_imgs")
        data["source_idt_embeds"] = net(images, stickmen, masks, self.source_frames(images))

    def source_frames(self, images: Tensor) -> int:
        """The argument `frames` of `IdentityEmbedder.forward` for (b, n, 3, S, S) images."""
        return 1 if self.options["num_source_frames"] == 1 else images.shape[1]

    def _run_texture_generator(self, data: Data) -> None:
        embeds = _embeds(data)
        data["pred_tex_hf_rgbs"] = self.texture_generator(embeds)[:, None]

    def _run_keypoints_embedder(self, data: Data) -> None:
        data["target_pose_embeds"] = self.keypoints_embedder(_need(data, "target_poses"))
        if self.options["pse_emb_source_pose"]:
            data["source_pose_embeds"] = self.keypoints_embedder(_need(data, "source_poses"))

    def _run_inference_generator(self, data: Data) -> None:
        net, options = self.inference_generator, self.options
        texture = _need(data, "pred_tex_hf_rgbs").flatten(0, 1)
        poses = _need(data, "target_pose_embeds")
        pairs = net.prj_inf(_embeds(data))
        b, t = poses.shape[:2]
        delta, low, logits = net(poses.flatten(0, 1), pairs)
        high = uv_sample(texture, delta)
        generated = {
            "pred_target_uvs": net.uvs(delta),
            "pred_target_delta_uvs": delta,
            "pred_target_delta_lf_rgbs": low,
            "pred_target_delta_hf_rgbs": high,
            "pred_target_imgs": low + high,
            "pred_target_imgs_lf_detached": low.detach() + high,
        }
        if logits is not None:
            generated["pred_target_segs_logits"] = logits
            generated["pred_target_segs"] = logits.sigmoid()
        data.update({name: value.unflatten(0, (b, t)) for name, value in generated.items()})
        if "target_imgs" in data:
            data["target_imgs_unmasked"] = data["target_imgs"]
        data["pred_target_unmasked_lf_rgbs"] = data["pred_target_delta_lf_rgbs"]
        masked = options["inf_apply_masks"] or "source_background" in data
        if masked and logits is not None:
            names = ("target_imgs", "pred_target_imgs", "pred_target_imgs_lf_detached")
            _mask(data, (*names, "pred_target_delta_lf_rgbs"))
        if options["inf_pred_source_data"]:
            sources = _need(data, "source_pose_embeds")
            b, n = sources.shape[:2]
            delta, low, logits = net(sources.flatten(0, 1), pairs)
            data["pred_source_delta_uvs"] = delta.unflatten(0, (b, n))
            data["pred_source_uvs"] = net.uvs(delta).unflatten(0, (b, n))
            data["pred_source_delta_lf_rgbs"] = low.unflatten(0, (b, n))
            if logits is not None:
                data["pred_source_segs"] = logits.sigmoid().unflatten(0, (b, n))

    def _run_texture_enhancer(self, data: Data) -> None:
        images = _need(data, "source_imgs")
        texture = _need(data, "pred_tex_hf_rgbs")[:, 0]
        names = ("pred_source_delta_uvs", "pred_source_delta_lf_rgbs", "pred_target_delta_uvs")
        delta, low, target_delta = (_need(data, name) for name in names)
        published = self.options["published_masking"]
        kept = "pred_target_delta_lf_rgbs" if published else "pred_target_unmasked_lf_rgbs"
        target_low = _need(data, kept)
        masks = _need(data, "pred_source_segs") if "pred_source_segs" in data else None
        if self.options["enh_detach_inputs"]:
            inputs = (texture, delta, low, target_delta, target_low)
            texture, delta, low, target_delta, target_low = (t.detach() for t in inputs)
            masks = None if masks is None else masks.detach()
        frames = self.source_frames(images)
        texture = self.texture_enhancer(texture, images, delta, low, masks, frames)
        b, t = target_delta.shape[:2]
        high = uv_sample(texture, target_delta.flatten(0, 1)).unflatten(0, (b, t))
        data["pred_enh_tex_hf_rgbs"] = texture[:, None].expand(-1, t, -1, -1, -1)
        data["pred_enh_target_delta_hf_rgbs"] = high
        data["pred_enh_target_imgs"] = target_low + high
        data["pred_enh_target_imgs_lf_detached"] = target_low.detach() + high
        if published:
            names = ("pred_target_imgs", "target_imgs", "pred_enh_target_imgs")
            if "pred_target_segs" in data and self.options["enh_apply_masks"]:
                _mask(data, (*names, "pred_enh_target_imgs_lf_detached"))
            return
        # The enhanced image is the sum of unmasked layers. Either flag masks it, once.
        done = self.options["inf_apply_masks"] or "source_background" in data
        if "pred_target_segs" in data and (done or self.options["enh_apply_masks"]):
            _mask(data, ("pred_enh_target_imgs", "pred_enh_target_imgs_lf_detached"))
            if not done:
                _mask(data, ("pred_target_imgs", "target_imgs"))

    def _run_discriminator(self, data: Data) -> None:
        net, options = self.discriminator, self.options
        fake = _need(data, options["dis_fake_imgs_name"]).flatten(0, 1)
        real = _need(data, "target_imgs").flatten(0, 1).to(fake.dtype)
        rows = len(real)
        stickmen = None
        if not options["dis_no_stickman"]:
            stickmen = (
                _need(data, "target_stickmen").flatten(0, 1).to(fake.dtype).repeat(2, 1, 1, 1)
            )

        def images(fake: Tensor) -> Tensor:
            both = torch.cat([real, fake])
            return both if stickmen is None else torch.cat([both, stickmen], dim=1)

        trained = "discriminator" in self.trained
        with contextlib.nullcontext() if trained else torch.no_grad():
            scores, _ = net(images(fake.detach()))
        data["real_scores"], data["fake_scores_dis"] = scores[:rows], scores[rows:]
        # With constant parameters, the losses of this pass train the generators only.
        constants = {name: p.detach() for name, p in net.named_parameters()}
        scores, feats = torch.func.functional_call(net, constants, (images(fake),))
        data["fake_scores_gen"] = scores[rows:]
        data["real_feats_gen"] = [f[:rows] for f in feats]
        data["fake_feats_gen"] = [f[rows:] for f in feats]

    def create_avatar(
        self,
        source_image: Tensor,
        source_pose: Tensor | None = None,
        source_stickman: Tensor | None = None,
        source_mask: Tensor | None = None,
    ) -> Avatar:
        """The avatars of identities: `nets.bilayer.network.model.create_avatar`."""
        return create_avatar(self, source_image, source_pose, source_stickman, source_mask)

    def drive(self, avatar: Avatar, target_pose: Tensor, masked: bool = False) -> AvatarFrames:
        """Frames of avatars: `nets.bilayer.network.model.drive`."""
        return drive(self, avatar, target_pose, masked)

    def enhance(self, avatar: Avatar) -> Avatar:
        """The avatars with enhanced textures: `nets.bilayer.network.model.enhance`."""
        return enhance(self, avatar)

    def trainable(self) -> Iterator[tuple[str, list[nn.Parameter]]]:
        """Each network that is trained, and its parameters that are not frozen."""
        for name in self.names:
            parameters = [p for p in getattr(self, name).parameters() if p.requires_grad]
            if parameters:
                yield name, parameters


def _need(data: Data, name: str) -> Tensor:
    """An entry of a pass. Raises ValueError if it is missing, or no tensor."""
    value = _entry(data, name)
    if not isinstance(value, Tensor):
        raise ValueError(f"bilayer: {name} must be a tensor, is a list of {len(value)}")
    return value


def _embeds(data: Data) -> list[Tensor]:
    """The embeddings of the sources. Raises ValueError if they are missing, or no list."""
    value = _entry(data, "source_idt_embeds")
    if isinstance(value, Tensor):
        raise ValueError("bilayer: source_idt_embeds must be a list of tensors, is a tensor")
    return value


def _entry(data: Data, name: str) -> Tensor | list[Tensor]:
    if name not in data:
        raise ValueError(
            f"bilayer: {name} is missing: the batch has none, and no network that ran returns it"
        )
    return data[name]


def _mask(data: Data, names: Sequence[str]) -> None:
    """Replace images x by x m + y (1 - m), where m is the predicted mask as a constant.

    The background y is -1, or the pass's source_background.
    """
    mask = _need(data, "pred_target_segs").detach()
    behind = 1 - mask
    if "source_background" in data:
        behind = -_need(data, "source_background")[:, None] * behind
    for name in names:
        if name in data:
            data[name] = _need(data, name) * mask - behind


@torch.no_grad()
def standing_statistics(
    model: Bilayer, batches: Iterable[Mapping[str, Tensor]], networks: Sequence[str]
) -> int:
    """Set the running statistics of BatchNorm to their means over batches; returns their number.

    networks  to run, in this order; their statistics are set

    BatchNorm's momentum is 1 in these networks, so its buffers hold the last batch only. Everything
    else runs in evaluation mode, spectral norms included. Modes and momenta are restored at the
    end. Without any batch nothing changes.
    """
    training = model.training
    model.eval()
    norms = [
        m for name in networks for m in getattr(model, name).modules() if isinstance(m, _BatchNorm)
    ]
    momenta = [norm.momentum for norm in norms]
    count = 0
    try:
        for batch in batches:
            if count == 0:
                for norm in norms:
                    norm.reset_running_stats()
                    norm.momentum = None  # the arithmetic mean
                    nn.Module.train(norm)
            model(batch, networks)
            count += 1
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        model.train(training)
    return count


class Avatar(NamedTuple):
    """The avatars of b identities, as tensors.

    texture  (b, 3, S, S); in [-1, 1] unless enhanced
    pairs    parameters of the inference generator's adaptive layers, (b, ...) each
    images   (b, n, 3, S, S), the source images, for `enhance`
    poses    (b, n, 2 K), the poses of the sources, for `enhance`; None if they were not given
    background  (b, 3, S, S), put behind the frames by the predicted mask; None: none
    """

    texture: Tensor
    pairs: list[Pair]
    images: Tensor
    poses: Tensor | None
    background: Tensor | None = None

    def rows(self, chosen: slice) -> Avatar:
        """The avatars of some of the identities."""
        poses = None if self.poses is None else self.poses[chosen]
        pairs = [(weight[chosen], bias[chosen]) for weight, bias in self.pairs]
        behind = None if self.background is None else self.background[chosen]
        return Avatar(self.texture[chosen], pairs, self.images[chosen], poses, behind)


class AvatarFrames(NamedTuple):
    """Frames of avatars and their layers; the leading dimensions are those of the poses.

    image           (..., 3, S, S): low_frequency + high_frequency, masked on request; may leave
                    [-1, 1]
    mask            (..., 1, S, S) in [0, 1], the foreground; None if the network predicts no mask
    uvs             (..., S, S, 2), places (x, y) in the texture [-1, 1], pixel centres
    low_frequency   (..., 3, S, S) in [-1, 1]
    high_frequency  (..., 3, S, S), sampled from the texture
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
    """The avatars of b identities, from one or several images of each.

    source_image     (b, n, 3, S, S) in [-1, 1], or (b, 3, S, S) for n = 1, or (3, S, S). The
                     embeddings of an identity's n images are averaged
    source_pose      (b, n, 2 K) in [-1, 1], or without n or b; only `enhance` needs it
    source_stickman  like source_image; may be None if the network takes no stick figures
    source_mask      like source_image with one channel, in [0, 1]: the foreground. May be None if
                     the network does not mask its sources
    Raises ValueError on a shape that does not fit, and unless the model is in evaluation mode.
    """
    _evaluating(model)
    images = _leading(source_image, 5)
    data = {"source_imgs": images}
    for name, value in (("source_stickmen", source_stickman), ("source_segs", source_mask)):
        if value is not None:
            data[name] = _leading(value, 5)
            if data[name].shape[:2] != images.shape[:2]:
                raise ValueError(
                    f"create_avatar: {name} must be {list(images.shape[:2])} images, "
                    f"got {list(data[name].shape[:2])}"
                )
    generated = model(data, ["identity_embedder", "texture_generator"])
    pairs = model.inference_generator.prj_inf(generated["source_idt_embeds"])
    poses = None if source_pose is None else _leading(source_pose, 3)
    return Avatar(generated["pred_tex_hf_rgbs"][:, 0], pairs, images, poses)


@torch.no_grad()
def drive(
    model: Bilayer, avatar: Avatar, target_pose: Tensor, masked: bool = False
) -> AvatarFrames:
    """Frames of avatars in poses.

    target_pose  (b, t, 2 K) in [-1, 1]; or (N, 2 K) with N / b consecutive poses per identity; or
                 (2 K,)
    masked       put the image on a background of -1 by its predicted mask
    Raises ValueError if the poses cannot be divided among the identities, on `masked` without a
    predicted mask, and unless the model is in evaluation mode.
    """
    _evaluating(model)
    lead = target_pose.shape[:-1]
    b = avatar.texture.shape[0]
    poses = target_pose.reshape(-1, target_pose.shape[-1])
    n = poses.shape[0]  # `len` would be a constant to torch.export
    if n % b or (target_pose.ndim == 3 and target_pose.shape[0] != b):
        raise ValueError(f"drive: {list(lead)} poses cannot be divided among {b} identities")
    net = model.inference_generator
    embeds = model.keypoints_embedder(poses[None])[0]
    delta, low, logits = net(embeds, avatar.pairs)
    high = uv_sample(avatar.texture, delta)
    image, mask = low + high, None if logits is None else logits.sigmoid()
    if masked:
        if mask is None:
            raise ValueError("drive: this network predicts no mask")
        image = image * mask - (1 - mask)
    elif avatar.background is not None and mask is not None:
        behind = avatar.background.repeat_interleave(n // b, 0)
        image = image * mask + behind * (1 - mask)

    def shaped(x: Tensor) -> Tensor:
        return x.reshape(*lead, *x.shape[1:])

    mask = None if mask is None else shaped(mask)
    return AvatarFrames(shaped(image), mask, shaped(net.uvs(delta)), shaped(low), shaped(high))


@torch.no_grad()
def enhance(model: Bilayer, avatar: Avatar) -> Avatar:
    """The avatars with textures that the enhancer fitted to their sources.

    Raises ValueError if an avatar has no source poses, and unless the model is in evaluation mode.
    """
    _evaluating(model)
    if avatar.poses is None:
        raise ValueError("enhance: the avatar was created without source_pose")
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
    """Raise ValueError unless the model is in evaluation mode."""
    if model.training:
        raise ValueError("bilayer: avatars need the model in evaluation mode: model.eval()")


def _leading(value: Tensor, ndim: int) -> Tensor:
    """`value` with the dimensions n and b added where they are missing, n first."""
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
