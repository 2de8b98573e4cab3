"""A small model and batches for it."""

import torch

from nets.bilayer import NETWORKS
from nets.bilayer.network import build
from nets.run import checkpoints

OPTIONS = {
    "image_size": 32,
    "emb_num_channels": 8,
    "emb_max_channels": 16,
    "pse_num_channels": 16,
    "tex_num_channels": 8,
    "tex_max_channels": 16,
    "inf_num_channels": 4,
    "inf_max_channels": 8,
    "dis_num_channels": 8,
    "dis_max_channels": 16,
    "dis_num_blocks": 3,
    "enh_num_channels": 8,
    "enh_max_channels": 8,
    "enh_bottleneck_tensor_size": 16,
    "enh_num_blocks": 2,
    "enh_unrolling_depth": 2,
}
ENHANCED = {
    "pse_emb_source_pose": True,
    "inf_pred_source_data": True,
    "inf_calc_grad": True,
    "networks_train": list(NETWORKS),
    "networks_test": list(NETWORKS[:5]),
    "networks_to_train": list(NETWORKS),
}


def model(seed=0, networks=None, **options):
    torch.manual_seed(seed)
    return build({**OPTIONS, **options}, networks)


def avatar_run(folder, lively=False):
    """A run folder with a checkpoint of the networks that infer.py needs.

    lively  the pose changes the image clearly, which it hardly does before a training
    """
    options = {**OPTIONS, "spn_networks": []} if lively else OPTIONS
    net = model(networks=["identity_embedder", "texture_generator", "keypoints_embedder",
                          "inference_generator"], **options)  # fmt: skip
    if lively:
        with torch.no_grad():
            for name, parameter in net.keypoints_embedder.named_parameters():
                parameter.mul_(6 if name.endswith("weight") else 1)
    path = folder / "bilayer/checkpoints/step_00000003.pt"
    path.parent.mkdir(parents=True)
    content = {"system": "bilayer", "step": 3, "options": options}
    checkpoints.write(path, content | {"parts": {"model": net.state_dict()}})
    return folder / "bilayer"


def batch(b=2, n=1, t=1, size=32, seed=1):
    g = torch.Generator().manual_seed(seed)
    data = {}
    for role, frames in (("source", n), ("target", t)):
        for name, channels in (("imgs", 3), ("stickmen", 3), ("segs", 1)):
            value = torch.rand(b, frames, channels, size, size, generator=g)
            data[f"{role}_{name}"] = value if name == "segs" else value * 2 - 1
        data[f"{role}_poses"] = torch.rand(b, frames, 136, generator=g) * 2 - 1
    return data


def parameters(net):
    return sum(p.numel() for p in net.parameters())
