"""People and faces followed through frames."""

import os
from pathlib import Path

import pytest
import torch

from nets.data.detectors.following import Follow, FollowFace, FollowPeople
from nets.data.detectors.interface import Person
from nets.data.io.images import read_image


def test_a_followed_person_is_not_replaced_by_a_part_of_it():
    """If the search near the last place finds only a hand, the whole image is searched."""
    joints = torch.zeros(15, 2)
    small, large, gone = (
        Person(joints, (float(x), 20.0, x + side / 3, 20.0 + side))
        for x, side in ((30, 25), (28, 100), (300, 100))
    )

    class Scripted:
        def people(self, image, near=None):
            return [small] if near else everybody

    follow, image = Follow(Scripted(), 2), torch.zeros(3, 8, 8, dtype=torch.uint8)
    everybody = [gone]
    assert follow(image) is None  # no second person yet
    everybody = [gone, large]
    assert follow(image) is large
    everybody = [gone, small, large]
    assert follow(image) is large
    everybody = [gone, small]
    assert follow(image) is None


def front_face():
    """Points of a face whose eyes are far apart, up to 1."""
    face = torch.rand(68, 2, generator=torch.Generator().manual_seed(0))
    face[36], face[45] = torch.tensor([0.1, 0.4]), torch.tensor([0.9, 0.4])
    return face


class Moving:
    """A detector of one face that moves with the first pixel's level; it counts its searches."""

    def __init__(self):
        self.whole, self.near = [], []

    def faces(self, image, near=None, known=None):
        level = float(image[0, 0, 0])
        (self.whole if near is None else self.near).append(level)
        if level == 255:
            return []  # nobody
        face = front_face() * 40
        if near is None:
            return [face + level]
        shift = 0.01 * (near[0, 0].item() - level)  # remembers where it was: so tests see the past
        return [face + level + shift] if (near[0, 0] - face[0, 0] - level).abs() < 30 else []


def levels(*values):
    return [torch.full((3, 4, 4), value, dtype=torch.uint8) for value in values]


def test_a_followed_face_is_searched_whole_now_and_then_and_when_lost():
    detector = Moving()
    follow = FollowFace(detector, 4)
    found = [follow(image) for image in levels(0, 1, 2, 3, 4, 5, 60, 61, 62)]
    assert detector.whole == [0, 4, 60, 62]  # the 60 jumped; 62 is the ninth
    assert detector.near == [1, 2, 3, 5, 60, 61]
    for level, points in zip((0, 1, 2, 3, 4, 5, 60, 61, 62), found, strict=True):
        assert abs(points.mean().item() - level - found[0].mean().item()) < 1
    detector = Moving()
    follow = FollowFace(detector, 4)
    assert [follow(image) is None for image in levels(0, 255, 255, 3, 4)] == [
        False, True, True, False, False]  # fmt: skip
    assert detector.whole == [0, 255, 255, 3, 4]  # after a frame without a face too
    detector = Moving()
    for image in levels(0, 1, 2):
        FollowFace(detector, 4, seconds=0.5)(image)
    assert detector.whole == [0, 1, 2] and not detector.near  # frames too far apart


def test_a_face_in_profile_is_searched_whole():
    asked = []

    class Turning:
        def faces(self, image, near=None, known=None):
            asked.append("whole" if near is None else "near")
            side = front_face() * torch.tensor([20.0, 60.0]) + torch.tensor([20.0, 0.0])
            return [side if image[0, 0, 0] == 9 else front_face() * 60]

    follow = FollowFace(Turning(), 10)
    for image in levels(0, 1, 9, 9, 1, 1):
        follow(image)
    assert asked == ["whole", "near", "near", "whole", "whole", "near"]


def test_the_second_face_is_followed_where_it_was():
    class Two:
        def faces(self, image, near=None, known=None):
            if near is not None:
                return [near + 1]
            face = front_face()
            return [60 * face] if image[0, 0, 0] == 9 else [60 * face, 40 * face + 100]

    follow = FollowFace(Two(), 3, number=2)
    found = [follow(image) for image in levels(0, 1, 2, 9, 4)]
    assert found[3] is None  # one face alone
    first = found[0]
    assert first.amin() >= 100 and torch.equal(found[2], first + 2) and torch.equal(found[4], first)


class Pair:
    """Two faces side by side, of which the one or the other is the larger by the frame's level."""

    def faces(self, image, near=None, known=None):
        if near is not None:
            return [near]
        left, right = 40 * front_face(), 40 * front_face() + torch.tensor([100.0, 0.0])
        if image[0, 0, 0] == 200:
            return [right + 200]  # a cut to somebody else
        return [left, right] if image[0, 0, 0] < 9 else [right, left]


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("known", [set(), {0, 1, 2}, {0, 1, 2, 3, 4}])
def test_the_same_of_two_faces_is_found_whichever_is_larger(every, known):
    follow, found = FollowFace(Pair(), every), []
    for number, image in enumerate(levels(0, 9, 0, 9, 9, 9, 200, 200, 200, 9)):
        if number in known:
            follow.skip(image)
        else:
            found.append(follow(image)[:, 0].mean().item() // 100)
    assert found == ([0] * 6 + [3, 3, 3, 1])[len(known) :]  # the last one: the larger after a cut


def test_of_frames_that_do_not_follow_each_other_the_largest_face_is_taken():
    follow = FollowFace(Pair(), 1, seconds=0.5)
    follow.skip(torch.zeros(0))  # costs nothing
    found = [follow(image)[:, 0].mean().item() // 100 for image in levels(0, 9, 0)]
    assert found == [0, 1, 0]


@pytest.mark.parametrize("known", [{1, 2}, {0, 1, 2, 3, 4}, {2, 3, 5, 6}, {0, 1, 2, 3, 4, 5, 6}])
def test_skipped_frames_do_not_change_the_points_of_the_others(known):
    """A run that continues gets the points of one that was never interrupted."""
    images = levels(0, 3, 6, 9, 12, 15, 18, 21)
    whole = FollowFace(Moving(), 4)
    expected = [whole(image) for image in images]
    assert not torch.equal(expected[3], Moving().faces(images[3])[0])  # depends on earlier frames
    follow = FollowFace(Moving(), 4)
    for number, image in enumerate(images):
        if number in known:
            follow.skip(image)
        else:
            assert torch.equal(follow(image), expected[number])


class Placed:
    """A detector that sees people in the frame as a whole at (20, 50), and newcomers at level 7."""

    def places(self, image):
        return [(20.0, 50.0, 100.0), (310.0, 50.0, 40.0)][: 1 + (image[0, 0, 0] == 7)]


@pytest.mark.parametrize("every, seconds, whole", [
    (3, 0.5, [0, 7, 3]), (1, 0.5, [0, 1, 7, 3, 4, 5]), (3, 0.6, [0, 1, 7, 3, 4, 5])
])  # fmt: skip
def test_a_newcomer_in_the_whole_frame_ends_the_following(every, seconds, whole):
    here, there = (Person(torch.zeros(17, 2), (x, 0.0, x + 40, 100.0)) for x in (0.0, 300.0))
    searched = []

    class Newcomer(Placed):
        def people(self, image, near=None):
            level = int(image[0, 0, 0])
            if near is not None:
                return [near]
            searched.append(level)
            return [here, there] if level in (7, 5) else [here]

    follow = FollowPeople(Newcomer(), every, seconds)
    found = [len(follow(image)) for image in levels(0, 1, 7, 3, 4, 5)]
    assert searched == whole and found[2] == 2 and found[:2] == [1, 1]


def test_followed_people_are_searched_whole_when_one_is_lost():
    joints = torch.zeros(17, 2)
    here, there = (Person(joints + x, (x, 0.0, x + 40, 100.0)) for x in (0.0, 300.0))
    asked = []

    class TwoPeople(Placed):
        def people(self, image, near=None):
            asked.append(None if near is None else near.box[0])
            if near is None:
                return [here, there]
            return [] if image[0, 0, 0] == 9 and near is there else [near]

    follow = FollowPeople(TwoPeople(), 3)
    for image in levels(0, 1, 9, 3, 4):
        assert [person.box[0] for person in follow(image)] == [0, 300]
    assert asked == [None, 0, 300, 0, 300, None, None, 0, 300]


@pytest.mark.parametrize("backend", ["mediapipe", "dlib"])
def test_a_followed_face_has_the_points_of_a_searched_one(backend, request):
    """A real face that moves a few pixels."""
    detector = request.getfixturevalue(backend)
    folder = os.environ.get("GUISE_REAL_FILES")
    if not folder:
        pytest.skip("no GUISE_REAL_FILES")
    image = read_image(Path(folder) / "face_selfie.jpg", None)
    follow = FollowFace(detector, 10)
    for shift in range(4):
        moved = image[:, 3 * shift :, 5 * shift :]
        (points, searched) = follow(moved), detector.faces(moved)[0]
        away = (points - searched).norm(dim=-1).mean() / (points[36] - points[45]).norm()
        assert away < 0.02  # of the distance of the eyes; benchmarks/detectors.py has the means
    assert detector.faces(moved, near=searched)
    assert not detector.faces(torch.zeros_like(moved), near=searched)
