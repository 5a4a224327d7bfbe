"""Designs that try every pair of settings in few experiments."""

import random
from itertools import combinations


def covering_design(factors, seed=0, candidates=40):
    """Return experiments that together contain each pair of levels of two factors.

    Each experiment is the best of some random ones that contain a pair that is still missing, after
    Cohen et al., "The AETG system" (1997).

    Args:
        factors: the levels of each factor by its name.
        seed: of the random numbers; the same seed gives the same design.
        candidates: random experiments per choice.
    """
    rng = random.Random(seed)
    names = list(factors)

    def pairs_of(levels):
        return set(combinations(enumerate(levels), 2))

    missing = {
        ((a, x), (b, y))
        for a, b in combinations(range(len(names)), 2)
        for x in range(len(factors[names[a]]))
        for y in range(len(factors[names[b]]))
    }
    design = []
    while missing:
        drawn = dict(rng.choice(sorted(missing)))
        rows = [
            [drawn.get(i, rng.randrange(len(factors[name]))) for i, name in enumerate(names)]
            for _ in range(candidates)
        ]
        best = max(rows, key=lambda levels: len(missing & pairs_of(levels)))
        missing -= pairs_of(best)
        design.append({name: factors[name][i] for name, i in zip(names, best, strict=True)})
    return design
