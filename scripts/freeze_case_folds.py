"""How data/tables/case.csv was chosen: the best of 1,000 searches over the 7,909 names; takes two minutes.

`python scripts/freeze_case_folds.py` prints it; the table in the package is frozen and stays as it is.
"""

from __future__ import annotations

import sys

from breakhis_cls.data import balanced_folds, protocols


def main() -> int:
    """Print the table, folds in the order of their first case."""
    images, n_folds = protocols.official_images(), protocols.FROZEN_N_FOLDS
    folds = balanced_folds.allocate_groups(images, "case", [1 / n_folds] * n_folds, seed=(0,), n_starts=1_000)
    order = {fold: rank for rank, fold in enumerate(folds.unique())}
    table = folds.map(order).rename("fold").rename_axis("case").reset_index()
    print(f"# frozen case folds, version {protocols.FROZEN_VERSION}, sha256 {protocols.frozen_sha256(table)}")
    imbalance = balanced_folds.imbalance(images, "case", folds)
    print(f"# imbalance {imbalance:.4f}; fold: where the case number is tested")
    print(table.to_csv(index=False, lineterminator="\n"), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
