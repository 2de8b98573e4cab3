"""People and faces followed through the frames of a video."""

from __future__ import annotations

from torch import Tensor

from nets.data.detectors.interface import PART, Detector, Person, overlap, same_person
from nets.data.detectors.places import Square, alike, extent, middle

EVERY = 10  # frames from one search for faces in a whole frame to the next
CLOSE = 0.2  # seconds between frames in which a face stays about where it was
EVERY_PEOPLE = 3  # frames from one search for people in a whole frame and its tiles to the next
CLOSE_PEOPLE = 0.5  # seconds between frames in which people stay about where they were
TURNED = 0.5  # of its extent, between the outer corners of the eyes: a face in profile has less
STAYS = 0.25  # of its extent: a face that moves or grows by more is searched anew


class Follow:
    """Follows one person through frames: maps an image to a Person or None.

    number  person to follow: 1 is the largest in the first frame with at least `number` people
    videos  False: search each image independently of the others
    """

    def __init__(self, detector: Detector, number: int = 1, videos: bool = True):
        self.detector, self.number, self.videos = detector, number, videos
        self._last: Person | None = None

    def __call__(self, image: Tensor) -> Person | None:
        last = self._last
        if last is None:
            people = self.detector.people(image)
            person = people[self.number - 1] if len(people) >= self.number else None
        else:  # search near the last place, then the whole image
            person = _match(self.detector.people(image, near=last), last)
            person = person or _match(self.detector.people(image), last)
        if self.videos and person is not None:
            self._last = person
        return person


class FollowFace:
    """Follows a face through frames: maps an image to its points (68, 2) or None.

    every    number of frames from one search in the whole frame to the next; between them the face
             is looked for near its last place, and in the whole frame if it is not there or is seen
             from the side. 1: always in the whole frame
    seconds  time from one frame to the next; frames that are too far apart are searched whole, each
             independently of the others
    number   the face to take at first; 1: the largest

    Of several faces in a whole frame the nearest to the last place is the same one, within its own
    size; if there is none, the face is `number` again. Skipped frames that are multiples of `every`
    are searched too, for this place; other points depend on the frames since then alone.
    """

    def __init__(
        self, detector: Detector, every: int = EVERY, seconds: float = 0.0, number: int = 1
    ):
        self.detector, self.number = detector, number
        self._follows = seconds <= CLOSE
        self.every = every if self._follows else 1
        self._count = 0
        self._skipped: list[Tensor] = []
        self._last: Tensor | None = None  # in the frame before the skipped ones
        self._place: Tensor | None = None  # in the last multiple of `every` with the face

    def skip(self, image: Tensor) -> None:
        """Pass over a frame. Later frames get the points that they get if it is not skipped."""
        if self._follows:
            self._pass(image)

    def __call__(self, image: Tensor) -> Tensor | None:
        if not self._follows:
            return self._searched(image, None)
        self._pass(image)
        for one in self._skipped:
            self._last = self._find(one, self._last)
        self._skipped = []
        return self._last

    def _pass(self, image: Tensor) -> None:
        """Search a multiple of `every`, and keep another frame until its points are needed."""
        if self._count % self.every:
            self._skipped.append(image)
        else:
            self._skipped, self._last = [], self._searched(image, self._place)
            if self._last is not None:
                self._place = self._last
        self._count += 1

    def _find(self, image: Tensor, last: Tensor | None) -> Tensor | None:
        if last is not None and not _is_turned(last):
            for points in self.detector.faces(image, near=last):
                if _stays(points, last):
                    return points
        return self._searched(image, self._place if last is None else last)

    def _searched(self, image: Tensor, known: Tensor | None) -> Tensor | None:
        """The face at the place of a known one in a whole frame, or the `number`-th."""
        faces = self.detector.faces(image, known=known)
        if known is not None:
            away = [(middle(face) - middle(known)).norm().item() for face in faces]
            if away and min(away) < extent(known):
                return faces[away.index(min(away))]
        return faces[self.number - 1] if len(faces) >= self.number else None


class FollowPeople:
    """Follows all people through frames: maps an image to a list of Person, the largest first.

    every    number of frames from one search in the whole frame and its tiles to the next; between
             them people are looked for near their last places. If one is not there, or the whole
             frame shows somebody else, it is searched with its tiles. Who comes in between and is
             seen in a tile alone is found at the next search. 1: always search the tiles
    seconds  time from one frame to the next; frames that are too far apart are searched with tiles
    """

    def __init__(self, detector: Detector, every: int = EVERY_PEOPLE, seconds: float = 0.0):
        self.detector, self.every = detector, every if seconds <= CLOSE_PEOPLE else 1
        self._count = 0
        self._last: list[Person] = []
        self._places: list[Square] = []  # in the frame before

    def __call__(self, image: Tensor) -> list[Person]:
        again = self._count % self.every == 0
        self._count += 1
        before, self._places = self._places, self.detector.places(image) if self.every > 1 else []
        again = again or not all(self._is_known(place, before) for place in self._places)
        followed = [] if again else self._near(image)
        self._last = followed or self.detector.people(image)
        return self._last

    def _is_known(self, place: Square, before: list[Square]) -> bool:
        """True if a square was there in the frame before, or its middle is on a person."""
        x, y, _ = place
        if any(alike(place, other) for other in before):
            return True
        return any(overlap((x, y, x + 1, y + 1), person.box) > 0 for person in self._last)

    def _near(self, image: Tensor) -> list[Person]:
        """The people near their last places; none if anybody is lost."""
        people: list[Person] = []
        for last in self._last:
            person = _match(self.detector.people(image, near=last), last)
            if person is None or any(same_person(person, other) for other in people):
                return []
            people.append(person)
        return sorted(people, key=lambda person: -person.extent)


def _match(people: list[Person], last: Person) -> Person | None:
    """The first person that overlaps `last` and is not just a part of it, or None."""
    for person in people:
        if overlap(person.box, last.box) and person.extent >= PART * last.extent:
            return person
    return None


def _is_turned(points: Tensor) -> bool:
    """True if a face is seen from the side, where the points of a followed one are unsure."""
    return (points[36] - points[45]).norm().item() < TURNED * extent(points)


def _stays(points: Tensor, last: Tensor) -> bool:
    room = STAYS * extent(last)
    moved = (middle(points) - middle(last)).norm().item()
    return moved < room and abs(extent(points) - extent(last)) < room
