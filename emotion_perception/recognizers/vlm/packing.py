"""Many prompts that begin alike, as one tree in one sequence.

Four questions about two people of one scene, one prompt each, would be

    [scene][Ann][happy?]   [scene][Ann][sad?]   [scene][Bob][happy?]   [scene][Bob][sad?]

and a model would read the scene four times. Attention looks backwards only, so what it computes
for [scene] does not depend on what follows, and once is enough: the prompts are a tree.

    [scene]─┬─[Ann]─┬─[happy?]
            │       └─[sad?]
            └─[Bob]─┬─[happy?]
                    └─[sad?]

The segments of the tree lie one after the other in a single sequence, parents before children.
Two things keep each branch from noticing the others. A mask replaces "everything before me" by
"my ancestors, and before me in my own segment" (■ may be looked at):

                    scene  Ann  happy sad  Bob  happy sad
        scene         ◣
        Ann           ■     ◣
          happy?      ■     ■    ◣
          sad?        ■     ■          ◣
        Bob           ■                     ◣
          happy?      ■                     ■    ◣
          sad?        ■                     ■          ◣

And each token gets the position that it would have in a prompt of its own: children start where
their parent ends, so Ann and Bob stand at the same place. Both answers of "happy?" then are what
the model would have answered if nothing else had been asked. This holds for models whose tokens
exchange information by attention alone; a recurrent or convolution layer reads its neighbours in
the sequence, whatever the mask says.
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
    """The tokens of one picture: rows and columns, row by row."""

    rows: int
    columns: int


Rule = Callable[[npt.NDArray[np.bool_], Sequence[Grid], int], tuple[IntArray, int]]
"""How a family of models numbers positions.

From which tokens of a segment belong to pictures (n,), the grids of these pictures, and the
position where the segment starts, to positions (axes, n) and the position after the segment.
"""


def line(
    in_picture: npt.NDArray[np.bool_], grids: Sequence[Grid], start: int
) -> tuple[IntArray, int]:
    """One axis; tokens of pictures count like words. SmolVLM and most others."""
    stop = start + len(in_picture)
    return np.arange(start, stop)[None], stop


def mrope(
    in_picture: npt.NDArray[np.bool_], grids: Sequence[Grid], start: int
) -> tuple[IntArray, int]:
    """Three axes (time, row, column), as the Qwen-VL models count.

    A word stands at the same number on all three. A picture stands still in time and spreads over
    rows and columns; after it counting goes on at the larger of its sides, not at the number of its
    tokens.

    Raises:
        ValueError: the pictures do not have as many tokens as their grids.
    """
    if in_picture.sum() != sum(g.rows * g.columns for g in grids):
        raise ValueError(f"{in_picture.sum()} picture tokens do not fill the grids {list(grids)}")
    positions = np.empty((3, len(in_picture)), np.int64)
    token, place = 0, start
    for grid in grids:
        words = int(np.argmax(in_picture[token:]))
        positions[:, token : token + words] = np.arange(place, place + words)
        token, place = token + words, place + words
        cells = np.indices((1, grid.rows, grid.columns)).reshape(3, -1)
        positions[:, token : token + cells.shape[1]] = cells + place
        token, place = token + cells.shape[1], place + max(grid)
    words = len(in_picture) - token
    positions[:, token:] = np.arange(place, place + words)
    return positions, place + words


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """A run of tokens that continues its parent and is blind to its siblings."""

    begin: int
    """Its first place in the sequence."""
    end: int
    """The place after its last one."""
    parent: int | None
    next_position: int
    """Where its children start to count."""


class Tree:
    """Prompts laid out in one sequence."""

    def __init__(self, picture_token: int, rule: Rule) -> None:
        self._picture_token = picture_token
        self._rule = rule
        self.segments: list[Segment] = []
        self._ids: list[IntArray] = []
        self._positions: list[IntArray] = []

    def add(self, ids: IntArray, parent: int | None = None, grids: Sequence[Grid] = ()) -> int:
        """Append a segment of at least one token; returns its number, for its children.

        Args:
            ids: (n,) tokens.
            parent: the number of the segment that it continues; None starts a prompt.
            grids: of the pictures in the segment, in their order.

        Raises:
            ValueError: the segment is empty, or grids and picture tokens do not fit.
        """
        if not len(ids):
            raise ValueError("a segment needs at least one token")
        begin = self.segments[-1].end if self.segments else 0
        start = 0 if parent is None else self.segments[parent].next_position
        positions, stop = self._rule(ids == self._picture_token, grids, start)
        self.segments.append(Segment(begin, begin + len(ids), parent, stop))
        self._ids.append(ids)
        self._positions.append(positions)
        return len(self.segments) - 1

    def __len__(self) -> int:
        """Tokens in the sequence."""
        return self.segments[-1].end if self.segments else 0

    @property
    def ids(self) -> IntArray:
        """(S,) tokens."""
        return np.concatenate(self._ids)

    @property
    def positions(self) -> IntArray:
        """(axes, S)."""
        return np.concatenate(self._positions, axis=1)

    @property
    def segment_of(self) -> IntArray:
        """(S,): the number of the segment that each token belongs to."""
        return np.repeat(np.arange(len(self.segments)), [s.end - s.begin for s in self.segments])

    @property
    def sees(self) -> npt.NDArray[np.bool_]:
        """(segments, segments): whether the one may look at the other, itself included."""
        sees = np.eye(len(self.segments), dtype=bool)
        for i, segment in enumerate(self.segments):
            if segment.parent is not None:
                sees[i] |= sees[segment.parent]
        return sees

    @property
    def branches(self) -> list[tuple[IntArray, int]]:
        """Runs of places that together are the sequence, and all that they may look at.

        Each run is the trunk or one of its branches with everything that grows on it. The places
        (n,) it may look at end with its own; the number says how many are its own. A branch sees
        nothing of the others, so attention branch by branch does a fraction of the work of
        attention within the whole sequence.
        """
        runs: dict[int, tuple[int | None, int]] = {}
        home: list[int] = []
        for i, segment in enumerate(self.segments):
            above = segment.parent
            starts = above is None or self.segments[above].parent is None
            home.append(i if starts or above is None else home[above])
            runs[home[i]] = (runs[home[i]][0] if home[i] in runs else above, segment.end)
        found = []
        for first, (trunk, end) in runs.items():
            own = np.arange(self.segments[first].begin, end)
            before = [] if trunk is None else [self._places(trunk)]
            found.append((np.concatenate([*before, own]), len(own)))
        return found

    def _places(self, segment: int) -> IntArray:
        return np.arange(self.segments[segment].begin, self.segments[segment].end)

    @property
    def attended(self) -> float:
        """Pairs of tokens of which the one looks at the other; a token counts itself half."""
        lengths = np.array([s.end - s.begin for s in self.segments])
        context = self.sees @ lengths - lengths
        return float(np.sum(lengths * (context + lengths / 2)))


@dataclass(frozen=True, slots=True)
class Buckets:
    """The few lengths that sequences are padded to, since each has to be compiled by itself.

    People are rounded up to 1, 2, 4, 8, ...; a bucket holds so many with the largest pictures.
    """

    trunk: int
    """Tokens, at most."""
    person: int
    """Tokens of one person with all their leaves, at most."""
    multiple: int = 64

    def length(self, people: int, tokens: int) -> int:
        """Of the bucket that so many people go into, who take so many tokens."""
        room = 1
        while room < people or self.trunk + room * self.person < tokens:
            room *= 2
        return -(-(self.trunk + room * self.person) // self.multiple) * self.multiple


@dataclass(frozen=True, slots=True)
class Workload:
    """What one packed round computes: the inputs of a roofline, without any padding."""

    patches: tuple[int, ...]
    """Of each picture, as the vision tower sees it."""
    picture_tokens: tuple[int, ...]
    """Of each picture, as the language model sees it."""
    tokens: int
    """Of the whole sequence, those of the pictures included."""
    attended: float
    """Pairs of tokens that look at each other, see `Tree.attended`."""
    answers: int
    """Places at which the output layer is read."""
    head_rows: int
    """Rows of the output layer that are used at each."""


def block_mask(sees: Any, segment_of: Any, place: Any) -> Any:
    """(S, S): whether the token of a row may look at the token of a column.

    Args:
        sees: (segments, segments), see `Tree.sees`.
        segment_of: (S,), see `Tree.segment_of`.
        place: (S,) 0, 1, ...

    All three from numpy, or all three tensors of one device: the mask is large and is best made
    where it is used.
    """
    return sees[segment_of][:, segment_of] & (place[:, None] >= place[None, :])


class Branch(NamedTuple):
    """A run of tokens and the branch, by its number in the list, that it continues."""

    ids: tuple[int, ...]
    parent: int | None


def merge(prompts: Sequence[Sequence[int]]) -> tuple[list[Branch], list[int]]:
    """Branches that hold every common beginning once, and for each prompt the one where it ends.

    Raises:
        ValueError: a prompt is empty.
    """
    branches: list[Branch] = []
    ends = [-1] * len(prompts)

    def grow(members: list[int], start: int, parent: int | None) -> None:
        first: dict[int, list[int]] = {}
        for i in members:
            first.setdefault(prompts[i][start], []).append(i)
        for group in first.values():
            stop = start + common_start([prompts[i][start:] for i in group])
            branches.append(Branch(tuple(prompts[group[0]][start:stop]), parent))
            number = len(branches) - 1
            for i in group:
                if len(prompts[i]) == stop:
                    ends[i] = number
            if rest := [i for i in group if len(prompts[i]) > stop]:
                grow(rest, stop, number)

    if not all(prompts):
        raise ValueError("a prompt has no tokens")
    grow(list(range(len(prompts))), 0, None)
    return branches, ends


def common_start(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all of these begin with."""
    length = 0
    for tokens in zip(*prompts, strict=False):
        if len(set(tokens)) > 1:
            break
        length += 1
    return length


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """Questions about a person as a tree; in it a picture is a single token, whatever its size."""

    picture_token: int
    trunk: IntArray
    """What everybody's prompts begin with."""
    person: IntArray
    """What all the questions about a person have in common, from their own picture on."""
    leaves: list[Branch]
    ends: list[int]
    """For each question the leaf that it ends with."""

    @classmethod
    def of(cls, prompts: Sequence[Sequence[int]], picture_token: int, pictures: int) -> Plan:
        """From the tokens of every question about one person, the last picture being theirs."""
        short = [collapse(ids, picture_token) for ids in prompts]
        common = min(common_start(short), min(map(len, short)) - 1)  # each keeps a leaf
        own = [i for i, token in enumerate(short[0][:common]) if token == picture_token]
        if len(own) != pictures:
            raise ValueError(f"{len(own)} of {pictures} pictures stand before the questions")
        leaves, ends = merge([ids[common:] for ids in short])
        shared, cut = np.asarray(short[0][:common]), own[-1]
        return cls(picture_token, shared[:cut], shared[cut:], leaves, ends)

    def grow(
        self,
        grids: Sequence[Grid],
        seen: Sequence[Sequence[int]],
        rule: Rule,
        tree: Tree | None = None,
    ) -> tuple[Tree, IntArray]:
        """The tree of one round, and (people, questions) the places where answers would begin.

        Args:
            grids: the tokens of each picture.
            seen: for each person the numbers of their pictures, their own last.
            tree: where other rounds grow already; this one is added beside them.
        """
        tree = Tree(self.picture_token, rule) if tree is None else tree
        shared = [grids[i] for i in seen[0][:-1]]
        trunk = (
            tree.add(expand(self.trunk, self.picture_token, shared), None, shared)
            if len(self.trunk)
            else None
        )
        places = []
        for *_, own in seen:
            person = tree.add(
                expand(self.person, self.picture_token, [grids[own]]), trunk, [grids[own]]
            )
            numbers: list[int] = []
            for leaf in self.leaves:
                parent = person if leaf.parent is None else numbers[leaf.parent]
                numbers.append(tree.add(np.asarray(leaf.ids), parent))
            places.append([tree.segments[numbers[end]].end - 1 for end in self.ends])
        return tree, np.array(places)


def expand(ids: IntArray, token: int, grids: Sequence[Grid]) -> IntArray:
    """The ids with the tokens of a picture instead of each single one; undone by `collapse`."""
    counts = np.ones(len(ids), np.int64)
    counts[ids == token] = [grid.rows * grid.columns for grid in grids]
    return np.repeat(ids, counts)


def runs(ids: Sequence[int], token: int) -> list[int]:
    """How often the token stands in a row, each time that it comes up."""
    return [len(list(run)) for value, run in groupby(ids) if value == token]


def collapse(ids: Sequence[int], token: int) -> list[int]:
    """The same, with each row of the token as a single one."""
    return [v for value, run in groupby(ids) for v in ([value] if value == token else run)]
