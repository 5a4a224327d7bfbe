"""Pack many prompts that begin alike as one tree in one sequence.

Four questions about two people of one scene, one prompt each, would be

    [scene][Ann][happy?]   [scene][Ann][sad?]   [scene][Bob][happy?]   [scene][Bob][sad?]

and a model would read the scene four times. Attention is causal, so the states of [scene] do not
depend on what follows, and one reading is enough: the prompts form a tree.

    [scene]─┬─[Ann]─┬─[happy?]
            │       └─[sad?]
            └─[Bob]─┬─[happy?]
                    └─[sad?]

The segments of the tree lie one after the other in a single sequence, parents before children.
Two things make each branch independent of the others. First, the mask: a token attends to its
ancestors, and to earlier tokens of its own segment (■), instead of all earlier tokens:

                    scene  Ann  happy sad  Bob  happy sad
        scene         ◣
        Ann           ■     ◣
          happy?      ■     ■    ◣
          sad?        ■     ■          ◣
        Bob           ■                     ◣
          happy?      ■                     ■    ◣
          sad?        ■                     ■          ◣

Second, the positions: each token has the position that it would have in a prompt of its own.
Children start where their parent ends, so Ann and Bob have the same positions. Each answer is then
the answer to its prompt alone. This holds for models whose tokens exchange information by attention
only; a recurrent or convolution layer reads its neighbours in the sequence, whatever the mask says.

The start of the trunk, before the scene image, is the same in each round; `prefix.py` reads it once
for all rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]


class Grid(NamedTuple):
    """The tokens of one image in rows and columns, row by row."""

    rows: int
    columns: int


PositionRule = Callable[[npt.NDArray[np.bool_], Sequence[Grid], int], tuple[IntArray, int]]
"""The position numbering of a family of models.

The function takes a mask of the image tokens of a segment (n,), the grids of these images, and the
position where the segment starts. It returns positions (axes, n) and the position after the
segment.
"""


def linear_positions(
    is_image: npt.NDArray[np.bool_], grids: Sequence[Grid], start: int
) -> tuple[IntArray, int]:
    """Number tokens consecutively on one axis, image tokens too: SmolVLM and most others."""
    stop = start + len(is_image)
    return np.arange(start, stop)[None], stop


def mrope_positions(
    is_image: npt.NDArray[np.bool_], grids: Sequence[Grid], start: int
) -> tuple[IntArray, int]:
    """Number tokens on three axes (time, row, column), as the Qwen-VL models do.

    A word has the same number on all three. An image has one time, and its tokens spread over rows
    and columns; the next token continues at the larger of its sides, not at its number of tokens.

    Raises:
        ValueError: the number of image tokens differs from that of the grids.
    """
    if is_image.sum() != sum(g.rows * g.columns for g in grids):
        raise ValueError(
            f"cannot number {is_image.sum()} image tokens: they do not fill the grids {list(grids)}"
        )
    positions = np.empty((3, len(is_image)), np.int64)
    token, position = 0, start
    for grid in grids:
        words = int(np.argmax(is_image[token:]))
        positions[:, token : token + words] = np.arange(position, position + words)
        token, position = token + words, position + words
        cells = np.indices((1, grid.rows, grid.columns)).reshape(3, -1)
        positions[:, token : token + cells.shape[1]] = cells + position
        token, position = token + cells.shape[1], position + max(grid)
    words = len(is_image) - token
    positions[:, token:] = np.arange(position, position + words)
    return positions, position + words


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """A run of tokens that continues its parent and is independent of its siblings."""

    begin: int
    """The first place in the sequence."""
    end: int
    """The place after the last one."""
    parent: int | None
    next_position: int
    """The first position of its children."""


class Tree:
    """Prompts that are laid out in one sequence."""

    def __init__(self, image_token: int, rule: PositionRule) -> None:
        """Create an empty tree."""
        self._image_token = image_token
        self._rule = rule
        self.segments: list[Segment] = []
        self._ids: list[IntArray] = []
        self._positions: list[IntArray] = []

    def add(self, ids: IntArray, parent: int | None = None, grids: Sequence[Grid] = ()) -> int:
        """Append a segment of at least one token, and return its number.

        Args:
            ids: (n,) tokens.
            parent: the number of the segment that it continues; None starts a prompt.
            grids: of the images in the segment, in order.

        Raises:
            ValueError: the segment is empty, or grids and image tokens do not match.
        """
        if not len(ids):
            raise ValueError("cannot add an empty segment: it needs at least one token")
        begin = self.segments[-1].end if self.segments else 0
        start = 0 if parent is None else self.segments[parent].next_position
        positions, stop = self._rule(ids == self._image_token, grids, start)
        self.segments.append(Segment(begin, begin + len(ids), parent, stop))
        self._ids.append(ids)
        self._positions.append(positions)
        return len(self.segments) - 1

    def __len__(self) -> int:
        """Return the number of tokens."""
        return self.segments[-1].end if self.segments else 0

    @property
    def ids(self) -> IntArray:
        """Tokens, (S,)."""
        return np.concatenate(self._ids)

    @property
    def positions(self) -> IntArray:
        """Positions, (axes, S)."""
        return np.concatenate(self._positions, axis=1)

    @property
    def segment_of(self) -> IntArray:
        """The segment number of each token, (S,)."""
        return np.repeat(np.arange(len(self.segments)), [s.end - s.begin for s in self.segments])

    @property
    def depth(self) -> IntArray:
        """The number of tokens before each token in a prompt of its own, (S,)."""
        begins = np.array([s.begin for s in self.segments])
        lengths = np.array([s.end - s.begin for s in self.segments])
        context = self.sees @ lengths - lengths
        depth: IntArray = np.arange(len(self)) + (context - begins)[self.segment_of]
        return depth

    @property
    def image_of(self) -> IntArray:
        """The number of the image of each token, (S,); -1 for words."""
        is_image = self.ids == self._image_token
        goes_on = np.zeros(len(self), bool)
        goes_on[1:] = is_image[:-1] & (self.segment_of[1:] == self.segment_of[:-1])
        return np.where(is_image, np.cumsum(is_image & ~goes_on) - 1, -1)

    @property
    def sees(self) -> npt.NDArray[np.bool_]:
        """Whether the row attends to the column, itself included, (segments, segments)."""
        sees = np.eye(len(self.segments), dtype=bool)
        for i, segment in enumerate(self.segments):
            if segment.parent is not None:
                sees[i] |= sees[segment.parent]
        return sees

    @property
    def branches(self) -> list[tuple[IntArray, int]]:
        """Runs of places that together form the sequence, with all places that they attend to.

        Each run is the trunk, or one of its branches with all its descendants. The places (n,) end
        with the run's own; the number tells how many are its own. A branch does not attend to the
        others, so attention branch by branch does a fraction of the work of attention over the
        whole sequence.
        """
        runs: dict[int, tuple[int | None, int]] = {}  # first segment: its parent, end of the run
        first_of: list[int] = []  # for each segment the first one of its run
        for i, segment in enumerate(self.segments):
            parent = segment.parent
            starts_run = parent is None or self.segments[parent].parent is None
            first_of.append(i if starts_run or parent is None else first_of[parent])
            first = first_of[i]
            runs[first] = (runs[first][0] if first in runs else parent, segment.end)
        branches = []
        for first, (trunk, end) in runs.items():
            own = np.arange(self.segments[first].begin, end)
            before = [] if trunk is None else [self._places(trunk)]
            branches.append((np.concatenate([*before, own]), len(own)))
        return branches

    def _places(self, segment: int) -> IntArray:
        return np.arange(self.segments[segment].begin, self.segments[segment].end)

    @property
    def attended_pairs(self) -> float:
        """Pairs of tokens of which one attends to the other; a token and itself count half."""
        lengths = np.array([s.end - s.begin for s in self.segments])
        context = self.sees @ lengths - lengths
        return float(np.sum(lengths * (context + lengths / 2)))


@dataclass(frozen=True, slots=True)
class Buckets:
    """The few lengths that sequences are padded to, because each length is compiled separately.

    People are rounded up to 1, 2, 4, 8, ...; a bucket holds that many with the largest images.
    """

    trunk: int
    """Maximum number of tokens."""
    person: int
    """Maximum number of tokens of one person with all leaves."""
    multiple: int = 64

    def length(self, people: int, tokens: int) -> int:
        """Return the length of the bucket for this number of people and tokens."""
        capacity = 1
        while capacity < people or self.trunk + capacity * self.person < tokens:
            capacity *= 2
        return -(-(self.trunk + capacity * self.person) // self.multiple) * self.multiple


@dataclass(frozen=True, slots=True)
class Workload:
    """What one packed round computes, without padding: the inputs of a roofline."""

    patches: tuple[int, ...]
    """Patches of each image in the vision tower."""
    image_tokens: tuple[int, ...]
    """Tokens of each image in the language model."""
    tokens: int
    """Tokens that the pass computes, image tokens included."""
    cached_tokens: int
    """Tokens before them that an earlier pass has read, see `prefix.py`."""
    attended_pairs: float
    """See `Tree.attended_pairs`; without the pairs of cached tokens."""
    answers: int
    """Places at which the output layer is read."""
    head_rows: int
    """Rows of the output layer that are used at each place."""


def block_mask(sees: Any, segment_of: Any, place: Any) -> Any:
    """Return whether the token of a row attends to the token of a column, (S, S).

    All arguments are NumPy arrays, or all are tensors of one device: the mask is large and is best
    made where it is used.

    Args:
        sees: (segments, segments), see `Tree.sees`.
        segment_of: (S,), see `Tree.segment_of`.
        place: (S,) 0, 1, ...
    """
    return sees[segment_of][:, segment_of] & (place[:, None] >= place[None, :])


class Branch(NamedTuple):
    """A run of tokens, and the index of the branch that it continues."""

    ids: tuple[int, ...]
    parent: int | None


def merge_prompts(prompts: Sequence[Sequence[int]]) -> tuple[list[Branch], list[int]]:
    """Return branches that contain each common prefix once, and the last branch of each prompt.

    Raises:
        ValueError: a prompt is empty.
    """
    branches: list[Branch] = []
    ends = [-1] * len(prompts)

    def add_branches(members: list[int], start: int, parent: int | None) -> None:
        groups: dict[int, list[int]] = {}
        for i in members:
            groups.setdefault(prompts[i][start], []).append(i)
        for group in groups.values():
            stop = start + common_prefix_length([prompts[i][start:] for i in group])
            branches.append(Branch(tuple(prompts[group[0]][start:stop]), parent))
            number = len(branches) - 1
            for i in group:
                if len(prompts[i]) == stop:
                    ends[i] = number
            if rest := [i for i in group if len(prompts[i]) > stop]:
                add_branches(rest, stop, number)

    if not all(prompts):
        raise ValueError("cannot merge prompts: a prompt has no tokens")
    add_branches(list(range(len(prompts))), 0, None)
    return branches, ends


def common_prefix_length(prompts: Sequence[Sequence[int]]) -> int:
    """Return the number of tokens that all prompts begin with."""
    length = 0
    for tokens in zip(*prompts, strict=False):
        if len(set(tokens)) > 1:
            break
        length += 1
    return length


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """The questions about a person as a tree, in which an image is a single token."""

    image_token: int
    trunk: IntArray
    """The tokens that the prompts of all people begin with."""
    person: IntArray
    """The tokens that all questions about a person share, from the person's own image on."""
    leaves: list[Branch]
    ends: list[int]
    """For each question the index of its last leaf."""

    @property
    def constant_tokens(self) -> int:
        """The number of tokens before the first image: the same in each round."""
        (images,) = np.nonzero(self.trunk == self.image_token)
        return int(images[0]) if len(images) else len(self.trunk)

    def question_tokens(self) -> list[list[int]]:
        """Return the tokens of each question that come after those of `person`."""

        def path(leaf: int | None) -> list[int]:
            if leaf is None:
                return []
            return [*path(self.leaves[leaf].parent), *self.leaves[leaf].ids]

        return [path(end) for end in self.ends]

    @classmethod
    def from_prompts(cls, prompts: Sequence[Sequence[int]], image_token: int, images: int) -> Plan:
        """Plan the questions about one person.

        Args:
            prompts: the tokens of each question; the last image is the person's own.
            image_token: the token of images.
            images: the number of images in each prompt.

        Raises:
            ValueError: an image comes after the words in which the prompts differ.
        """
        short = [collapse(ids, image_token) for ids in prompts]
        common = min(common_prefix_length(short), min(map(len, short)) - 1)  # each keeps a leaf
        own = [i for i, token in enumerate(short[0][:common]) if token == image_token]
        if len(own) != images:
            raise ValueError(f"{len(own)} of {images} images come before the questions")
        leaves, ends = merge_prompts([ids[common:] for ids in short])
        shared, cut = np.asarray(short[0][:common]), own[-1]
        return cls(image_token, shared[:cut], shared[cut:], leaves, ends)

    def build_tree(
        self,
        grids: Sequence[Grid],
        person_images: Sequence[Sequence[int]],
        rule: PositionRule,
        tree: Tree | None = None,
    ) -> tuple[Tree, IntArray]:
        """Return the tree of one round, and the places of the answers (people, questions).

        Args:
            grids: the token grid of each image.
            person_images: for each person the indices of their images, their own last.
            rule: the position numbering of the family.
            tree: a tree with other rounds, to which this one is added.
        """
        tree = Tree(self.image_token, rule) if tree is None else tree
        shared = [grids[i] for i in person_images[0][:-1]]
        trunk = (
            tree.add(expand(self.trunk, self.image_token, shared), None, shared)
            if len(self.trunk)
            else None
        )
        places = []
        for *_, own in person_images:
            person = tree.add(
                expand(self.person, self.image_token, [grids[own]]), trunk, [grids[own]]
            )
            numbers: list[int] = []
            for leaf in self.leaves:
                parent = person if leaf.parent is None else numbers[leaf.parent]
                numbers.append(tree.add(np.asarray(leaf.ids), parent))
            places.append([tree.segments[numbers[end]].end - 1 for end in self.ends])
        return tree, np.array(places)


def expand(ids: IntArray, token: int, grids: Sequence[Grid]) -> IntArray:
    """Replace each single image token by the tokens of its image; `collapse` is the inverse."""
    counts = np.ones(len(ids), np.int64)
    counts[ids == token] = [grid.rows * grid.columns for grid in grids]
    return np.repeat(ids, counts)


def run_lengths(ids: Sequence[int], token: int) -> list[int]:
    """Return the length of each run of the token."""
    return [len(list(run)) for value, run in groupby(ids) if value == token]


def collapse(ids: Sequence[int], token: int) -> list[int]:
    """Replace each run of the token by a single one."""
    return [v for value, run in groupby(ids) for v in ([value] if value == token else run)]
