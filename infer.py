"""Pictures from a trained network: the appearance of one in the pose of another.

    python infer.py                                       the newest run, demo pictures
    python infer.py -s me.jpg -d dancer.jpg -o out.png --source_joints me.json \\
                    --driving_joints dancer.json          one picture out of two
    python infer.py -s me.jpg -d poses/ -o out/ ...       several: a grid and single pictures
    python infer.py -d dancer.jpg --samples 8 -o out/ ... appearances drawn for a pose

The system is known from the checkpoint; --help has a group of options for each.
"""

from __future__ import annotations

from nets import systems
from nets.run import checkpoints, options
from nets.run.options import add_flag
from nets.run.ranks import Ranks


# fmt: off
def parser() -> options.ArgumentParser:
    p = options.tool_parser(__doc__.split("\n\n")[0])
    g = p.add_argument_group("inference")
    add = g.add_argument
    add("--checkpoint", type=str | None, default=None,
        help="a checkpoint or run folder, an original's too; default: the newest under runs/")
    add("-s", "--source", type=str, nargs="+", default=[], metavar="PICTURE",
        help="where the appearance comes from: pictures or folders of them")
    add("-d", "--driving", type=str, nargs="+", default=[], metavar="PICTURE",
        help="where the pose comes from: pictures or folders of them")
    add("-o", "--out", type=str, default="out.png",
        help="a picture; of several transfers a grid, with the single ones in a folder beside it")
    add_flag(g, "--grid", False, "also of one pair: poses above, sources to the left")
    return p
# fmt: on


@options.user_errors()
def main(argv: list[str] | None = None) -> None:
    p = parser()
    owners = systems.add_options(p, "inference")
    args = options.parse(p, argv)
    path = checkpoints.find(args.checkpoint)
    content = checkpoints.read(path)
    print(checkpoints.describe(content, path))
    systems.refuse_foreign(args, p, owners, content["system"])
    systems.call(content["system"], "inference", "infer", args, content, path, Ranks(args.device))


if __name__ == "__main__":
    main()
