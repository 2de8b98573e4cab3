"""Small data in the formats that the scripts read."""

import torch

from nets.data.io.images import write_image
from nets.data.people.index import write_index
from nets.worlds.people.world import PeopleWorld


def index_folder(folder, count=12, size=48):
    """A dataset with an index.p: images of the demo world, every third one for testing."""
    world = PeopleWorld("train", size, length=count)
    samples = world.__getitems__([(0, i) for i in range(count)])
    names = [f"images/{i}.png" for i in range(count)]
    for name, sample in zip(names, samples, strict=True):
        write_image(folder / name, sample["target"])
    joints = torch.stack([s["joints"] for s in samples]) / size
    train = [i % 3 != 0 for i in range(count)]
    write_index(folder / "index.p", list(world.joint_order), names, joints.numpy(), train)
    return folder / "index.p"
