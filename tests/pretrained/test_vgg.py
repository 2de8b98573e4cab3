"""VGG19 features: layers, preprocessing, gradients, and every way to get or miss the weights."""

import copy
import hashlib
import sys

import numpy as np
import pytest
import torch
from torch import nn

from nets import perceptual
from nets.errors import UserError
from nets.pretrained import vgg

ALL = ["input_1", "relu1_2", "relu2_2", "relu3_2", "relu4_2", "relu5_2"]
TORCHVISION_INDEX = {"relu1_2": 3, "relu2_2": 8, "relu3_2": 13, "relu4_2": 22, "relu5_2": 31}


@pytest.fixture(scope="module")
def net():
    return vgg.load_vgg(source="random")


@pytest.fixture(scope="module")
def state(net):
    """The random weights under the names that both publishers' files use."""
    own, rows = net.state_dict(), enumerate(vgg.CONVOLUTIONS)
    return {
        f"features.{row.number}.{part}": own[f"convolutions.{i}.{part}"]
        for i, row in rows
        for part in ("weight", "bias")
    }


@pytest.fixture(scope="module")
def file(state, tmp_path_factory):
    path = tmp_path_factory.mktemp("vgg") / "mine.pth"
    # The publishers' files carry the classifier too; one tensor stands for it.
    torch.save({**state, "classifier.0.weight": torch.zeros(2, 2)}, path)
    return path


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty cache of torch's hub: the folder where weight files lie."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def official(hub, file, monkeypatch):
    """A table of official files in which the test's own file is the torchvision one."""
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    name = f"vgg19-{digest[:8]}.pth"
    table = {**vgg.OFFICIAL, "torchvision": {name: ("sha256", digest[:8], file.as_uri())}}
    monkeypatch.setattr(vgg, "OFFICIAL", table)
    return name


def image(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_features_are_the_published_network(net, state):
    layers, c_in = [], 3
    for c in [64, 64, 0, 128, 128, 0, *[256] * 4, 0, *[512] * 4, 0, *[512] * 4, 0]:
        layers += [nn.Conv2d(c_in, c, 3, padding=1), nn.ReLU()] if c else [nn.MaxPool2d(2)]
        c_in = c or c_in
    published = nn.Sequential(*layers)
    published.load_state_dict({k.removeprefix("features."): v for k, v in state.items()})
    x = image(2, 3, 32, 48)
    activations = net.features(x, ALL)
    assert list(activations) == ALL
    y = net.preprocess(x)
    torch.testing.assert_close(activations["input_1"], y)
    for index, layer in enumerate(published):
        y = layer(y)
        for name, at in TORCHVISION_INDEX.items():
            if at == index:
                torch.testing.assert_close(activations[name], y)
    assert activations["relu5_2"].shape == (2, 512, 2, 3)


def test_both_naming_schemes_name_the_same_layers(net):
    x = image(1, 3, 16, 16)
    a, b = ["relu3_4", "relu1_1", "relu5_4"], ["block3_conv4", "block1_conv1", "block5_conv4"]
    for left, right in zip(net.features(x, a).values(), net.features(x, b).values(), strict=True):
        assert torch.equal(left, right) and (left >= 0).all()
    for name in ("relu1_3", "block6_conv1", "relu0_1", "conv1_1", "block5_pool"):
        with pytest.raises(ValueError, match=f"layer must be .*got '{name}'"):
            net.features(x, [name])


def test_stops_at_the_last_needed_layer(net):
    ran = []
    hooks = [c.register_forward_hook(lambda m, *_: ran.append(m)) for c in net.convolutions]
    net.features(image(1, 3, 8, 8), ["relu2_2", "input_1", "relu1_1"])
    assert ran == list(net.convolutions)[:4]
    net.features(image(1, 3, 1, 1), ["input_1"])
    net.features(image(1, 3, 1, 1), [])
    assert len(ran) == 4
    for hook in hooks:
        hook.remove()


def test_preprocessing_by_hand_and_without_clamping():
    x = torch.tensor([-1.0, 0.0, 3.0]).view(1, 3, 1, 1)  # R black, G middle, B beyond white
    torchvision = [(0 - 0.485) / 0.229, (0.5 - 0.456) / 0.224, (2 - 0.406) / 0.225]
    torch.testing.assert_close(
        perceptual.preprocess_torchvision(x).flatten(), torch.tensor(torchvision)
    )
    caffe = [510 - 103.939, 127.5 - 116.779, 0 - 123.68]  # B, G, R
    torch.testing.assert_close(perceptual.preprocess_caffe(x).flatten(), torch.tensor(caffe))
    half = perceptual.preprocess_caffe(x.bfloat16())
    assert half.dtype == torch.float32 and torch.equal(half, perceptual.preprocess_caffe(x))
    for bad in (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), torch.zeros(3, 4, 4)):
        with pytest.raises(ValueError, match="image must be a floating-point"):
            perceptual.preprocess_caffe(bad)


def test_gradients_reach_the_image_and_not_the_parameters(net):
    x = (image(1, 3, 32, 32) * 1.5).requires_grad_()  # a third of it outside [-1, 1]
    net.features(x, ["relu5_2"])["relu5_2"].square().sum().backward()
    assert (x.grad != 0).float().mean() > 0.9
    assert not any(p.requires_grad or p.grad is not None for p in net.parameters())


def test_gradient_is_that_of_finite_differences(net):
    exact = copy.deepcopy(net).double()
    x = image(1, 3, 4, 4).double().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: exact.features(x, ["relu2_1"])["relu2_1"].square().sum(), x, fast_mode=True
    )


def test_half_precision_and_channels_last(net):
    x = image(2, 3, 32, 32)
    expected = net.features(x, ALL)
    last = copy.deepcopy(net).to(memory_format=torch.channels_last)
    activations = last.features(x.to(memory_format=torch.channels_last), ALL)
    # Another memory layout, another convolution algorithm: float32 rounding over sums of 4608.
    torch.testing.assert_close(activations, expected, rtol=1e-4, atol=1e-4)
    assert activations["relu3_2"].is_contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        by_autocast = net.features(x, ALL)
    for half in (by_autocast, last.to(torch.bfloat16).features(x, ALL)):
        assert torch.equal(half["input_1"], expected["input_1"])  # never rounded
        for name in ALL[1:]:
            error = (half[name].float() - expected[name]).abs().mean()
            # bfloat16 has 8 bits; ten layers of independent rounding stay within 1 % of the mean
            assert half[name].dtype == torch.bfloat16 and error < 0.01 * expected[name].mean()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, as it loads its compiler
def test_compiles(net):
    x = image(1, 3, 32, 32).requires_grad_()
    compiled = torch.compile(net, fullgraph=True)
    # Fused in another order: float32 rounding over sums of up to 4608.
    torch.testing.assert_close(compiled(x, ALL), net(x, ALL), rtol=1e-4, atol=1e-4)


def test_too_small_images_are_refused(net):
    with pytest.raises(ValueError, match="image must be at least 16 pixels"):
        net.features(image(1, 3, 15, 64), ["relu5_1"])


def test_random_weights_are_the_same_everywhere_and_leave_torch_alone(net):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    again = vgg.load_vgg(source="random", family="caffe")
    assert torch.equal(before, torch.get_rng_state())
    for a, b in zip(net.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    assert "random" in net.description and "caffe" in again.description
    # The same from NumPy's Mersenne Twister: 24 bits a number, spread over He's interval.
    first = net.convolutions[0].weight
    bits = np.random.RandomState(19).randint(0, 2**32, first.numel(), dtype=np.uint32)
    uniform = (bits & (2**24 - 1)) / 2**24
    expected = torch.from_numpy((2 * uniform - 1) * (6 / 27) ** 0.5).float()
    torch.testing.assert_close(first.flatten(), expected, rtol=0, atol=1e-7)
    # He's variance keeps the scale through the layers.
    for value in net.features(image(2, 3, 32, 32), ALL).values():
        assert 0.2 < value.square().mean().sqrt() < 5


def test_loads_both_formats_from_a_path(net, file, capsys):
    for family in ("torchvision", "caffe"):
        loaded = vgg.load_vgg(file, family)
        assert loaded.preprocess is vgg.FAMILIES[family]
        assert str(file) in loaded.description and family in loaded.description
        for a, b in zip(net.parameters(), loaded.parameters(), strict=True):
            assert torch.equal(a, b)
    assert capsys.readouterr().out == ""


def test_reads_keras_files(net, state, tmp_path):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "vgg19_notop.h5"
    with h5py.File(path, "w") as root:
        root.create_group("block1_pool")
        for row in vgg.CONVOLUTIONS:
            name = f"block{row.block}_conv{row.place}"
            weight = state[f"features.{row.number}.weight"].permute(2, 3, 1, 0)
            root[f"{name}/{name}_W_1:0"] = weight.numpy()
            root[f"{name}/{name}_b_1:0"] = state[f"features.{row.number}.bias"].numpy()
    loaded = vgg.load_vgg(path, "caffe")
    for a, b in zip(net.parameters(), loaded.parameters(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(UserError, match="HDF5 files hold caffe weights"):
        vgg.load_vgg(path, "torchvision")
    path.write_bytes(b"no such format")
    with pytest.raises(UserError, match="cannot be read as HDF5"):
        vgg.load_vgg(path, "caffe")


def test_keras_files_without_h5py(tmp_path, monkeypatch):
    path = tmp_path / "weights.h5"
    path.touch()
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UserError, match="needs h5py"):
        vgg.load_vgg(path, "caffe")


def test_without_weights_one_line_says_what_to_do(hub):
    for family, name in (("torchvision", "vgg19-dcbb9e9d.pth"), ("caffe", "vgg19-d01eb7cb.pth")):
        with pytest.raises(UserError) as caught:
            vgg.load_vgg(family=family)
        line = str(caught.value)
        for part in (name, str(hub), "--vgg_weights", "download", "--perceptual random", family):
            assert part in line
        assert "\n" not in line


def test_finds_the_official_file_in_the_cache(hub, official, file):
    (hub / official).write_bytes(file.read_bytes())
    assert "(sha256 verified)" in vgg.load_vgg().description


def test_downloads_only_when_asked_and_says_so(hub, official, capsys):
    with pytest.raises(UserError):
        vgg.load_vgg()
    assert not list(hub.iterdir())
    assert "sha256 verified" in vgg.load_vgg(download=True).description
    assert "downloading file://" in capsys.readouterr().out
    assert [f.name for f in hub.iterdir()] == [official]
    assert "sha256 verified" in vgg.load_vgg().description


def test_a_failed_download_leaves_nothing(hub, official, file, monkeypatch):
    for url, digest in (("file:///nowhere/x.pth", "00"), (file.as_uri(), "00000000")):
        table = {"torchvision": {official: ("sha256", digest, url)}}
        monkeypatch.setattr(vgg, "OFFICIAL", table)
        with pytest.raises(UserError, match=r"download of file:.* failed \(.*--vgg_weights"):
            vgg.load_vgg(download=True)
        assert not list(hub.iterdir())


def test_damaged_and_misplaced_official_files(tmp_path):
    damaged = tmp_path / "vgg19-dcbb9e9d.pth"
    damaged.write_bytes(b"half a file")
    with pytest.raises(
        UserError, match=r"damaged.*sha256 is [0-9a-f]{64}, must start with dcbb9e9d"
    ):
        vgg.load_vgg(damaged)
    with pytest.raises(UserError, match="holds torchvision weights, but the caffe family"):
        vgg.load_vgg(damaged, "caffe")
    keras = tmp_path / "vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5"
    keras.write_bytes(b"half a file")
    with pytest.raises(UserError, match=r"md5 is [0-9a-f]{32}, must be 253f8cb515780f3b79990026"):
        vgg.load_vgg(keras, "caffe")


def test_wrong_files_are_named_with_their_first_differences(state, tmp_path):
    path = tmp_path / "other.pth"

    def refuse(content, message):
        torch.save(content, path)
        with pytest.raises(UserError, match=message) as caught:
            vgg.load_vgg(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)

    few = {k: v for k, v in state.items() if k.split(".")[1] in ("0", "2")}
    refuse(few, "features.5.weight is missing; features.5.bias is missing; .* and 25 more")
    wrong = {**few, "features.0.weight": torch.zeros(64, 3, 5, 5), "features.1.weight": 0}
    refuse(wrong, r"features.0.weight must be \[64, 3, 3, 3\], is \[64, 3, 5, 5\]; features.5")
    refuse({"conv.weight": torch.zeros(1)}, "features.0.weight is missing")
    refuse([1, 2], "must hold a state dict, holds a list")
    refuse({"features.0.weight": print}, "holds more than tensors and plain values; refused")
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(UserError, match="not a whole checkpoint or file of tensors"):
        vgg.load_vgg(path)
    with pytest.raises(UserError, match="no such VGG19 weight file"):
        vgg.load_vgg(tmp_path / "absent.pth")


def test_arguments_are_checked():
    with pytest.raises(
        ValueError,
        match=r"family must be torchvision or caffe or torchvision16 or face, got 'keras'",
    ):
        vgg.load_vgg(family="keras")
    with pytest.raises(ValueError, match="source must be auto or random, got 'none'"):
        vgg.load_vgg(source="none")
    with pytest.raises(ValueError, match="pooling must be maxpool or avgpool, got 'min'"):
        vgg.load_vgg(source="random", pooling="min")


def test_vgg16_and_average_pooling():
    face = vgg.load_vgg(source="random", family="face", pooling="avgpool")
    assert len(face.convolutions) == 13 and "random VGG16" in face.description
    x = torch.rand(1, 3, 32, 32) * 2 - 1
    names = [perceptual.layer_name(k, perceptual.BLOCKS16) for k in (1, 6, 11, 18, 25)]
    assert names == [f"relu{b}_1" for b in range(1, 6)]
    assert [perceptual.layer_name(k) for k in (1, 6, 11, 20, 29)] == names
    with pytest.raises(ValueError, match=r"must be that of a ReLU, one of 1, 3, 6, .* got 4"):
        perceptual.layer_name(4)
    mean = torch.tensor([103.939, 116.779, 123.68]).view(1, 3, 1, 1)
    y = x * 127.5 + 127.5 - mean  # BGR mean, RGB image
    for place, name in zip((0, 2, 4, 7, 10), names, strict=True):
        start = {0: 0, 2: 0, 4: 2, 7: 4, 10: 7}[place]
        for k in range(start, place):
            y = face.convolutions[k](y).relu()
        if place:
            y = nn.functional.avg_pool2d(y, 2)
        got = face(x, [name])[name]
        torch.testing.assert_close(got, face.convolutions[place](y).relu(), atol=1e-3, rtol=1e-4)


def test_face_weights_have_no_address(hub, tmp_path):
    with pytest.raises(UserError, match=r"vgg16_face_caffe.pth is not in .*give the file with --f"):
        vgg.load_vgg(family="face", option="--face", download=True, folders=[tmp_path])
