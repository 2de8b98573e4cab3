"""Folders of the published program's networks, read and written."""

import pytest
import torch

from nets.data.io import torch7
from nets.data.io.torch7 import Record
from nets.dcign import DCIGN, RMSprop
from nets.dcign import published as dcign
from nets.dcign.options import parser
from nets.errors import UserError
from nets.published import read_checkpoint, recognise
from nets.run import checkpoints


def writer(folder):
    def write(name, content):
        with open(folder / name, "wb") as file:
            content(file)

    return write


@pytest.fixture
def network(tmp_path):
    """(folder, model, vector): a network of 5 latents and 8 maps with weights by a formula."""
    model = DCIGN(5, 8)
    count = sum(p.numel() for p in model.parameters())
    vector = torch.sin(torch.arange(count, dtype=torch.float64)).float() * 0.1
    start = 0
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(vector[start : start + p.numel()].view(p.shape))
            start += p.numel()
    folder = tmp_path / "net"
    folder.mkdir()
    command = {"dim_hidden": 5, "feature_maps": 8, "no_load": "true"}
    bounds = {"lowerbound": [-9000.0, -8000.0], "lowerbound_test": [-9100.0, -8100.0]}
    dcign.save(writer(folder), model, None, bounds, command)
    return folder, model, vector


def test_a_folder_gives_the_same_network(network):
    folder, model, vector = network
    loaded, options = dcign.load(folder)
    assert not loaded.training and recognise(folder) == "dcign"
    assert options["dim_hidden"] == 5 and options["feature_maps"] == 8
    assert options["num_epochs"] == 2 and options["lower_bound_test"] == [-9100.0, -8100.0]
    image = torch.rand(2, 1, 150, 150)
    for a, b in zip(loaded(image), model(image), strict=True):
        assert torch.equal(a, b)
    # By hand: offsets of the published table for D = 5, F = 8, P = 450.
    start = 8 * 25 + 8 + 4 * 8 * 25 + 4 + 2 * 4 * 25 + 2
    head = vector[start : start + 5 * 450].view(5, 450)
    assert torch.equal(loaded.mu.weight, head)
    last = loaded.decoder[-1]
    assert torch.equal(last.weight.flatten(), vector[-8 * 49 - 1 : -1])
    assert last.bias.item() == vector[-1].item()


def test_a_gpu_vector_alone_gives_its_sizes(tmp_path):
    count = 890_737 + 16_202 * 3
    data = torch7.dumps(torch.zeros(count)).replace(b"torch.FloatTensor", b"torch.CudaTensor")
    data = data.replace(b"torch.FloatStorage", b"torch.CudaStorage")
    data = data.replace(b"\x11\0\0\0torch.C", b"\x10\0\0\0torch.C")
    data = data.replace(b"\x12\0\0\0torch.C", b"\x11\0\0\0torch.C")
    (tmp_path / "params.t7").write_bytes(data)
    model, options = dcign.load(tmp_path / "params.t7")
    assert options["dim_hidden"] == model.latents == 3 and model.maps == 96
    assert recognise(tmp_path / "params.t7") == "dcign" and recognise(tmp_path) is None


def one_step(net, optimizer):
    optimizer.zero_grad()
    out, _, log_variance = net(torch.ones(2, 1, 150, 150) * 0.3)
    (out.square().sum() + log_variance.square().sum()).backward()
    optimizer.step()


@pytest.mark.parametrize("where", ["state.t7", "config.t7"])
def test_the_optimisers_state_is_found_in_either_file(network, where):
    folder, model, _ = network
    optimizer = RMSprop(model.parameters(), lr=1e-3, momentum_decay=0.2)
    for _ in range(2):
        one_step(model, optimizer)
    dcign.save(writer(folder), model, optimizer)
    if where == "state.t7":
        table = torch7.read(folder / "config.t7")
        state = {k: table.pop(k) for k in ("evalCounter", "m", "v")}
        (folder / "state.t7").write_bytes(torch7.dumps(state))
        (folder / "config.t7").write_bytes(torch7.dumps(table))
    loaded, options = dcign.load(folder)
    assert options["lr"] == 1e-3 and options["momentum_decay"] == 0.2
    other = RMSprop(loaded.parameters())
    other.load_state_dict(dcign.optimizer_state(folder, loaded))
    for net, stepper in ((model, optimizer), (loaded, other)):
        one_step(net, stepper)
    for a, b in zip(model.parameters(), loaded.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_folder_without_state(network):
    assert dcign.optimizer_state(network[0], network[1]) is None


def test_what_does_not_fit_is_named(network):
    folder, _, vector = network
    with pytest.raises(UserError) as caught:
        dcign.load(folder, dim_hidden=7, feature_maps=8, image_size=64)
    line = str(caught.value)
    assert "parameters.t7: does not fit" in line
    assert "image_size must be 150, the options say 64" in line
    assert "dim_hidden is 5 in cmd_options.txt, the options say 7" in line
    assert "are those of dim_hidden 5, not of 7" in line
    (folder / "cmd_options.txt").unlink()
    with pytest.raises(UserError, match="fit no number of latents with feature_maps 96"):
        dcign.load(folder)
    assert dcign.load(folder, feature_maps=8)[1]["dim_hidden"] == 5
    (folder / "parameters.t7").write_bytes(torch7.dumps(vector.view(1, -1)))
    with pytest.raises(UserError, match="must hold the weights as one vector"):
        dcign.load(folder, feature_maps=8)
    vector[17] = float("nan")
    (folder / "parameters.t7").write_bytes(torch7.dumps(vector))
    with pytest.raises(UserError, match=r"element 18 of .* is nan"):
        dcign.load(folder, feature_maps=8)
    with pytest.raises(UserError, match="nothing"):
        dcign.load(folder / "nothing")
    with pytest.raises(UserError, match="colour is not an option"):
        dcign.load(folder, colour=True)


def test_broken_state_is_named(network):
    folder, model, vector = network
    (folder / "state.t7").write_bytes(torch7.dumps({"m": vector[:3], "v": vector}))
    with pytest.raises(UserError, match=r"state\.t7: m must be a vector of"):
        dcign.optimizer_state(folder, model)


def test_the_whole_model_without_parameters(network):
    """vxnet.net: encoder, sampler, decoder with their modules; weights may be two-dimensional."""
    folder, model, _ = network
    flat = iter(list(model.parameters()))

    def layer(name):
        weight, bias = next(flat).detach(), next(flat).detach()
        return Record(name, {"weight": weight.flatten(1), "bias": bias, "gradWeight": weight * 0})

    def sequence(*modules):
        return Record("nn.Sequential", {"modules": list(modules), "train": True})

    pool = Record("nn.SpatialMaxPooling", {"kW": 2})
    encoder = [m for _ in range(3) for m in (layer("cudnn.SpatialConvolution"), pool)]
    heads = [
        sequence(layer("nn.LinearCR"), Record("nn.SelectiveOutputClamp", {"passthrough": 0.0}))
        for _ in range(2)
    ]
    concat = Record("nn.ConcatTable", {"modules": heads})
    decoder = [layer("nn.LinearCR"), *(layer("nn.SpatialConvolution") for _ in range(4))]
    sampler = Record("nn.Reparametrize", {"dimension": 5.0})
    whole = sequence(sequence(*encoder, concat), sampler, sequence(*decoder))
    (folder / "parameters.t7").unlink()
    (folder / "vxnet.net").write_bytes(torch7.dumps(whole))
    loaded = dcign.load(folder)[0].state_dict()
    assert all(torch.equal(loaded[k], v) for k, v in model.state_dict().items())
    (folder / "vxnet.net").write_bytes(torch7.dumps(sequence(pool)))
    with pytest.raises(UserError, match=r"vxnet\.net: holds no weights"):
        dcign.load(folder)


def test_the_whole_model_has_the_published_modules(network):
    """vxnet.net: names and order of the modules, their fields, and one storage for all weights."""
    folder, model, vector = network
    whole = torch7.read(folder / "vxnet.net")

    def inner(record):
        return record.fields["modules"].sequence()

    def names(records):
        return [record.name.removeprefix("nn.") for record in records]

    assert names([whole, *inner(whole)]) == ["Sequential", "Sequential", "Reparametrize",
                                             "Sequential"]  # fmt: skip
    encoder, sampler, decoder = inner(whole)
    conv = ["SpatialConvolution", "SpatialMaxPooling", "Threshold"]
    assert names(inner(encoder)) == [*conv * 3, "Reshape", "ConcatTable"]
    up = ["SpatialUpSamplingNearest", "SpatialConvolution"]
    assert names(inner(decoder)) == ["LinearCR", "Threshold", "Reshape", *[*up, "Threshold"] * 3,
                                     *up, "Sigmoid"]  # fmt: skip
    heads = inner(inner(encoder)[-1])
    assert [names(inner(head)) for head in heads] == [
        ["LinearCR", "SelectiveGradientFilter", "SelectiveOutputClamp"]
    ] * 2
    layers = [m for m in inner(encoder) if "weight" in m.fields]
    layers += [inner(head)[0] for head in heads]
    layers += [m for m in inner(decoder) if "weight" in m.fields]
    start = 0
    for layer, weight in zip(layers, [p for p in model.parameters() if p.ndim > 1], strict=True):
        fields = layer.fields
        assert fields["weight"].shape == fields["gradWeight"].shape == weight.shape
        assert fields["bias"].shape == fields["gradBias"].shape
        for name in ("weight", "bias"):  # views of one storage, in the order of parameters.t7
            assert fields[name].storage_offset() == start
            start += fields[name].numel()
    assert start == len(vector)
    assert len({m.fields["weight"].untyped_storage().data_ptr() for m in layers}) == 1
    assert sampler.fields["dimension"] == 5
    for reshape, sides in ((inner(encoder)[9], [450]), (inner(decoder)[2], [2, 15, 15])):
        assert reshape.fields["size"].tolist() == sides and reshape.fields["nelement"] == 450
        assert reshape.fields["batchsize"].tolist() == [1, *sides]
    assert b"torch.LongStorage" in (folder / "vxnet.net").read_bytes()
    for module in (whole, sampler, *inner(encoder), *inner(decoder)):  # a forward pass fills them
        assert {"output", "gradInput", "_type", "train"} <= module.fields.keys()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("magic: true\nmore: 1\n", "cmd_options.txt: unknown options: magic, more; if the network"),
        ("dim_hidden: many\n", "cmd_options.txt: dim_hidden must be a whole number > 0, got many"),
        ("feature_maps: 0\n", "cmd_options.txt: feature_maps must be a whole number > 0, got 0"),
        ("image_size: 64\n", "cmd_options.txt: image_size must be 150, got 64"),
        ("likelihood: gaussian\n", "likelihood must be bernoulli, got gaussian"),
        ("regime: mixed\n", "regime must be disentangled or entangled, got mixed"),
        ("groups: light\n", "groups must be a list of NAME=LATENTS, got light"),
    ],
)
def test_options_of_the_folder_are_known_and_possible(network, lines, message):
    (network[0] / "cmd_options.txt").write_text(lines)
    with pytest.raises(UserError, match=message):
        dcign.load(network[0])


def test_groups_of_the_folder_are_followed(network):
    text = "dim_hidden: 5\nfeature_maps: 8\ngroups: ['light=1', 'shape=rest@SHAPE_VARIED']\n"
    (network[0] / "cmd_options.txt").write_text(text)
    assert dcign.load(network[0])[1]["groups"] == ["light=1", "shape=rest@SHAPE_VARIED"]


def test_every_option_is_followed_or_changes_no_number():
    """The options file may hold any option of the training script, and any published one."""
    p = parser("x")
    names = {a.dest for a in p._actions} - {"print_shtab"} | p.renamed.keys()
    assert names <= dcign.FOLLOWED.keys() | dcign.NO_NUMBER


def test_a_folder_is_read_as_a_checkpoint(network):
    folder, model, _ = network
    content = read_checkpoint(folder, "dcign")
    assert content["options"]["regime"] == "disentangled" and content["step"] == 0
    other = DCIGN(5, 8)
    checkpoints.load_weights(content, other, folder)
    assert torch.equal(other.mu.weight, model.mu.weight)
    assert "published program, 5 latents" in checkpoints.describe(content, folder)
