"""The published head avatars as functions of their state dicts, written from their description.

An independent form of what `nets.bilayer` computes in evaluation mode, for tests: no module, no
shared block, torch's plain functions, a loop for every adaptive convolution. One file's tensors
(`EPOCH_NETWORK.pth`) are a `Net`; sizes are read off them, but for the two widths of a generator.
"""

import torch
import torch.nn.functional as F

EPS = 1e-7


def act(x):
    return F.leaky_relu(x, 0.2)


def twice(x):
    return F.interpolate(x, scale_factor=2, mode="nearest")


def adaptive(x, weight, bias):
    """1x1 convolutions, each set of parameters for as many rows as come on it."""
    each = len(x) // len(weight)
    rows = range(len(x))
    made = [
        F.conv2d(x[i : i + 1], weight[i // each][..., None, None], bias[i // each]) for i in rows
    ]
    return torch.cat(made)


class Net:
    """In float64."""

    def __init__(self, state):
        self.p = {name: value.double() for name, value in state.items()}

    def weight(self, name):
        w = self.p[f"{name}.weight_orig"]
        return w / (self.p[f"{name}.weight_u"] @ w.flatten(1) @ self.p[f"{name}.weight_v"])

    def conv(self, name, x):
        w = self.weight(name)
        return F.conv2d(x, w, self.p.get(f"{name}.bias"), padding=w.shape[-1] // 2)

    def linear(self, name, x):
        return F.linear(x, self.weight(name), self.p[f"{name}.bias"])

    def norm(self, name, x):
        p, leaves = self.p, ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(p.get(f"{name}.{leaf}") for leaf in leaves), eps=EPS)

    def block(self, name, x, down=False):
        """Without norms; and the features."""
        feats = act(self.conv(f"{name}.block_feats.1", act(x)))
        y = self.conv(f"{name}.block.0", feats)
        if f"{name}.skip.0.bias" in self.p:
            x = self.conv(f"{name}.skip.0", x)
        return (F.avg_pool2d(x, 2) + F.avg_pool2d(y, 2) if down else x + y), feats

    def count(self, prefix):
        """Of the numbered modules behind a prefix."""
        return 1 + max(int(k[len(prefix) :].split(".")[0]) for k in self.p if k.startswith(prefix))


def embed(net, image, stickman, mask):
    """Embeddings of (b, n, ...) images, the mean over n."""
    b, n = image.shape[:2]
    x = torch.cat([image * mask - (1 - mask), stickman], 2).flatten(0, 1)
    x = net.conv("net.enc.0", x)
    for i in range(1, net.count("net.enc.")):
        x = net.block(f"net.enc.{i}", x, down=True)[0]
    embeds = []
    for i in range(net.count("net.dec_blocks.")):
        x, feats = net.block(f"net.dec_blocks.{i}", x)
        embeds.append(feats.unflatten(0, (b, n)).mean(1))
    return embeds


def predict(net, prefix, embeds, widths, hidden):
    """(weight, bias) of every set, stage by stage.

    widths, hidden  (channels of the finest scale, the most) of the generator, of the embedder
    """
    made = []
    for p, e in enumerate(embeds):
        i = len(embeds) - p
        share = min(widths[0] * 2**i, widths[1]) / min(hidden[0] * 2**i, hidden[1])
        side, (b, c) = int(32 * share), e.shape[:2]
        rows = int(c * share)
        e = F.adaptive_avg_pool2d(e, side).reshape(b * rows, int(side * side / share))
        for q in range(net.count(f"{prefix}.fc_blocks.{p}.")):
            y = e
            for layer in range(3):
                y = net.linear(f"{prefix}.fc_blocks.{p}.{q}.{layer}", y)
            y = y.view(b, rows, -1)
            made.append((y[..., :-1], y[..., -1]))
    return made


def texture(net, embeds, widths, hidden):
    sets, b = predict(net, "prj_tex", embeds, widths, hidden), len(embeds[0])

    def spade(name, x, pair):
        maps = net.p[f"{name}.pixel_feats"].expand(b, -1, -1, -1)
        scale, shift = (adaptive(maps, *one) for one in pair)
        return net.norm(f"{name}.norm_layer", x) * (1 + scale) + shift

    def bias(name):  # behind a convolution, if there is one
        return net.p.get(f"{name}.bias", 0) if f"{name}.bias" in net.p else 0

    x, last = net.p["gen_tex_input"].expand(b, -1, -1, -1), len(embeds)
    extra = "gen_tex.blocks.0.block.1.bias" in net.p
    for i in range(last):
        at, mine = f"gen_tex.blocks.{i}", sets[5 * i : 5 * i + 5]
        before = sets[5 * i - 2 : 5 * i]
        first = f"{at}.block_feats.0"
        h = spade(first, x, before) if i else net.norm(first, x)
        h = net.conv(f"{at}.block_feats.3", twice(act(h)))
        h = h + bias(f"{at}.block_feats.4") if extra else h
        h = act(spade(f"{at}.block_feats.{5 if extra else 4}", h, mine[:2]))
        h = net.conv(f"{at}.block.0", h)
        h = h + bias(f"{at}.block.1") if extra else h
        x = h + adaptive(twice(x), *mine[2])
    x = act(spade(f"gen_tex.blocks.{last}", x, sets[-2:]))
    return torch.tanh(net.conv("gen_tex.heads.0.0", x))


def embed_pose(net, poses):
    x, last = poses, net.count("net.mlp.") - 1
    for i in range(0, last, 2):
        x = act(net.linear(f"net.mlp.{i}", x))
    return net.linear(f"net.mlp.{last}", x)


def infer(net, embeds, poses, texture, widths, hidden):
    """Low frequencies, high frequencies, where they were read, mask: of (N, C, s, s) poses."""
    sets = predict(net, "prj_inf", embeds, widths, hidden)
    each = len(poses) // len(texture)

    def norm(name, x, pair):
        scale, shift = (
            t.repeat_interleave(each, 0)[..., None, None] for t in (pair[0][..., 0], pair[1])
        )
        return net.norm(f"{name}.norm_layer", x) * (1 + scale) + shift

    x, last = poses, len(embeds)
    for i in range(last):
        at, mine = f"gen_inf.blocks.{i}", sets[3 * i : 3 * i + 3]
        first = f"{at}.block_feats.0"
        h = norm(first, x, sets[3 * i - 1]) if i else net.norm(first, x)
        h = net.conv(f"{at}.block_feats.2", act(h))
        h = net.conv(f"{at}.block.1", twice(act(norm(f"{at}.block_feats.3", h, mine[0]))))
        x = h + adaptive(twice(x), *mine[1])
    x = act(norm(f"gen_inf.blocks.{last}", x, sets[-1]))
    delta, low, logits = (net.conv(f"gen_inf.heads.{i}.0", x) for i in range(3))
    uvs = net.p["identity_grid"] + delta.tanh().permute(0, 2, 3, 1)
    high = look(texture.repeat_interleave(each, 0), uvs)
    return low.tanh(), high, uvs, logits.sigmoid()


def look(texture, uvs):
    return F.grid_sample(texture, uvs, "bilinear", "zeros", align_corners=False)


def enhance(net, texture, image, uvs, low, mask, steps):
    """The texture after so many learned steps on one source image of each identity."""
    image = image * mask - (1 - mask)
    last = net.count("net.blocks.") - 1
    for _ in range(steps):
        leaf = texture.detach().requires_grad_()
        with torch.enable_grad():
            made = (low + look(leaf, uvs)) * mask - (1 - mask)
            slope = torch.autograd.grad((image - made).square().sum() / 2, leaf)[0]
        x = net.conv("net.blocks.0", torch.cat([texture, slope], 1))
        x = net.block("net.blocks.1", x, down=True)[0]
        for i in range(2, last - 3):
            x = net.block(f"net.blocks.{i}", x)[0]
        at = f"net.blocks.{last - 3}"  # upwards; behind it nothing, an activation and the output
        h = net.conv(f"{at}.block.0", act(net.conv(f"{at}.block_feats.2", twice(act(x)))))
        x = h + net.conv(f"{at}.skip.1", twice(x))
        texture = texture + net.conv(f"net.blocks.{last}", act(x)).tanh()
    return texture


def judge(net, x, downs):
    """Scores and features of images beside their stickmen."""
    x, feats = net.conv("net.first_conv", x), []
    for i in range(net.count("net.blocks.")):
        at = f"net.blocks.{i}"
        h = net.conv(f"{at}.block_feats.2", act(net.norm(f"{at}.block_feats.0", x)))
        feats.append(act(net.norm(f"{at}.block_feats.3", h)))
        y = net.conv(f"{at}.block.0", feats[-1])
        x = net.conv(f"{at}.skip.0", x) if f"{at}.skip.0.bias" in net.p else x
        x = F.avg_pool2d(x, 2) + F.avg_pool2d(y, 2) if i < downs else x + y
    return net.conv("net.linear", act(net.norm("net.final_block.0", x))), feats
