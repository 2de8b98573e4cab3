"""One training pass: routes of gradients, masks, several frames, and modes."""

import pytest
import torch
import torch.nn.functional as F

from bilayer_tiny import ENHANCED, batch, model
from nets.bilayer import NETWORKS, standing_statistics
from nets.bilayer.objective import scored_pass


def grads(net, *outputs):
    """The names of the parameters that receive a gradient from the sum of the outputs."""
    net.zero_grad(set_to_none=True)
    sum(o.float().square().mean() for o in outputs).backward(retain_graph=True)
    return {n for n, p in net.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}


def part(names, prefix):
    return any(n.startswith(prefix) for n in names)


def test_gradient_routing():
    net = model()
    out = net(batch())
    uv, lf, seg = (f"inference_generator.gen_inf.heads.{i}" for i in range(3))
    low = grads(net, out["pred_target_delta_lf_rgbs"])
    assert part(low, lf) and not part(low, uv) and not part(low, "texture_generator")
    detached = grads(net, out["pred_target_imgs_lf_detached"])
    assert part(detached, uv) and part(detached, "texture_generator") and not part(detached, lf)
    logits = grads(net, out["pred_target_segs_logits"])
    assert part(logits, seg) and not part(logits, uv) and not part(logits, lf)
    image = grads(net, out["pred_target_imgs"])
    assert part(image, uv) and part(image, lf) and not part(image, seg)  # the mask is a constant
    everything = low | detached | logits | image
    for name in NETWORKS[:4]:
        assert part(everything, name)
    silent = {n for n, _ in net.named_parameters()} - everything
    silent = {n for n in silent if not n.startswith("discriminator")}
    last = "identity_embedder.net.dec_blocks.2."
    assert silent == {
        f"{last}{p}.0.{w}" for p in ("block", "skip") for w in ("weight_orig", "bias")
    }


def test_discriminator_is_trained_and_the_generators_losses_leave_it_alone():
    net = model()
    out = net(batch())
    from_d = grads(net, out["real_scores"], out["fake_scores_dis"])
    assert from_d == {n for n, _ in net.named_parameters() if n.startswith("discriminator")}
    from_g = grads(net, out["fake_scores_gen"], *out["fake_feats_gen"])
    assert not part(from_g, "discriminator")
    assert part(from_g, "texture_generator") and part(from_g, "keypoints_embedder")
    before = {n: p.detach().clone() for n, p in net.discriminator.named_parameters()}
    optimizer = torch.optim.Adam(net.discriminator.parameters(), 1e-3)
    net.zero_grad()
    loss = (1 - out["real_scores"]).relu().mean() + (1 + out["fake_scores_dis"]).relu().mean()
    loss.backward()
    optimizer.step()
    moved = [n for n, p in net.discriminator.named_parameters() if not torch.equal(p, before[n])]
    assert len(moved) == len(before)


def test_both_passes_see_one_batch_of_real_and_fake():
    net = model()
    data = batch(t=2)
    momentless = {k: v for k, v in net.discriminator.state_dict().items()}
    out = net(data)
    assert out["real_scores"].shape == out["fake_scores_gen"].shape == (4, 1, 8, 8)
    assert [len(f) for f in out["fake_feats_gen"]] == [4, 4, 4]
    tracked = net.discriminator.net.blocks[0].block_feats[0].num_batches_tracked
    assert int(tracked) == 2 and momentless


def test_masks_are_constants_and_the_truth_is_kept():
    net = model()
    data = batch(t=2)
    out = net(data)
    m = out["pred_target_segs"].detach()
    torch.testing.assert_close(m, out["pred_target_segs_logits"].sigmoid())
    assert torch.equal(out["target_imgs_unmasked"], data["target_imgs"])
    torch.testing.assert_close(out["target_imgs"], data["target_imgs"] * m - (1 - m))
    whole = out["pred_target_unmasked_lf_rgbs"] + out["pred_target_delta_hf_rgbs"]
    torch.testing.assert_close(out["pred_target_imgs"], whole * m - (1 - m))
    plain = model(inf_apply_masks=False)(data)
    assert torch.equal(plain["target_imgs"], data["target_imgs"])
    high = F.grid_sample(
        plain["pred_tex_hf_rgbs"][:1, 0].expand(2, -1, -1, -1),
        plain["pred_target_uvs"][0],
        align_corners=False,
    )
    torch.testing.assert_close(plain["pred_target_delta_hf_rgbs"][0], high, atol=1e-4, rtol=1e-4)


def test_keypoints_alone_drive():
    net = model(inf_apply_masks=False).eval()
    data = {k: v for k, v in batch().items() if k.startswith("source") or k == "target_poses"}
    with torch.no_grad():
        out = net(data, NETWORKS[:4])
    assert out["pred_target_imgs"].shape == (2, 1, 3, 32, 32)
    assert not out["pred_target_imgs"].requires_grad


def test_frames_and_identities_are_independent_in_evaluation_mode():
    net = model(**ENHANCED).eval()
    data = batch(b=2, n=2, t=3)
    with torch.no_grad():
        whole = net(data, NETWORKS[:5])
        for i in range(2):
            for k in range(3):
                row = {n: v[i : i + 1] for n, v in data.items()}
                row = {n: v[:, k : k + 1] if n[0] == "t" else v for n, v in row.items()}
                one = net(row, NETWORKS[:4])
                torch.testing.assert_close(
                    one["pred_target_imgs"][0, 0], whole["pred_target_imgs"][i, k],
                    atol=1e-5, rtol=1e-5,
                )  # fmt: skip


def test_enhancer_stage_trains_the_enhancer_and_the_discriminator_only():
    options = {
        **ENHANCED,
        "networks_to_train": ["texture_enhancer", "discriminator"],
        "dis_fake_imgs_name": "pred_enh_target_imgs",
    }
    net = model(**options)
    assert [n for n, _ in net.trainable()] == ["texture_enhancer", "discriminator"]
    assert net.texture_enhancer.training and not net.inference_generator.training
    before = {k: v.clone() for k, v in net.state_dict().items()}
    out = net(batch(n=2, t=2))
    moved = grads(net, out["pred_enh_target_imgs"], out["fake_scores_gen"], out["real_scores"])
    expected = {n for n, _ in net.named_parameters() if n.startswith(("texture_enh", "discr"))}
    assert moved == expected
    after = net.state_dict()
    changed = {k.split(".")[0] for k in after if not torch.equal(after[k], before[k])}
    assert changed == {"texture_enhancer", "discriminator"}  # the base is not changed


@pytest.mark.parametrize("guide", ["sse", "l1"])
def test_enhancer_follows_the_closed_form_of_the_gradient(guide):
    """With zero offsets, every pixel reads its own texel.

    The gradient is then m^2 (T + LF - I), or m sign(T + LF - I) for l1.
    """
    net = model(**ENHANCED, enh_guiding_rgb_loss_type=guide).texture_enhancer
    g = torch.Generator().manual_seed(0)
    texture, image, low = (torch.randn(1, 3, 32, 32, generator=g) for _ in range(3))
    mask, delta = torch.rand(1, 1, 32, 32, generator=g) + 0.1, torch.zeros(1, 2, 32, 32)
    masked = image * mask - (1 - mask)
    got = net.guidance(texture, masked, delta, low, mask)
    error = mask * (texture + low - image)
    expected = mask * (error if guide == "sse" else error.sign())
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-3)


def test_enhancer_steps():
    net = model(**ENHANCED).eval()
    data = batch(n=2, t=2)
    with torch.no_grad():
        out = net(data, NETWORKS[:5])
        texture = out["pred_tex_hf_rgbs"][:, 0]
        m, lf = out["pred_source_segs"], out["pred_source_delta_lf_rgbs"]
        uvs = out["pred_source_uvs"]
        for _ in range(2):
            changes = []
            for i in range(2):
                image = data["source_imgs"][:, i] * m[:, i] - (1 - m[:, i])
                with torch.enable_grad():
                    leaf = texture.clone().requires_grad_()
                    result = lf[:, i] + F.grid_sample(leaf, uvs[:, i], align_corners=False)
                    result = result * m[:, i] - (1 - m[:, i])
                    loss = (image - result).square().sum() / 2
                    (gradient,) = torch.autograd.grad(loss, leaf)
                changes.append(net.texture_enhancer.change(texture, gradient, 1))
            texture = texture + torch.stack(changes).mean(0)
    torch.testing.assert_close(out["pred_enh_tex_hf_rgbs"][:, 1], texture, atol=1e-4, rtol=1e-4)
    result = out["pred_target_unmasked_lf_rgbs"] + out["pred_enh_target_delta_hf_rgbs"]
    mask = out["pred_target_segs"]
    torch.testing.assert_close(out["pred_enh_target_imgs"], result * mask - (1 - mask))


def test_frozen_networks_let_gradients_through():
    net = model(
        frozen_networks=["texture_generator", "inference_generator"],
        unfreeze_texture_generator_last_layers=True,
    )
    assert not net.texture_generator.training and net.identity_embedder.training
    moved = grads(net, net(batch())["pred_target_imgs"])
    assert part(moved, "identity_embedder") and part(moved, "keypoints_embedder")
    assert not part(moved, "inference_generator")
    assert part(moved, "texture_generator.prj_tex") and part(
        moved, "texture_generator.gen_tex.heads"
    )
    assert not part(moved, "texture_generator.gen_tex.blocks.0")
    assert "inference_generator" not in dict(net.trainable())
    strict = model(
        frozen_networks="texture_generator", unfreeze_texture_generator_last_layers=False
    )
    assert "texture_generator" not in dict(strict.trainable())


def test_what_is_missing_is_named():
    net = model()
    data = batch()
    del data["source_segs"]
    with pytest.raises(ValueError, match="source_segs is missing"):
        net(data)
    with pytest.raises(ValueError, match="'texture_enhancer' is not part of this model"):
        net(batch(), ["texture_enhancer"])
    with pytest.raises(ValueError, match="source_pose_embeds is missing"):
        model(inf_pred_source_data=True)(batch())
    with pytest.raises(ValueError, match=r"poses must be \[b, t, 136\]"):
        net({**batch(), "target_poses": torch.zeros(2, 68, 2)})


def test_one_batch_is_overfit():
    net, frames = model(), 2
    data = batch(t=frames)
    g = torch.Generator().manual_seed(5)
    smooth = F.interpolate(torch.rand(2 * frames, 3, 4, 4, generator=g) * 2 - 1, size=32)
    data["target_imgs"] = smooth.view(2, frames, 3, 32, 32)
    data["target_segs"] = (data["target_imgs"][:, :, :1] > 0).float()
    optimizer = torch.optim.Adam(net.parameters(), 5e-3, betas=(0.5, 0.999))
    losses = []
    for _ in range(40):
        out = net(data, NETWORKS[:4])
        loss = (out["pred_target_delta_lf_rgbs"] - out["target_imgs"]).abs().mean()
        loss = loss + (out["pred_target_imgs_lf_detached"] - out["target_imgs"]).abs().mean()
        loss = loss + F.binary_cross_entropy_with_logits(
            out["pred_target_segs_logits"], data["target_segs"]
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_standing_statistics_are_the_mean_over_the_batches():
    net = model()
    norm = net.inference_generator.gen_inf.blocks[1].block_feats[0].norm_layer
    seen = []
    norm.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    batches = [batch(seed=k) for k in range(4)]
    u = net.texture_generator.gen_tex.heads[0][0].weight_u.clone()
    assert standing_statistics(net, batches, NETWORKS[:4]) == 4
    mean = torch.stack([x.mean((0, 2, 3)) for x in seen]).mean(0)
    var = torch.stack([x.var((0, 2, 3)) for x in seen]).mean(0)  # unbiased, as BatchNorm keeps it
    torch.testing.assert_close(norm.running_mean, mean)
    torch.testing.assert_close(norm.running_var, var)
    assert torch.equal(u, net.texture_generator.gen_tex.heads[0][0].weight_u)
    assert norm.momentum == 1.0 and norm.training and net.training
    before = {k: v.clone() for k, v in net.state_dict().items()}
    assert standing_statistics(net, [], NETWORKS[:4]) == 0
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def cut(x, mask):
    return x * mask - (1 - mask)


def test_published_masking_masks_the_enhanced_image_and_the_target_again():
    """Spec of the published program: the enhancer masks what the generator masked before."""
    data = batch(t=2)
    plain = model(**ENHANCED, inf_apply_masks=False, enh_apply_masks=False).eval()
    published = model(**ENHANCED, published_masking=True).eval()
    names = NETWORKS[:5]
    with torch.no_grad():
        bare, twice = plain(data, names), published(data, names)
        tested = scored_pass(published, data, list(names))
    mask = bare["pred_target_segs"]
    low, high = bare["pred_target_delta_lf_rgbs"], bare["pred_enh_target_delta_hf_rgbs"]
    expected = {
        "pred_enh_target_imgs": cut(cut(low, mask) + high, mask),
        "pred_target_imgs": cut(cut(bare["pred_target_imgs"], mask), mask),
        "target_imgs": cut(cut(data["target_imgs"], mask), mask),
    }
    for name, value in expected.items():
        torch.testing.assert_close(twice[name], value)
    expected["target_imgs"] = cut(cut(expected["target_imgs"], mask), mask)
    for name, value in expected.items():
        torch.testing.assert_close(tested[name], value)


def test_published_tests_of_a_base_model_mask_the_target_twice():
    net, data = model(published_masking=True).eval(), batch()
    with torch.no_grad():
        tested = scored_pass(net, data, list(NETWORKS[:4]))
    mask = tested["pred_target_segs"]
    torch.testing.assert_close(tested["target_imgs"], cut(cut(data["target_imgs"], mask), mask))
    whole = tested["pred_target_unmasked_lf_rgbs"] + tested["pred_target_delta_hf_rgbs"]
    torch.testing.assert_close(tested["pred_target_imgs"], cut(whole, mask))
