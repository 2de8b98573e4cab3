"""Landmarks and head avatars from files of the published layout: the same numbers, whole passes."""

import zlib

import pytest
import torch
import torch.nn.functional as F

import published_bilayer as published
from nets import bilayer, landmarks
from nets import published as originals
from published_landmarks import Landmarks

LANDMARKS = {"n_landmarks": 4, "n_filters": 5, "ngc": 8, "nsf": 2, "naf": 6, "fixed_covar": 0.03}
HEADS = {
    "image_size": 32, "emb_num_channels": 8, "emb_max_channels": 16, "pse_num_channels": 16,
    "tex_num_channels": 8, "tex_max_channels": 16, "inf_num_channels": 4, "inf_max_channels": 8,
    "dis_num_channels": 8, "dis_max_channels": 16, "dis_num_blocks": 3, "enh_num_channels": 8,
    "enh_max_channels": 8, "enh_bottleneck_tensor_size": 16, "enh_num_blocks": 2,
    "enh_unrolling_depth": 3, "emb_apply_masks": True,
}  # fmt: skip


def filled(state):
    """Every tensor from its name alone, of a size that keeps activations near 1."""
    out = {}
    for name, like in state.items():
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        value, leaf = torch.randn(like.shape, generator=generator), name.rpartition(".")[2]
        if leaf in ("identity_grid", "num_batches_tracked"):
            value = like.clone()
        elif leaf == "running_var" or (leaf == "weight" and like.ndim == 1):
            value = 0.5 + value.abs()
        elif leaf.startswith("weight") and like.ndim > 1:
            value = value / like[0].numel() ** 0.5
        elif like.ndim < 4 and not leaf.startswith("weight"):
            value = value / 10
        out[name] = value
    for name in [name for name in out if name.endswith("weight_orig")]:
        matrix, u = out[name].flatten(1), out[name[:-4] + "u"]
        for _ in range(3):
            v = F.normalize(matrix.t() @ u, dim=0)
            u = F.normalize(matrix @ v, dim=0)
        out[name[:-4] + "u"], out[name[:-4] + "v"] = u, v
    return out


def images(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(*shape[:2], 4, 4, generator=generator, dtype=torch.float64)
    return F.interpolate(coarse, size=shape[2:], mode="bilinear") * 2 - 1


def near(mine, theirs, what, tolerance=1e-5):  # in float64, but for masks and what is drawn
    assert mine.shape == theirs.shape and mine.dtype != torch.float16, what
    assert (mine - theirs).abs().max() <= tolerance * theirs.abs().max(), what


@pytest.mark.parametrize(
    "masks, fixed", [("", None), ("", 0.03), ("masks", None), ("low", 0.03)], ids=str
)
def test_landmarks_give_the_same_numbers(tmp_path, masks, fixed):
    options = {
        **LANDMARKS, "use_fg_bg_mask": masks != "", "low_res_mask": masks == "low",
        "use_identity_covariance": fixed is not None,
    }  # fmt: skip
    state = filled(landmarks.build(options).state_dict())
    torch.save(state, tmp_path / "checkpoint_6.ckpt")
    said = f"fixed_covar: 0.03\nimg_size: 48\nuse_identity_covariance: {fixed is not None}\n"
    (tmp_path / "opt.yaml").write_text(said)
    net, _ = originals.load("landmarks", tmp_path / "checkpoint_6.ckpt")
    a, b = images(2, 3, 48, 48), images(2, 3, 48, 48, seed=1)
    with torch.no_grad():
        theirs = Landmarks(state, fixed, masks == "low")(a, b)
        plain = Landmarks(state, fixed, masks == "low", torch.float32)
        # One run is a noisy sample of what rounding does: others have inputs of another last bit.
        runs = [plain(*(x.float() * (1 + 1e-7 * k) for x in (a, b))) for k in (0, 1, -1)]
        short, mine = net(a.float(), b.float()), net.double()(a, b)
    for name, value in theirs.items():
        near(getattr(mine, name), value, name)
        # Instance norms over nearly constant maps amplify rounding, by how much depends on the
        # processor. So float32 is held against what stock torch loses in float32 here.
        lost = max((run[name] - value).abs().max() for run in runs) / value.abs().max()
        near(getattr(short, name), value, name, max(4 * lost, 1e-5))
    assert theirs["means"].std() > 1e-3 and theirs["reconstruction"].std() > 0.1


def heads(folder, change=lambda name, state: state, **options):
    """Writes an experiment; the model as it is read, and a `Net` of every file."""
    model = bilayer.build({**HEADS, **options}, bilayer.NETWORKS)
    (folder / "checkpoints").mkdir(parents=True)
    nets = {}
    for name in bilayer.NETWORKS:
        state = filled(getattr(model, name).state_dict())
        nets[name] = published.Net(state)
        torch.save(change(name, state), folder / f"checkpoints/40_{name}.pth")
    lines = {"inf_apply_masks": False, "enh_apply_masks": False, "enh_unrolling_depth": 3}
    (folder / "args.txt").write_text("".join(f"{k}: {v}\n" for k, v in lines.items()))
    return originals.load("bilayer", folder, networks=bilayer.NETWORKS), nets


def textures(net, nets):
    """Ours and the published one of two identities with two images each, and the embeddings."""
    sources, stickmen = images(4, 3, 32, 32), images(4, 3, 32, 32, seed=1)
    masks = images(4, 1, 32, 32, seed=2) / 2 + 0.5
    given = [t.unflatten(0, (2, 2)) for t in (sources, stickmen, masks)]
    avatar = net.create_avatar(given[0], None, given[1], given[2])
    embeds = published.embed(nets["identity_embedder"], *given)
    return avatar, embeds, published.texture(nets["texture_generator"], embeds, (8, 16), (8, 16))


@torch.no_grad()
def test_heads_give_the_same_numbers(tmp_path):
    (net, _), nets = heads(tmp_path / "run")
    net.double()
    avatar, embeds, texture = textures(net, nets)
    near(avatar.texture, texture, "texture")
    generator = torch.Generator().manual_seed(3)
    poses = torch.rand(2, 3, 136, generator=generator, dtype=torch.float64) * 2 - 1
    pose = published.embed_pose(nets["keypoints_embedder"], poses.flatten(0, 1)).view(6, 8, 4, 4)
    more = (nets["inference_generator"], embeds, pose, texture, (4, 8), (8, 16))
    low, high, uvs, mask = published.infer(*more)
    frames = net.drive(avatar, poses)
    for name, value in (("low_frequency", low), ("high_frequency", high), ("uvs", uvs),
                        ("mask", mask), ("image", low + high)):  # fmt: skip
        near(getattr(frames, name).flatten(0, 1), value, name)

    one = avatar._replace(images=avatar.images[:, :1], poses=poses[:, :1])
    low, _, uvs, mask = (t[::3] for t in (low, high, uvs, mask))
    more = (texture, one.images[:, 0], uvs, low, mask, 3)
    near(net.enhance(one).texture, published.enhance(nets["texture_enhancer"], *more), "enhanced")

    x = torch.cat([frames.image.flatten(0, 1), images(6, 3, 32, 32, seed=4)], 1)
    scores, feats = published.judge(nets["discriminator"], x, 2)
    mine = net.discriminator(x)
    for place, (a, b) in enumerate(zip([mine[0], *mine[1]], [scores, *feats], strict=True)):
        near(a, b, f"discriminator {place}")


@torch.no_grad()
@pytest.mark.parametrize("kind", ["fixed", "adaptive_original"])
def test_pixel_biases_are_known_by_their_place(tmp_path, kind):
    """The published program predicts an adaptive bias and adds it as it was."""

    def renamed(name, state):
        if name != "texture_generator":
            return state
        for i in range(3):
            for place in ("block_feats.4", "block.1"):
                at = f"gen_tex.blocks.{i}.{place}"
                state = {k.replace(f"{at}.bias", f"{at}.anything"): v for k, v in state.items()}
        return state

    (net, options), nets = heads(tmp_path / "run", renamed, tex_pixelwise_bias_type=kind)
    assert options["tex_pixelwise_bias_type"] == kind
    if kind == "fixed":
        avatar, _, texture = textures(net.double(), nets)
        near(avatar.texture, texture, "texture")
    else:
        sets = nets["texture_generator"].count("prj_tex.fc_blocks.0.")
        assert sets == 7 and net.texture_generator.gen_tex.sets == 7 * 3
