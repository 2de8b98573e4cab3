"""The two published VUNets as functions of their own state dicts, written from their description.

An independent form of what `nets.vunet` computes, for tests: no module, no shared block; the names
of the tensors are those in the published files. `randn(shape)` supplies the values.
"""

import torch
import torch.nn.functional as F


def s2d(x):
    n, c, h, w = x.shape
    x = x.view(n, c, h // 2, 2, w // 2, 2).permute(0, 3, 5, 1, 2, 4)
    return x.reshape(n, 4 * c, h // 2, w // 2)


def d2s(x):
    n, c, h, w = x.shape
    x = x.view(n, 2, 2, c // 4, h, w).permute(0, 3, 4, 1, 5, 2)
    return x.reshape(n, c // 4, 2 * h, 2 * w)


class Port:
    """The PyTorch program: whole images, coarsest map 1x1, n stages."""

    def __init__(self, n, start, cap, affine, randn):
        self.n, self.affine, self.p = n, affine, {}
        width = [min(start * 2**k, cap) for k in range(n)]

        def conv(name, i, o, k=1):
            if not affine:
                self.p[f"{name}.weight"] = randn(o, i, k, k) / (i * k * k) ** 0.5
                self.p[f"{name}.bias"] = randn(o) / 10
                return
            self.p[f"{name}.beta"] = randn(1, o, 1, 1) / 10
            self.p[f"{name}.gamma"] = 1 + randn(1, o, 1, 1) / 10
            self.p[f"{name}.conv.bias"] = randn(o) / 10
            self.p[f"{name}.conv.weight_g"] = 1 + randn(o, 1, 1, 1) / 10
            self.p[f"{name}.conv.weight_v"] = randn(o, i, k, k)

        def block(name, c, skip=True):
            conv(f"{name}.conv2d", 2 * c if skip else c, c, 3)
            if skip:
                conv(f"{name}.pre", c, c)

        for net in ("f_phi", "e_theta"):
            conv(f"{net}.in_op", 3, start)
            for k in range(1, n + 1):
                block(f"{net}.blocks.s{k}_1", width[k - 1], skip=False)
                block(f"{net}.blocks.s{k}_2", width[k - 1], skip=False)
            for k in range(2, n + 1):
                conv(f"{net}.downs.s{k}.down", width[k - 2], width[k - 1], 3)
        for i in range(3):
            block(f"zc.blocks.{i}", cap)
        conv("zc.conv1x1", cap, cap)
        conv("zc.up.up", cap, 4 * cap, 3)
        conv("zc.channel_norm", 2 * cap, cap)
        for name in (f"s{n}_2", f"s{n}_1", f"s{n - 1}_2", f"s{n - 1}_1"):
            block(f"bottleneck.blocks.{name}", cap)
        for name in (f"s{n}", f"s{n - 1}"):
            conv(f"bottleneck.channel_norm.{name}", 2 * cap, cap)
        conv("bottleneck.conv1x1", cap, cap)
        conv("bottleneck.up.up", cap, 4 * cap, 3)
        for i in range(4):
            block(f"bottleneck.auto_blocks.{i}", cap, skip=i > 0)
        conv("bottleneck.param_converter", 4 * cap, cap)
        for k in range(n - 2, 0, -1):
            block(f"decoder.blocks.s{k}_2", width[k - 1])
            block(f"decoder.blocks.s{k}_1", width[k - 1])
        for k in range(n - 1, 1, -1):
            conv(f"decoder.ups.s{k}.up", width[k - 1], 4 * width[k - 2], 3)
        conv("decoder.final_layer", width[0], 3)

    def conv(self, name, x, stride=1):
        p = self.p
        if not self.affine:
            w, b = p[f"{name}.weight"], p[f"{name}.bias"]
            return F.conv2d(x, w, b, stride, w.shape[-1] // 2)
        v, g = p[f"{name}.conv.weight_v"], p[f"{name}.conv.weight_g"]
        w = g * v / v.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        y = F.conv2d(x, w, p[f"{name}.conv.bias"], stride, w.shape[-1] // 2)
        return p[f"{name}.gamma"] * y + p[f"{name}.beta"]

    def block(self, name, h, a=None):
        r = h if a is None else torch.cat([h, self.conv(f"{name}.pre", a)], 1)
        return h + self.conv(f"{name}.conv2d", F.elu(r))

    def encode(self, net, x):
        kept, h = {}, self.conv(f"{net}.in_op", x)
        for k in range(1, self.n + 1):
            if k > 1:
                h = self.conv(f"{net}.downs.s{k}.down", h, stride=2)
            for i in (1, 2):
                h = kept[k, i] = self.block(f"{net}.blocks.s{k}_{i}", h)
        return kept

    def __call__(self, pose, appearance):
        """Image, q_n, q_{n-1}, p_n, p_{n-1}; the latents are the posterior means all the way."""
        n, f, e = self.n, self.encode("f_phi", appearance), self.encode("e_theta", pose)
        q = self.block("zc.blocks.0", self.conv("zc.conv1x1", f[n, 2]), f[n, 1])
        z = self.conv("zc.channel_norm", torch.cat([f[n, 1], q], 1))
        h = d2s(self.conv("zc.up.up", self.block("zc.blocks.1", q, z)))
        q_fine = s2d(self.block("zc.blocks.2", h, f[n - 1, 1]))

        name = "bottleneck"
        p = self.block(f"{name}.blocks.s{n}_2", self.conv(f"{name}.conv1x1", e[n, 2]), e[n, 2])
        h = self.conv(f"{name}.channel_norm.s{n}", torch.cat([p, q], 1))
        h = self.block(f"{name}.blocks.s{n}_1", h, e[n, 1])
        h = d2s(self.conv(f"{name}.up.up", h))
        h = self.block(f"{name}.blocks.s{n - 1}_2", h, e[n - 1, 2])
        group = q_fine.chunk(4, 1)
        t = [self.conv(f"{name}.param_converter", s2d(self.block(f"{name}.auto_blocks.0", h)))]
        t.append(self.block(f"{name}.auto_blocks.0", t[0]))
        t.append(self.block(f"{name}.auto_blocks.1", t[1], group[1]))
        t.append(self.block(f"{name}.auto_blocks.2", t[2], group[2]))
        h = self.conv(f"{name}.channel_norm.s{n - 1}", torch.cat([h, d2s(q_fine)], 1))
        h = self.block(f"{name}.blocks.s{n - 1}_1", h, e[n - 1, 1])

        for k in range(n - 2, 0, -1):
            h = d2s(self.conv(f"decoder.ups.s{k + 1}.up", h))
            h = self.block(f"decoder.blocks.s{k}_2", h, e[k, 2])
            h = self.block(f"decoder.blocks.s{k}_1", h, e[k, 1])
        image = self.conv("decoder.final_layer", h)
        return (image if self.affine else torch.tanh(image)), q, q_fine, p, torch.cat(t, 1)


class TensorFlow:
    """The TensorFlow program: body-part crops, n scales of the U-Net, n - box of the encoder.

    The first pass makes up the variables in the order in which it asks for them, as the program
    numbers its layers; later passes use them.
    """

    def __init__(self, n, box, start, cap, randn):
        self.n, self.box, self.start, self.cap, self.randn = n, box, start, cap, randn
        self.p, self.count = {}, {}

    def _layer(self, kind, x, outputs, stride=1):
        number = self.count.get((self.scope, kind), 0)
        self.count[self.scope, kind] = number + 1
        name = f"{self.scope}/{kind}_{number}"
        inputs = x.shape[1]
        if f"{name}/V" not in self.p:
            shape = (inputs, outputs) if kind == "dense" else (3, 3, inputs, outputs)
            self.p[f"{name}/V"] = self.randn(*shape)
            self.p[f"{name}/g"] = 1 + self.randn(outputs) / 10
            self.p[f"{name}/b"] = self.randn(outputs) / 10
        v = self.p[f"{name}/V"]
        v = v[None, None] if kind == "dense" else v
        w = self.p[f"{name}/g"] * v / v.square().sum((0, 1, 2)).sqrt()
        if stride == 2:
            x = F.pad(x, (0, 1, 0, 1))
        pad = 0 if kind == "dense" or stride == 2 else 1
        return F.conv2d(x, w.permute(3, 2, 0, 1), self.p[f"{name}/b"], stride, pad)

    def dense(self, x, outputs):
        return self._layer("dense", x, outputs)

    def conv(self, x, outputs, stride=1):
        return self._layer("conv2d", x, outputs, stride)

    def block(self, h, a=None):
        r = h if a is None else torch.cat([h, self.dense(F.elu(a), h.shape[1])], 1)
        return h + self.conv(F.elu(r), h.shape[1])

    def up(self, h, outputs):
        return d2s(self.conv(h, 4 * outputs))

    def encode(self, scope, x, width, scales):
        self.scope = scope
        kept, h = [], self.dense(x, width)
        for scale in range(scales):
            kept += [self.block(h)]
            kept += [self.block(kept[-1])]
            if scale + 1 < scales:
                h = self.conv(kept[-1], min(2 * kept[-1].shape[1], self.cap), stride=2)
        return kept

    def __call__(self, pose, crops):
        """Image, the two posterior means and the two prior means, coarsest first; latents are the
        posterior means all the way.
        """
        self.count = {}
        kept = self.encode("enc_up", crops, self.start * 2**self.box, self.n - self.box)
        self.scope = "enc_down"
        h = self.block(self.dense(kept[-1], kept[-1].shape[1]), kept.pop())
        q = [self.conv(h, h.shape[1])]
        h = self.block(h, torch.cat([kept.pop(), q[0]], 1))
        h = self.block(self.up(h, kept[-1].shape[1]), kept.pop())
        q.append(self.conv(h, h.shape[1]))
        h = self.block(h, torch.cat([kept.pop(), q[1]], 1))  # from here on nothing is used
        if kept:
            self.block(self.up(h, kept[-1].shape[1]), kept.pop())

        kept = self.encode("dec_up", pose, self.start, self.n)
        self.scope = "dec_down"
        p, h = [], self.dense(kept[-1], kept[-1].shape[1])
        for scale in range(self.n):
            h, c = self.block(h, kept.pop()), h.shape[1]
            if scale < 2:
                t, means = s2d(self.block(h)), []
                for i in range(4):
                    means.append(self.conv(t, c))
                    if i < 3:
                        t = self.block(t, s2d(q[scale])[:, i * c : (i + 1) * c])
                p.append(d2s(torch.cat(means, 1)))
                h = self.dense(torch.cat([h, q[scale]], 1), c)
            h = self.block(h, kept.pop())
            if scale + 1 < self.n:
                h = self.up(h, kept[-1].shape[1])
        self.scope = "dec_params"
        return self.conv(h, 3), *q, *p
