"""Groups -> sides (folds, or train and validation) that resemble each other, by a small local search.

scikit-learn's StratifiedGroupKFold balances images only and can leave a fold with one benign case of the 16.
Here images, cases, labels, subtypes and magnifications count together, and a side without a label costs most.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd

WEIGHTS = {   # of a squared relative deviation
    "cases": 1.0, "cases_by_label": 2.0, "cases_by_subtype": 0.2,
    "images": 1.0, "images_by_label": 4.0, "images_by_subtype": 0.1, "images_by_magnification": 0.25,
}  # fmt: skip
# Cost of a side that has none of a column; good folds deviate by some 0.01 a column.
ABSENCE = {"cases": 10.0, "cases_by_label": 10.0, "cases_by_subtype": 0.05}
# Costs are compared after rounding: sums differ in their last bits between processors, and would decide between equals.
DECIMALS = 9


class Problem(NamedTuple):
    """Counts of each group, (n_groups, n_columns), and the share of the columns' sums that each side should get."""

    counts: np.ndarray
    shares: np.ndarray  # (n_sides,), sum 1
    weights: np.ndarray  # (n_columns,)
    absence: np.ndarray  # (n_columns,): cost of a column that is zero on a side
    urgency: np.ndarray  # (n_sides,): factor of that cost

    def cost(self, sums: np.ndarray, side: np.ndarray) -> np.ndarray:
        """(..., n_columns) sums of sides (...) -> (...) cost: chi-square-like, plus what is absent."""
        share = self.shares[side]
        deviation = np.square(sums * (1 / self.counts.sum(axis=0)) - share[..., None])
        lacking = (sums < 0.5).astype(float)
        return deviation @ self.weights / share + lacking @ self.absence * self.urgency[side]

    def sums(self, sides: np.ndarray) -> np.ndarray:
        """(n_sides, n_columns) of an assignment (n_groups,)."""
        return np.stack([self.counts[sides == side].sum(axis=0) for side in range(len(self.shares))])

    def total_cost(self, sides: np.ndarray) -> float:
        """The cost of an assignment (n_groups,)."""
        return round(float(self.cost(self.sums(sides), np.arange(len(self.shares))).sum()), DECIMALS)


def allocate_groups(
    images: pd.DataFrame, by: str, shares: list[float], seed: tuple[int, ...], n_starts: int = 4
) -> pd.Series:
    """The side (0, 1, ...) of each group of `images[by]`, indexed by group; the best of `n_starts` searches. A function
    of the set of images, the shares and the seed; the order of rows does not matter. Of unequal sides the first (train)
    is the one that most needs every class."""
    groups, problem = _build_problem(images, by, shares)
    rng = np.random.default_rng(seed)
    every = np.arange(len(shares))
    starts = []
    for _ in range(n_starts):
        # --- a start: groups in random order, each to the side where it costs least ---
        sides = np.zeros(len(groups), dtype=int)
        sums = np.zeros((len(every), problem.counts.shape[1]))
        for group in rng.permutation(len(sides)):
            change = problem.cost(sums + problem.counts[group], every) - problem.cost(sums, every)
            sides[group] = change.round(DECIMALS).argmin()
            sums[sides[group]] += problem.counts[group]

        # --- apply the best move or swap until none helps ---
        while True:
            move, swap = (costs.round(DECIMALS) for costs in _costs_of_changes(problem, sides))
            if min(move.min(), swap.min()) >= 0:
                break
            if move.min() <= swap.min():
                group, side = np.unravel_index(move.argmin(), move.shape)
                sides[group] = side
            else:
                one, other = np.unravel_index(swap.argmin(), swap.shape)
                sides[[one, other]] = sides[[other, one]]
        starts.append(sides)
    return pd.Series(min(starts, key=problem.total_cost), index=groups)


def imbalance(images: pd.DataFrame, by: str, sides: pd.Series) -> float:
    """The cost that allocate_groups minimises, for any assignment (indexed by group) to sides of equal size."""
    n_sides = int(sides.max()) + 1
    groups, problem = _build_problem(images, by, [1 / n_sides] * n_sides)
    return problem.total_cost(sides[groups].to_numpy())


def _build_problem(images: pd.DataFrame, by: str, shares: list[float]) -> tuple[pd.Index, Problem]:
    """The groups, sorted, and their counts: images, and the group itself, in all and by kind."""
    groups, group = np.unique(images[by].to_numpy(), return_inverse=True)
    kinds, counts = [], []
    for kind in ("", "_by_label", "_by_subtype", "_by_magnification"):
        values = images[kind.removeprefix("_by_")].to_numpy() if kind else np.zeros(len(images))
        for value in np.unique(values):
            counted = np.bincount(group[values == value], minlength=len(groups))
            kinds += [f"images{kind}", f"cases{kind}"]
            counts += [counted, counted.clip(max=1)]
    kept = [at for at, kind in enumerate(kinds) if kind in WEIGHTS]
    weights, absence = (np.array([costs.get(kinds[at], 0.0) for at in kept]) for costs in (WEIGHTS, ABSENCE))
    urgency = np.ones(len(shares))
    urgency[0] = 1 if len(set(shares)) == 1 else 2  # a class that train lacks cannot be learnt
    table = np.stack([counts[at] for at in kept], axis=1).astype(float)
    return pd.Index(groups, name=by), Problem(table, np.asarray(shares), weights, absence, urgency)


def _costs_of_changes(problem: Problem, sides: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Changes of cost: (n_groups, n_sides) when a group moves to a side; (n_groups, n_groups) when two groups swap."""
    sums, every = problem.sums(sides), np.arange(len(problem.shares))
    now = problem.cost(sums, every)
    left = problem.cost(sums[sides] - problem.counts, sides) - now[sides]
    joined = problem.cost(sums[None] + problem.counts[:, None], every) - now
    move = left[:, None] + joined
    move[np.arange(len(sides)), sides] = 0

    brought = problem.counts[None] - problem.counts[:, None]
    swap = problem.cost(sums[sides][:, None] + brought, np.broadcast_to(sides[:, None], brought.shape[:2]))
    swap = swap - now[sides][:, None]
    swap = swap + swap.T
    swap[sides[:, None] == sides[None]] = 0
    return move, swap
