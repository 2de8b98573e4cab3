"""Avatars: created once, driven frame by frame, alone or in a batch, folded or not."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bilayer_tiny import ENHANCED, batch, model
from nets.bilayer import NETWORKS, Driver, Graph
from nets.bilayer.network.driver import four_pixels

BASE = {"inf_apply_masks": False, "enh_apply_masks": False}


def trained_like(net, seed=3):
    """The network in evaluation mode, with statistics and affine parameters as after training."""
    g = torch.Generator().manual_seed(seed)
    for m in net.modules():
        if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d):
            m.running_mean.normal_(generator=g).mul_(0.3)
            m.running_var.uniform_(0.5, 2, generator=g)
            if m.weight is not None:
                m.weight.data.uniform_(0.5, 1.5, generator=g)
                m.bias.data.normal_(generator=g).mul_(0.2)
    return net.eval()


def avatar_of(net, data):
    return net.create_avatar(*(data[f"source_{k}"] for k in ("imgs", "poses", "stickmen", "segs")))


def test_avatar_and_drive_are_the_full_pass():
    net = trained_like(model(**ENHANCED, **BASE))
    data = batch(b=2, n=2, t=3)
    with torch.no_grad():
        full = net(data, NETWORKS[:5])
    avatar = avatar_of(net, data)
    frames = net.drive(avatar, data["target_poses"])
    close = {"atol": 1e-5, "rtol": 1e-5}
    for mine, theirs in (
        (frames.image, "pred_target_imgs"), (frames.mask, "pred_target_segs"),
        (frames.uvs, "pred_target_uvs"), (frames.low_frequency, "pred_target_delta_lf_rgbs"),
        (frames.high_frequency, "pred_target_delta_hf_rgbs"),
        (avatar.texture[:, None], "pred_tex_hf_rgbs"),
    ):  # fmt: skip
        torch.testing.assert_close(mine, full[theirs], **close)
    better = net.enhance(avatar)
    torch.testing.assert_close(better.texture, full["pred_enh_tex_hf_rgbs"][:, 0], **close)
    image = net.drive(better, data["target_poses"]).image
    torch.testing.assert_close(image, full["pred_enh_target_imgs"], **close)
    m = frames.mask
    masked = net.drive(avatar, data["target_poses"], masked=True).image
    torch.testing.assert_close(masked, frames.image * m - (1 - m))


def test_together_is_one_by_one_and_identities_do_not_mix():
    net = trained_like(model(**BASE))
    data = batch(b=3, n=1, t=2)
    whole = avatar_of(net, data)
    together = net.drive(whole, data["target_poses"]).image
    alone = [avatar_of(net, {k: v[i : i + 1] for k, v in data.items()}) for i in range(3)]
    for i in (2, 0, 1):  # created in one order, driven in another
        for k in range(2):
            one = net.drive(alone[i], data["target_poses"][i, k]).image
            torch.testing.assert_close(one, together[i, k], atol=1e-5, rtol=1e-5)
    flat = net.drive(whole, data["target_poses"].flatten(0, 1)).image
    assert torch.equal(flat, together.flatten(0, 1))
    second = net.drive(whole.rows(slice(1, 2)), data["target_poses"][1:2]).image[0]
    torch.testing.assert_close(second, together[1], atol=1e-5, rtol=1e-5)


def test_several_sources_are_averaged():
    net = trained_like(model(**BASE))
    data = batch(b=1, n=3)
    avatar = avatar_of(net, data)
    twice = {k: torch.cat([v, v], 1) if k[0] == "s" else v for k, v in data.items()}
    torch.testing.assert_close(avatar_of(net, twice).texture, avatar.texture, atol=1e-5, rtol=1e-5)
    single = avatar_of(net, {k: v[:, :1] for k, v in data.items()})
    assert (single.texture - avatar.texture).abs().max() > 1e-3


@pytest.mark.parametrize(
    "options",
    [
        {},
        {
            "pse_use_harmonic_enc": True,
            "pse_norm_layer_type": "bn_1d",
            "inf_skip_layer_type": "conv",
        },
        {"inf_norm_layer_type": "bn", "inf_activation_type": "relu"},
        {"inf_norm_layer_type": "ada_none", "inf_pred_segmentation": False},
    ],
    ids=["published", "harmonic, plain skips", "bn, relu", "no batch norm, no mask"],
)
def test_driver_equals_the_full_pass(options):
    if options.get("inf_norm_layer_type") == "ada_none":
        with pytest.raises(ValueError, match="norms everywhere can be folded"):
            net = trained_like(model(**BASE, **options))
            Driver(net, avatar_of(net, batch(b=1)))
        return
    net = trained_like(model(**BASE, **options))
    data = batch(b=1, t=4)
    with torch.no_grad():
        full = net(data, NETWORKS[:4])
    before = {k: v.clone() for k, v in net.state_dict().items()}
    driver = Driver(net, avatar_of(net, data))
    image, mask = driver(data["target_poses"][0])
    torch.testing.assert_close(image, full["pred_target_imgs"][0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(mask, full["pred_target_segs"][0], atol=1e-5, rtol=1e-5)
    cut, _ = Driver(net, avatar_of(net, data), masked=True)(data["target_poses"][0])
    torch.testing.assert_close(cut, image * mask - (1 - mask), atol=1e-5, rtol=1e-5)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())  # not changed


def test_driver_one_by_one_and_in_bfloat16():
    net = trained_like(model(**BASE))
    data = batch(b=1, t=3)
    poses, avatar = data["target_poses"][0], avatar_of(net, data)
    driver = Driver(net, avatar)
    image, mask = driver(poses)
    for k in range(3):
        torch.testing.assert_close(driver(poses[k : k + 1])[0][0], image[k], atol=1e-5, rtol=1e-5)
    half, half_mask = Driver(net, avatar, torch.bfloat16)(poses)
    assert half.dtype == half_mask.dtype == torch.float32
    assert (half - image).abs().mean() < 0.02 and (half_mask - mask).abs().max() < 0.05


def test_four_pixels():
    weight, x = torch.randn(5, 3, 3, 3), torch.randn(2, 3, 4, 6)
    expected = F.conv2d(F.interpolate(x, scale_factor=2), weight, padding=1)
    y = F.conv2d(x, four_pixels(weight), padding=1)
    for k in range(4):
        i, j = k // 2, k % 2
        part = y[:, k * 5 : k * 5 + 5, i : i + 4, j : j + 6]
        torch.testing.assert_close(part, expected[:, :, i::2, j::2])


def test_wrong_calls_are_named():
    net = model(**BASE)
    data = batch(b=2)
    with pytest.raises(ValueError, match="evaluation mode"):
        avatar_of(net, data)
    net.eval()
    avatar = avatar_of(net, data)
    with pytest.raises(ValueError, match=r"\[3\] poses cannot be divided among 2"):
        net.drive(avatar, torch.zeros(3, 136))
    with pytest.raises(ValueError, match="avatar must be one identity, got 2"):
        Driver(net, avatar)
    with pytest.raises(ValueError, match="source_segs is missing"):
        net.create_avatar(data["source_imgs"], None, data["source_stickmen"])
    with pytest.raises(ValueError, match=r"source_segs must be \[2, 1\] images, got \[1, 1\]"):
        net.create_avatar(
            data["source_imgs"], None, data["source_stickmen"], data["source_segs"][:1]
        )
    plain = model(**BASE, inf_norm_layer_type="ada_in").eval()
    with pytest.raises(ValueError, match="InstanceNorm2d cannot be folded"):
        Driver(plain, avatar_of(plain, batch(b=1)))
    with pytest.raises(ValueError, match="created without source_pose"):
        net.enhance(
            net.create_avatar(
                data["source_imgs"], None, data["source_stickmen"], data["source_segs"]
            )
        )


@pytest.mark.gpu
def test_graph_replays_the_driver():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    net = trained_like(model(**BASE)).cuda()
    data = {k: v.cuda() for k, v in batch(b=1, t=4).items()}
    driver = Driver(net, avatar_of(net, data))
    graph = Graph(driver, 2)
    for rows in (slice(0, 2), slice(2, 4), slice(1, 2)):  # the last batch of a video is smaller
        poses = data["target_poses"][0, rows]
        for frame, expected in zip(graph(poses), driver(poses), strict=True):
            torch.testing.assert_close(frame, expected, atol=1e-4, rtol=1e-4)


def test_driver_is_built_as_one_module_of_tensors():
    """All of its tensors are named buffers, so they move with the module."""
    net = trained_like(model(**BASE, pse_use_harmonic_enc=True))
    driver = Driver(net, avatar_of(net, batch(b=1)))
    names = {name.partition(".")[0] for name, _ in driver.named_buffers()}
    assert names == {"texture", "blocks", "heads", "heads_bias", "frequencies"}
    assert not any(p.requires_grad for p in driver.parameters())


def test_driver_compiles_as_one_graph():
    net = trained_like(model(**BASE))
    driver = Driver(net, avatar_of(net, batch(b=1)))
    poses = batch(b=3)["target_poses"][:, 0]
    traced = torch.compile(driver, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(traced(poses), driver(poses), atol=1e-6, rtol=1e-6)
