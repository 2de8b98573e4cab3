"""The published landmark networks as one function of their state dict, from their description.

An independent form of what `nets.landmarks` computes, for tests: no module, no shared block, plain
functions of torch; the names of the tensors are those in the published files.
"""

import torch
import torch.nn.functional as F


def axis(n, dtype):
    return -1 + 2 * torch.arange(n, dtype=dtype) / n


def twice(x, corners):
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=corners)


class Landmarks:
    """The networks in one dtype.

    p  the state dict; fixed  a fixed covariance or None; low  masks at a quarter of the size
    """

    def __init__(self, p, fixed=None, low=False, dtype=torch.float64):
        self.p = {name: value.to(dtype) for name, value in p.items()}
        self.fixed, self.low, self.dtype = fixed, low, dtype

    def conv(self, name, x, stride=1):
        w = self.p[f"{name}.weight"]
        return F.conv2d(x, w, self.p[f"{name}.bias"], stride, w.shape[-1] // 2)

    def unit(self, name, x, stride=1):
        return F.relu(F.instance_norm(self.conv(f"{name}.0", x, stride), eps=1e-5))

    def unet(self, name, x, downs, ups):
        at = f"{name}.encoder_layers"
        x = self.unit(f"{at}.0.1", self.unit(f"{at}.0.0", x))
        levels = [self.unit(f"{at}.0.2.1", self.unit(f"{at}.0.2.0", x, 2))]
        for i in range(1, downs):
            levels.append(self.unit(f"{at}.{i}.1", self.unit(f"{at}.{i}.0", levels[-1], 2)))
        y = self.unit(f"{name}.decoder_layers.0", levels[-1])
        for i in range(1, ups + 1):
            y = y + F.relu(self.conv(f"{name}.skip_convs.{i - 1}.0", levels[downs - i]))
            at = f"{name}.decoder_layers.{i}" + (".0" if i == ups else "")
            y = self.unit(f"{at}.2", twice(self.unit(f"{at}.0", y), corners=True))
        return self.conv(f"{name}.decoder_layers.{ups}.1", y), levels[0]

    def find(self, image):
        logits, features = self.unet("shape_encoder", image, 4, 3)
        n, k, h, w = logits.shape
        maps = logits.flatten(2).softmax(-1).view(n, k, h, w)
        x, y = axis(w, self.dtype).view(1, 1, 1, -1), axis(h, self.dtype).view(1, 1, -1, 1)
        mean = torch.stack([(maps * x).sum((2, 3)), (maps * y).sum((2, 3))], -1)
        dx, dy = x - mean[..., 0, None, None], y - mean[..., 1, None, None]
        parts = [(maps * a * b).sum((2, 3)) for a, b in ((dx, dx), (dx, dy), (dx, dy), (dy, dy))]
        covariance = torch.stack(parts, -1).view(n, k, 2, 2)
        if self.fixed is not None:
            covariance = (self.fixed * torch.eye(2, dtype=self.dtype)).expand(n, k, 2, 2)
        return maps, mean, covariance, features

    @staticmethod
    def drawn(mean, covariance, size):
        y, x = torch.meshgrid(axis(size, mean.dtype), axis(size, mean.dtype), indexing="ij")
        d = torch.stack([x, y], -1) - mean[:, :, None, None]
        squared = torch.einsum("nkhwi,nkij,nkhwj->nkhw", d, torch.linalg.inv(covariance), d)
        return 1 / (1 + squared)

    def spectral(self, name, x):
        w = self.p[f"{name}.weight_orig"]
        sigma = self.p[f"{name}.weight_u"] @ w.flatten(1) @ self.p[f"{name}.weight_v"]
        return F.conv2d(x, w / sigma, self.p.get(f"{name}.bias"), padding=w.shape[-1] // 2)

    def spade(self, name, x, maps):
        seg = F.interpolate(maps, size=x.shape[2:], mode="bilinear", align_corners=False)
        hidden = F.relu(self.conv(f"{name}.mlp_shared.0", seg))
        scale = 1 + self.conv(f"{name}.mlp_gamma", hidden)
        return F.instance_norm(x, eps=1e-5) * scale + self.conv(f"{name}.mlp_beta", hidden)

    def block(self, name, x, maps):
        y = self.spectral(
            f"{name}.conv_0", F.leaky_relu(self.spade(f"{name}.norm_0", x, maps), 0.2)
        )
        y = self.spectral(
            f"{name}.conv_1", F.leaky_relu(self.spade(f"{name}.norm_1", y, maps), 0.2)
        )
        if f"{name}.conv_s.weight_orig" in self.p:
            x = self.spectral(f"{name}.conv_s", self.spade(f"{name}.norm_s", x, maps))
        return x + y

    def generate(self, maps, style):
        size = maps.shape[-1]

        def head(part):
            small = F.interpolate(style, size=(size // part, size // part), mode="nearest")
            return self.block("image_decoder.head_0", self.conv("image_decoder.fc", small), maps)

        x = 0.5 * twice(head(16), corners=False) + 0.5 * head(8)
        for name in ("G_middle_0", "G_middle_1", "up_0", "up_1", "up_4"):
            x = twice(x, corners=False) if name.startswith("up") else x
            x = self.block(f"image_decoder.{name}", x, maps)
        return self.conv("image_decoder.conv_img", F.leaky_relu(x, 0.2))

    def mask(self, maps):
        if not self.low:
            return torch.sigmoid(self.unet("fg_mask_net", maps, 3, 3)[0])
        logits = self.unet("fg_mask_net.0", maps, 3, 1)[0]
        large = F.interpolate(logits, scale_factor=4, mode="bilinear", align_corners=False)
        return torch.sigmoid(large)

    def __call__(self, pose_image, appearance_image):
        """The fields of `nets.landmarks.Output` that there are, by their names."""
        size = pose_image.shape[-1]
        heatmaps, means, covariances, _ = self.find(pose_image)
        seen, seen_means, seen_covariances, features = self.find(appearance_image)
        maps = self.drawn(means, covariances, size)
        pooled = self.unet("appearance_encoder", torch.cat([seen, features], 1), 1, 1)[0]
        vectors = torch.einsum("nchw,nkhw->nkc", pooled, seen) / seen[0, 0].numel()
        style = torch.einsum("nkc,nkhw->nchw", vectors, maps) / (1 + maps.sum(1, keepdim=True))
        picture = foreground = self.generate(maps, style)
        out = {"means": means, "heatmaps": heatmaps, "gaussian_maps": maps,
               "appearance_means": seen_means, "appearance_heatmaps": seen}  # fmt: skip
        if "bg_net.skip_convs.0.0.weight" in self.p:
            here = self.mask(maps)
            there = self.mask(self.drawn(seen_means, seen_covariances, size))
            behind = self.unet("bg_net", (1 - there) * appearance_image, 3, 3)[0]
            picture = behind * (1 - here) + foreground * here
            out |= {"background": behind, "mask": here, "appearance_mask": there}
        return out | {"foreground": foreground, "reconstruction": picture}
