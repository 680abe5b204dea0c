"""The leak penalty: train one frozen-head experiment under image, slide and case splits, all folds, and compare.

python scripts/leak_penalty.py --config configs/leak_penalty.yaml [--section.name value ...]
Every run is an ordinary, resumable run of `train`; table, figure and sentence go to <run.reports>/leak_penalty-<data>.
"""

from __future__ import annotations

import sys

import pandas as pd

from breakhis_cls import config, runs
from breakhis_cls.errors import DONE, exits_cleanly
from breakhis_cls.evaluation import figures, penalty, predictions
from breakhis_cls.files import replaced, write_text
from breakhis_cls.train import train

SEEDS = (0, 1, 2)


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    """Train what is not trained yet, then write and print."""
    settings = config.parse(config.Config, argv, "leak_penalty", __doc__ or "")
    done = [train(one, report=False) for one in _variants(settings)]
    table = pd.concat([predictions.read(run.folder / "predictions.csv") for run in done], ignore_index=True)
    names = " and ".join(sorted(set(table["data"]))) + f", {table['model'].iloc[0]}"
    _write(penalty.table(table), names, settings, done)
    return DONE


def _variants(settings: config.Config) -> list[config.Config]:
    return [
        settings.model_copy(
            update={
                "split": settings.split.model_copy(update={"protocol": protocol, "fold": fold, "allow_leaks": True}),
                "run": settings.run.model_copy(update={"seed": seed}),
            }
        )
        for seed in SEEDS
        for protocol in penalty.PROTOCOLS
        for fold in range(settings.split.n_folds)
    ]


def _write(penalties: pd.DataFrame, names: str, settings: config.Config, done: list[runs.Run]) -> None:
    out = settings.run.reports / f"leak_penalty-{names.split(',')[0]}"
    with replaced(out / "leak_penalty.csv") as temporary:
        penalties.to_csv(temporary, index=False)
    figures.save(penalty.figure(penalties, names), out, "leak_penalty")
    said = penalty.sentence(penalties, names)
    write_text(out / "leak_penalty.md", f"{said}\n\n{len(done)} runs, seeds {' '.join(map(str, SEEDS))}.\n")
    print(penalties.to_string(index=False), f"\n\n{said}\n{out}")


if __name__ == "__main__":
    sys.exit(main())
