"""The six networks: sizes, keys, shapes, and the definition of every part."""

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bilayer_tiny import ENHANCED, OPTIONS, batch, model, parameters
from nets.bilayer import NETWORKS, fold
from nets.bilayer.network import build
from nets.bilayer.network.layers import AdaptiveNorm2d, Residual, adaptive_conv
from nets.spectral import Conv, Linear, spectral_layers

PUBLISHED = {
    "identity_embedder": 31_442_304,
    "texture_generator": 55_664_993,
    "keypoints_embedder": 1_219_328,
    "inference_generator": 11_844_068,
    "discriminator": 19_517_633,
    "texture_enhancer": 2_715_331,
}
SPECTRAL = dict(zip(NETWORKS, (31, 103, 4, 69, 24, 19), strict=True))


@pytest.fixture(scope="module")
def full():
    with torch.device("meta"):
        return build({}, NETWORKS)


@pytest.mark.parametrize("name", NETWORKS)
def test_parameters_keys_and_shapes_are_the_published_ones(full, name):
    net = getattr(full, name)
    published = json.loads(Path(__file__).with_name("state_dict.json").read_text())[name]
    assert {k: list(v.shape) for k, v in net.state_dict().items()} == published
    assert parameters(net) == PUBLISHED[name]
    assert len(spectral_layers(net)) == SPECTRAL[name]


def test_parameters_by_part(full):
    assert parameters(full.texture_generator.gen_tex) == 32_541_251
    assert parameters(full.texture_generator.prj_tex) == 23_115_550
    assert parameters(full.inference_generator.gen_inf) == 4_123_782
    assert parameters(full.inference_generator.prj_inf) == 7_720_286


def test_shapes_at_the_published_size(full):
    data = {k: v.to("meta") for k, v in batch(2, 1, 3, 256).items()}
    out = full(data, [n for n in NETWORKS if n != "texture_enhancer"])
    embeds = [tuple(e.shape) for e in out["source_idt_embeds"]]
    assert embeds == [(2, c, 8, 8) for c in (512, 512, 512, 256, 128, 64)]
    assert out["pred_tex_hf_rgbs"].shape == (2, 1, 3, 256, 256)
    assert out["target_pose_embeds"].shape == (2, 3, 256, 4, 4)
    assert out["pred_target_uvs"].shape == (2, 3, 256, 256, 2)
    assert out["pred_target_segs_logits"].shape == (2, 3, 1, 256, 256)
    assert out["real_scores"].shape == out["fake_scores_gen"].shape == (6, 1, 8, 8)
    feats = [(f.shape[1], f.shape[2]) for f in out["fake_feats_gen"]]
    assert feats == [(128, 256), (256, 128), (512, 64), (512, 32), (512, 16), (512, 8)]
    pairs = full.texture_generator.prj_tex(out["source_idt_embeds"])
    assert len(pairs) == 30
    assert [tuple(pairs[i][0].shape) for i in (0, 17, 29)] == [
        (2, 512, 512, 1, 1), (2, 256, 512, 1, 1), (2, 64, 64, 1, 1),
    ]  # fmt: skip
    pairs = full.inference_generator.prj_inf(out["source_idt_embeds"])
    assert [tuple(p[0].shape) for p in pairs[15:]] == [(2, 32), (2, 32, 64, 1, 1), (2, 32)]


def test_spectral_norm_is_torchs():
    ours, theirs = Conv(5, 7, 3, eps=1e-12), nn.Conv2d(5, 7, 3, padding=1)
    theirs = nn.utils.spectral_norm(theirs)
    theirs.load_state_dict(ours.state_dict())
    assert list(ours.state_dict()) == list(theirs.state_dict())
    x = torch.randn(2, 5, 6, 6)
    for _ in range(3):  # each forward in training mode is one power iteration
        a, b = ours(x), theirs(x)
        torch.testing.assert_close(a, b)
    (ours(x).square().sum()).backward(), (theirs(x).square().sum()).backward()
    torch.testing.assert_close(ours.weight_orig.grad, theirs.weight_orig.grad)
    ours.eval(), theirs.eval()
    before = ours.weight_u.clone()
    torch.testing.assert_close(ours(x), theirs(x))
    assert torch.equal(ours.weight_u, before)


def test_folding_the_spectral_norm_changes_no_bit():
    net = model(**ENHANCED).eval()
    data = batch()
    with torch.no_grad():
        before = net(data)["pred_enh_target_imgs"]
        fold(net)
        assert not any(k.endswith("weight_u") for k in net.state_dict())
        assert torch.equal(net(data)["pred_enh_target_imgs"], before)


def test_two_forwards_before_one_backward():
    layer = Linear(4, 3)
    x = torch.randn(2, 4)
    (layer(x).sum() + layer(x * 2).sum()).backward()
    assert layer.weight_orig.grad.isfinite().all()


def test_a_fresh_model_is_tame_in_evaluation_mode():
    net = model().eval()
    with torch.no_grad():
        out = net(batch(), NETWORKS[:4])
    assert out["pred_target_imgs"].isfinite().all()
    for layer in spectral_layers(net):
        true = torch.linalg.matrix_norm(layer.weight_orig.flatten(1), 2)
        used = layer.weight_orig.norm() / layer.effective_weight().norm()
        assert 0.8 * true < used <= 1.0001 * true  # ten iterations from a random start


def test_which_layers_are_normalised():
    only = model(spn_networks="discriminator, texture_enhancer", spn_layers="conv2d")
    assert not spectral_layers(only.keypoints_embedder)
    assert len(spectral_layers(only.discriminator)) == 10
    less = model(spn_exceptions="discriminator.net.linear, discriminator.net.blocks.0.skip")
    assert len(spectral_layers(less.discriminator)) == 8
    with pytest.raises(ValueError, match=r"no module discriminator\.net\.lin"):
        model(spn_exceptions="discriminator.net.lin")


def test_residual_block_by_its_definition():
    torch.manual_seed(0)
    block = Residual(3, 5, ("bn", "bn"), down="avgpool").eval()
    x = torch.randn(2, 3, 8, 8)
    f, b, s = block.block_feats, block.block, block.skip
    feats = f[3](f[2](F.leaky_relu(f[0](x), 0.2)))
    feats = F.leaky_relu(feats, 0.2)
    expected = F.avg_pool2d(b[0](feats), 2) + F.avg_pool2d(s[0](x), 2)
    y, inner = block(x)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(inner, feats)


@pytest.mark.parametrize("efficient", [False, True])
@pytest.mark.parametrize("up", ["nearest", "bilinear"])
def test_skip_order(efficient, up):
    torch.manual_seed(0)
    block = Residual(3, 5, up=up, efficient=efficient).eval()
    x = torch.randn(2, 3, 4, 4)
    feats = F.leaky_relu(x, 0.2)
    if not efficient:
        feats = F.interpolate(feats, scale_factor=2, mode=up)
    convs = [m for m in block.block_feats if isinstance(m, Conv)]
    feats = F.leaky_relu(convs[0](feats), 0.2)
    y = F.interpolate(feats, scale_factor=2, mode=up) if efficient else feats
    y = next(m for m in block.block if isinstance(m, Conv))(y)
    y = y + block.skip[1](F.interpolate(x, scale_factor=2, mode=up))
    torch.testing.assert_close(block(x)[0], y)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_adaptive_convolution_serves_consecutive_rows(layout):
    x = torch.randn(6, 3, 2, 5).to(memory_format=layout)
    weight, bias = torch.randn(2, 4, 3, 1, 1), torch.randn(2, 4)
    y = adaptive_conv(x, weight, bias)
    for row in range(6):
        expected = F.conv2d(x[row : row + 1], weight[row // 3], bias[row // 3])
        torch.testing.assert_close(y[row : row + 1], expected)


def test_adaptive_norms():
    x = torch.randn(4, 3, 2, 2)
    norm = AdaptiveNorm2d("bn", 3, 0, 1e-7, 1.0)
    scale, shift = torch.randn(2, 3), torch.randn(2, 3)
    y = norm(x, iter([(scale, shift)]))
    flat = (x - x.mean((0, 2, 3), True)) / x.var((0, 2, 3), correction=0, keepdim=True).sqrt()
    one = 1 + scale.repeat_interleave(2, 0)[..., None, None]
    torch.testing.assert_close(y, flat * one + shift.repeat_interleave(2, 0)[..., None, None])
    spade = AdaptiveNorm2d("none", 3, 2, 1e-7, 1.0)
    assert spade.pixel_feats.abs().max() <= 1 / math.sqrt(12)
    pair = (torch.randn(2, 3, 3, 1, 1), torch.randn(2, 3))
    y = spade(x, iter([pair, (pair[0] * 0, pair[1] * 0)]))
    scale = torch.einsum("boi,ihw->bohw", pair[0][..., 0, 0], spade.pixel_feats[0])
    scale = (scale + pair[1][..., None, None]).repeat_interleave(2, 0)
    torch.testing.assert_close(y, x * (1 + scale))


def test_projector_repeats_pixels():
    """The published program's rule, written out for one stage and set."""
    net = model().inference_generator.eval()
    prj = net.prj_inf
    embeds = [torch.randn(2, c, 8, 8) for c in (16, 16, 8)]
    pairs = prj(embeds)
    pooled = F.adaptive_avg_pool2d(embeds[2], 16).reshape(2 * 4, 2 * 256)  # two channels per row
    stack = prj.fc_blocks[2][1]  # the skip of the last block: 8 -> 4 channels, K = 9
    y = stack(pooled).view(2, 4, 9)
    weight, bias = pairs[2 * 3 + 1]
    torch.testing.assert_close(weight, y[..., :8, None, None])
    torch.testing.assert_close(bias, y[..., 8])


def test_pairs_go_where_the_published_assignment_sends_them():
    net = model().inference_generator.eval()
    x, pairs = torch.randn(1, 8, 4, 4), net.prj_inf([torch.randn(1, c, 8, 8) for c in (16, 16, 8)])
    g = net.gen_inf
    y = x
    for p, block in enumerate(g.blocks[:3]):
        first, skip = [], pairs[3 * p + 1]
        if p:
            first = [pairs[3 * (p - 1) + 2]]
        feats = block.block_feats(y, iter([*first, pairs[3 * p]]))
        up = F.interpolate(feats, scale_factor=2)
        y = block.block[1](up) + adaptive_conv(F.interpolate(y, scale_factor=2), *skip)
    y = F.leaky_relu(g.blocks[3](y, iter([pairs[8]])), 0.2)
    for head, got in zip(g.heads, g(x, pairs), strict=True):
        torch.testing.assert_close(got, head(y))
    with pytest.raises(ValueError, match="takes 9 predicted pairs, got 8"):
        g(x, pairs[:8])


def test_identity_grid_and_zero_offsets_give_the_texture():
    net = model().inference_generator
    assert net.identity_grid[0, 3, 5].tolist() == pytest.approx([-1 + 11 / 32, -1 + 7 / 32])
    texture = torch.randn(1, 3, 32, 32)
    uvs = net.uvs(torch.zeros(1, 2, 32, 32))
    looked = F.grid_sample(texture, uvs, align_corners=False)
    torch.testing.assert_close(looked, texture, atol=2e-5, rtol=0)  # positions in float32


def test_harmonic_encoding_is_keypoint_major():
    net = model(pse_use_harmonic_enc=True).keypoints_embedder.eval()
    assert net.net.mlp[0].weight_orig.shape == (16, 1088)
    assert net.frequencies.flatten().tolist() == pytest.approx([math.pi * 2**k for k in range(4)])
    seen = []
    net.net.mlp.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    pose = torch.rand(1, 1, 136)
    net(pose)
    assert float(seen[0][0, 4 * 7 + 2]) == pytest.approx(
        math.sin(4 * math.pi * pose[0, 0, 7]), abs=1e-5
    )
    assert float(seen[0][0, 544 + 4 * 7]) == pytest.approx(
        math.cos(math.pi * pose[0, 0, 7]), abs=1e-5
    )


@pytest.mark.parametrize("spectral", [True, False])
def test_a_whitened_start_shows_small_motions_nearly_as_much_as_large_ones(spectral):
    options = {} if spectral else {"spn_networks": []}
    net = model(pse_num_blocks=1, **options).keypoints_embedder.eval()
    draws = torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
    motion = torch.zeros(2, 136)
    motion[0] = 0.3  # the whole face
    motion[1, 124] = 0.02  # a point of the mouth
    poses = draws @ motion + 0.1
    net.whiten(poses)

    def change(row):
        moved = net((poses.mean(0) + row)[None, None]) - net(poses.mean(0)[None, None])
        return float(moved.detach().norm())

    plain = float(motion[1].norm() / motion[0].norm())  # 0.006; 1 if whitened altogether
    assert 0.6 < change(motion[1]) / change(motion[0]) / plain**0.3 < 1.6
    still = net(poses.mean(0)[None, None]).detach()
    assert float(still.abs().max()) < 0.05 * change(motion[0])


def test_source_masks_and_frames():
    net = model().identity_embedder.eval()
    data = batch(b=2, n=3)
    images, masks, stick = data["source_imgs"], data["source_segs"], data["source_stickmen"]
    masked = images * masks - (1 - masks)
    for a, b in zip(net(images, stick, masks), net(masked, stick), strict=True):
        torch.testing.assert_close(a, b)
    single = [net(masked[:, i : i + 1], stick[:, i : i + 1]) for i in range(3)]
    late = net(images, stick, masks, frames=1)
    for place, embed in enumerate(late):
        torch.testing.assert_close(embed, torch.stack([s[place] for s in single]).mean(0))


@pytest.mark.parametrize(
    "options",
    [
        {"tex_pixelwise_bias_type": "adaptive", "pse_use_harmonic_enc": True},
        {"tex_pixelwise_bias_type": "stochastic", "tex_norm_layer_type": "spade_bn",
         "tex_skip_layer_type": "conv", "emb_no_stickman": True, "dis_no_stickman": True},
        {"tex_pixelwise_bias_type": "fixed", "tex_norm_layer_type": "ada_in",
         "inf_norm_layer_type": "ada_none", "tex_upsampling_type": "bilinear"},
        {"tex_norm_layer_type": "bn", "inf_norm_layer_type": "in", "inf_skip_layer_type": "conv",
         "emb_norm_layer_type": "bn", "pse_norm_layer_type": "bn_1d", "enh_norm_layer_type": "in",
         "dis_downsampling_type": "maxpool", "emb_activation_type": "relu"},
        {"inf_pred_segmentation": False, "enh_guiding_rgb_loss_type": "l1"},
    ],
    ids=["adaptive bias", "static spade", "ada_in", "no adaptive norms", "no masks"],
)  # fmt: skip
def test_every_option_makes_a_network_that_trains(options):
    net = model(**{**ENHANCED, **options})
    out = net(batch(t=2))
    loss = sum(out[k].float().square().mean() for k in ("pred_enh_target_imgs", "real_scores"))
    (loss + out["fake_scores_gen"].mean()).backward()
    moved = {n.split(".")[0] for n, p in net.named_parameters() if p.grad is not None}
    assert moved == set(NETWORKS)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"image_size": 48}, "must be a power of two, got 48"),
        ({"tex_norm_layer_type": "ada_ln"}, "norm must be one of none, bn, in, got 'ln'"),
        ({"inf_max_channels": 16}, "channels must be in one ratio"),
        ({"inf_input_tensor_size": 8}, "as many embeddings"),
        ({"networks_train": "generator"}, "networks_train must name networks of .* 'generator'"),
        ({"tex_upsampling_type": "pixelshuffle"}, "nearest, bilinear, got 'pixelshuffle'"),
        ({"dis_num_blocks": 1}, "dis_num_blocks must be at least 2"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        model(**options)


def test_construction_is_seeded():
    a, b, c = model(3), model(3), model(4)
    same = [torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True)]
    assert all(same)
    assert not torch.equal(a.texture_generator.gen_tex_input, c.texture_generator.gen_tex_input)
    assert OPTIONS["image_size"] == a.options["image_size"]
