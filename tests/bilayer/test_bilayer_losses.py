"""The losses against hand-computed numbers and independent formulas, and their options."""

import math

import pytest
import torch
import torch.nn.functional as F

from bilayer_tiny import batch, model
from nets.bilayer.losses import (
    KeypointPlaces,
    Losses,
    WarpingWeight,
    adversarial_losses,
    dice,
    feature_boxes,
    feature_matching,
    needed_extractors,
    perceptual,
)
from nets.data.heads.faces import normalised_pose
from nets.pretrained.vgg import load_vgg
from nets.run import checkpoints

NO_VGG = "adversarial, feature_matching, pixelwise, segmentation, warping_regularizer"


@pytest.fixture(scope="module")
def extractors():
    networks = {}
    for name, family in (("vgg19_imagenet_pytorch", "torchvision"), ("vgg16_face_caffe", "face")):
        networks[name] = load_vgg(family=family, source="random", pooling="avgpool")
    return networks


@pytest.mark.parametrize(
    "kind, expected",
    [
        ("gan", (0.5 + 1.0, -2.0)),
        ("rgan", (0.0, 0.0)),  # D: pr = 1, 2; pf = -1, -2. G: pr = -1, -1; pf = 1, 1
        ("ragan", (0.25 + 0.5, 0.5 + 0.5)),  # D: 2.5, 0.5; 0, -3. G: 0, -2; 2, 0
    ],
)  # fmt: skip
def test_adversarial_by_hand(kind, expected):
    real, fake = torch.tensor([2.0, 0.0]), torch.tensor([1.0, -2.0])
    losses = adversarial_losses(real, fake, torch.tensor([3.0, 1.0]), kind)
    assert [x.item() for x in losses] == pytest.approx(expected)


def test_adversarial_gradients():
    real, fake, gen = (torch.randn(6, requires_grad=True) for _ in range(3))
    _, loss = adversarial_losses(real, fake, gen)
    loss.backward()
    assert real.grad is None and fake.grad is None and gen.grad is not None


def test_feature_matching_and_dice_by_hand():
    real, fake = [torch.ones(2, 3), torch.zeros(4)], [torch.zeros(2, 3), torch.full((4,), 3.0)]
    assert feature_matching(real, fake).item() == pytest.approx((1 + 3) / 2)
    assert feature_matching(real, fake, "mse").item() == pytest.approx((1 + 9) / 2)
    p, t = torch.tensor([1.0, 0.5]), torch.tensor([1.0, 1.0])
    assert dice(p, t).item() == pytest.approx(math.log(1.25 + 2) - math.log(2 * 1.5))


def test_perceptual_by_its_definition(extractors):
    g = torch.Generator().manual_seed(0)
    x, y = (torch.rand(2, 3, 32, 32, generator=g) * 2 - 1 for _ in range(2))
    x.requires_grad_()
    vgg = extractors["vgg19_imagenet_pytorch"]
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)

    def features(v):  # up to relu2_1
        v = (v - (2 * mean - 1)) / (2 * std)
        first = vgg.convolutions[0](v).relu()
        second = F.avg_pool2d(vgg.convolutions[1](first).relu(), 2)
        return first, vgg.convolutions[2](second).relu()

    expected = sum(
        w * (a - b).abs().mean()
        for w, a, b in zip((0.5, 2.0), features(x), features(y), strict=True)
    )
    value = perceptual(vgg, x, y, ["relu1_1", "relu2_1"], (0.5, 2.0))
    torch.testing.assert_close(value, expected)
    value.backward()
    assert x.grad.abs().sum() > 0 and not any(p.requires_grad for p in vgg.parameters())


def test_entries_are_weighted_and_complete(extractors):
    net = model(image_size=32)
    data = net(batch(t=2))
    losses = Losses({}, extractors)
    out = losses(data)
    assert list(out) == ["D_ADV", "G_ADV", "G_FM", "G_VGG19", "G_VGGFace", "G_L1", "G_BCE", "G_WPR"]
    mean = data["pred_target_delta_lf_rgbs"] - data["target_imgs"]
    torch.testing.assert_close(out["G_L1"], 10 * mean.abs().mean())
    bce = F.binary_cross_entropy(data["pred_target_segs"], data["target_segs"])
    torch.testing.assert_close(out["G_BCE"], 10 * bce)
    torch.testing.assert_close(out["G_WPR"], 10 * data["pred_target_delta_uvs"].abs().mean())
    dis, gen = adversarial_losses(
        *(data[k] for k in ("real_scores", "fake_scores_dis", "fake_scores_gen"))
    )
    torch.testing.assert_close(out["D_ADV"], 0.5 * dis)
    torch.testing.assert_close(out["G_ADV"], 0.5 * gen)
    layers = [f"relu{b}_1" for b in range(1, 6)]
    prediction, truth = (
        data[k].flatten(0, 1) for k in ("pred_target_imgs_lf_detached", "target_imgs")
    )
    face = perceptual(
        extractors["vgg16_face_caffe"], prediction, truth, layers, (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1)
    )
    torch.testing.assert_close(out["G_VGGFace"], 0.01 * face)


def test_one_sum_trains_both_sides():
    net = model()
    losses = Losses({"losses_train": NO_VGG})
    sum(losses(net(batch())).values()).backward()
    silent = {n.split(".")[0] for n, p in net.named_parameters() if p.grad is None}
    assert silent == {"identity_embedder"}  # the last block's convolutions are not used


def test_warping_weight_decays_exactly_every_schedule_calls():
    weight = WarpingWeight(10, 0.9, 50, 1e-7)
    used = [weight.next() for _ in range(151)]
    assert used[49] == 10 and used[50] == pytest.approx(9) and used[99] == pytest.approx(9)
    assert used[100] == pytest.approx(8.1) and used[149] == pytest.approx(8.1)
    assert used[150] == pytest.approx(7.29)
    other = WarpingWeight(10, 0.9, 50, 1e-7)
    other.load_state_dict(weight.state_dict())
    assert other.next() == weight.next()
    floor = WarpingWeight(1e-6, 0.1, 1, 1e-7)
    assert [floor.next() for _ in range(4)][-1] == 1e-7
    still = WarpingWeight(0.0, 1.0, -1, 1e-7)
    assert [still.next() for _ in range(3)] == [0, 0, 0]


def test_warping_loss_ends_at_its_floor_and_goes_on_after_a_restart():
    o = {"losses_train": "warping_regularizer", "wpr_loss_weight": 1e-6}
    o |= {"wpr_loss_weight_decay": 0.01, "wpr_loss_decay_schedule": 2}
    data = {"pred_target_delta_uvs": torch.ones(2, 1, 2, 4, 4)}
    losses = Losses(o)
    assert [len(losses(data)) for _ in range(3)] == [1, 1, 0]
    again = Losses(o)
    again.load_state_dict(losses.state_dict())
    assert again(data) == {}
    with torch.no_grad():  # a test pass changes no state
        fresh = Losses(o)
        assert all(len(fresh(data)) == 1 for _ in range(5))
    zero = Losses({**o, "wpr_loss_weight": 0.0})
    assert zero(data)["G_WPR"].item() == 0


def grid(size, shift=0.0):
    """UVs (1, size, size, 2): every pixel reads its own place, shifted in x."""
    centres = (torch.arange(size) * 2 + 1) / size - 1
    plane = torch.stack(torch.meshgrid(centres, centres, indexing="xy"), -1)
    return plane[None] + torch.tensor([shift, 0.0])


def test_keypoints_are_read_from_one_place_of_the_texture():
    poses = torch.rand(4, 1, 136, generator=torch.Generator().manual_seed(0)) - 0.5
    poses[1:] = poses[:1] + torch.tensor([0.0, 0.1, 0.3])[:, None, None]  # shifts of all points
    middle = torch.tensor(0.1)
    places = KeypointPlaces()
    for pose in poses:  # four steps with one image each
        places.add(pose[None])
    still = torch.stack([grid(64)] * 4)
    moves = (torch.tensor([0.0, 0.0, 0.1, 0.3]) - middle).abs().mean()
    torch.testing.assert_close(places.distance(still, poses), moves)
    back = torch.stack([grid(64) - (m - middle) for m in (0.0, 0.0, 0.1, 0.3)])
    assert places.distance(back, poses) < 1e-6
    aside = torch.stack([g + torch.tensor([0.2, 0.0]) for g in back])
    mean = torch.tensor(0.1)  # over x and y
    torch.testing.assert_close(places.distance(aside, poses), mean)
    again = KeypointPlaces()
    again.load_state_dict(places.state_dict())
    places.add(poses[:1]), again.add(poses[:1])
    assert torch.equal(again.places, places.places)


def test_correspondence_trains_the_offsets_whatever_the_texture():
    net = model()
    losses = Losses({"losses_train": "keypoint_correspondence", "kpc_loss_weight": 2.0})
    data = net(batch(b=4))
    losses(data)["G_KPC"].backward()
    gradient = net.inference_generator.gen_inf.heads[0][0].weight_orig.grad
    assert gradient.abs().sum() > 0
    assert net.texture_generator.gen_tex_input.grad is None
    with torch.no_grad():  # a test pass changes no state
        before = losses.places.calls
        torch.testing.assert_close(
            losses(data)["G_KPC"],
            2 * losses.places.distance(data["pred_target_uvs"], data["target_poses"]),
        )
    assert losses.places.calls == before == 1


def test_places_of_keypoints_survive_a_restart(tmp_path):
    options = {"losses_train": "keypoint_correspondence"}
    losses, fresh = Losses(options), Losses(options)
    losses(model()(batch(b=4)))
    checkpoints.write(tmp_path / "c.pt", {"parts": {"losses": losses.state_dict()}})
    content = torch.load(tmp_path / "c.pt", weights_only=True)
    checkpoints.load_parts(content, {"losses": fresh}, tmp_path / "c.pt")
    assert torch.equal(fresh.places.places, losses.places.places) and fresh.places.calls == 1
    assert "kpc_places" not in Losses({"losses_train": "pixelwise"}).state_dict()


def test_pairs_and_names_follow_the_options(extractors):
    o = {
        "losses_train": ["perceptual", "pixelwise"],
        "per_full_net_names": "vgg19_imagenet_pytorch",
        "per_net_layers": "1,6",
        "per_layer_weights": "1, 2",
        "per_loss_weights": "3",
        "per_loss_apply_to": "a, t; b, t",
        "per_loss_names": "A; B",
        "pix_loss_apply_to": "a, t; b, t",
        "pix_loss_weights": "1, 2",
        "pix_loss_names": "L1, L1b",
    }
    assert needed_extractors(o) == ["vgg19_imagenet_pytorch"]
    data = {k: torch.full((1, 1, 3, 16, 16), v) for k, v in (("a", 0.5), ("b", 0.0), ("t", 0.0))}
    out = {k: v.item() for k, v in Losses(o, extractors)(data).items()}
    assert out["G_A"] > 0 and out["G_B"] == 0
    assert out["G_L1"] == pytest.approx(0.5) and out["G_L1b"] == 0
    assert needed_extractors({"per_loss_weights": "10, 0"}) == ["vgg19_imagenet_pytorch"]
    assert needed_extractors({"losses_train": NO_VGG}) == []


@pytest.mark.parametrize(
    "options, message",
    [
        ({"losses_train": "adverserial"}, "losses_train must be of .* got 'adverserial'"),
        ({"losses_train": "perceptual"}, "needs the network vgg19_imagenet_pytorch"),
        ({"losses_train": NO_VGG, "adv_pred_type": "wgan"}, "adv_pred_type must be of gan, rgan"),
        ({"losses_train": NO_VGG, "pix_loss_weights": "1, 2"}, "many entries, got 1, 2 and 1"),
        ({"losses_train": NO_VGG, "pix_loss_apply_to": "a"}, 'must be pairs "prediction, target'),
        ({"losses_train": NO_VGG, "pix_loss_weights": "ten"}, "must be numbers"),
        ({"losses_train": "perceptual", "per_net_layers": "1,6"}, "one entry for each of"),
        ({"losses_train": "perceptual", "per_full_net_names": "resnet"}, "got 'resnet'"),
        ({"losses_train": "perceptual", "per_net_layers": "0,6,11,20,29; 1,6,11,18,25"},
         "that of a ReLU"),
    ],
)  # fmt: skip
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Losses(options)


def test_a_missing_tensor_is_named():
    with pytest.raises(ValueError, match=r"reads pred_target_delta_lf_rgbs, .* it has target_imgs"):
        Losses({"losses_train": "pixelwise"})({"target_imgs": torch.zeros(1)})


def test_boxes_of_eyes_and_mouth_by_hand():
    points = torch.full((1, 68, 2), 8.0)  # points of other parts have no box
    points[:, 36:42], points[:, 42:48] = torch.tensor([2.0, 3.0]), torch.tensor([12.0, 3.0])
    points[:, 48:58], points[:, 58:] = torch.tensor([5.0, 12.0]), torch.tensor([9.0, 12.5])
    (boxes,) = feature_boxes(normalised_pose(points, 16), 16)
    expected = torch.zeros(3, 16, 16, dtype=torch.bool)
    expected[0, 2:5, 1:4] = expected[1, 2:5, 11:14] = expected[2, 11:14, 4:11] = True
    assert torch.equal(boxes, expected)


def test_eyes_and_mouth_count_alike_whatever_their_size():
    losses = Losses({"losses_train": "face_features", "ffe_loss_weight": 2.0})
    points = torch.full((1, 68, 2), 8.0)
    points[:, 36:42], points[:, 42:48] = torch.tensor([2.0, 3.0]), torch.tensor([12.0, 3.0])
    points[:, 48:58], points[:, 58:] = torch.tensor([5.0, 12.0]), torch.tensor([9.0, 12.5])
    zero = torch.zeros(1, 1, 3, 16, 16)
    data = {"target_poses": normalised_pose(points, 16)[None], "target_imgs": zero}
    for place, share in (((2, 1), 1 / 9), ((3, 12), 1 / 9), ((12, 5), 1 / 21), ((0, 0), 0)):
        image = zero.clone()
        image[..., place[0], place[1]] = 0.6
        terms = losses(data | {"pred_target_delta_lf_rgbs": image})
        assert terms.keys() == {"G_FFE_L1"}
        assert terms["G_FFE_L1"].item() == pytest.approx(2.0 * 0.6 * share / 3)
