"""Pictures from a trained network: the appearance of one in the pose of another.

python infer.py                                            the newest run, demo pictures
python infer.py -s me.jpg -d dancer.jpg -o out.png --source_joints me.json --driving_joints d.json
python infer.py -s me.jpg -d poses/ -o out/ ...            a folder: a grid and single pictures
python infer.py -s a.jpg b.jpg -d c.jpg d.jpg --grid -o grid.png ...
python infer.py -d dancer.jpg --samples 8 -o samples.png   appearances drawn for a pose
"""

from __future__ import annotations
