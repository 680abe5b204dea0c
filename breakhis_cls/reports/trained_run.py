"""What `train_run` returns: a finished run as a notebook wants to see it."""

from __future__ import annotations

import functools
import html
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import config

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from ..evaluation.experiments import Experiment


@dataclass(frozen=True)
class TrainedRun:
    """A finished run: its table, numbers, figures and report, all from its files. Shows itself in a notebook."""

    folder: Path
    settings: config.Config

    @functools.cached_property
    def experiment(self) -> Experiment:
        """What evaluation reads: `table` (predictions.csv), `test` (its test rows), `sources[0].history` (epochs)."""
        from ..evaluation import experiments

        return experiments.group_experiments([experiments.read_source(self.folder)])[0]

    @property
    def predictions(self) -> pd.DataFrame:
        """predictions.csv: a row for each image of validation and test, with a probability for each class."""
        return self.experiment.table

    @property
    def metrics(self) -> dict[str, Any]:
        """metrics.json: `metrics["pooled"]["roc_auc"]["value"]`."""
        return json.loads((self.folder / "metrics.json").read_text(encoding="utf-8"))

    def confusion_matrix(self) -> Figure:
        from . import plots

        return plots.confusion_matrix(self.experiment.test)

    def report(self) -> Path:
        """Path of the report's index.html, which is written where it is missing."""
        from ..evaluate import evaluate_runs

        folder = self.settings.run.reports / self.folder.name
        if not (folder / "index.html").is_file():
            evaluate_runs([self.folder], folder)
        return folder / "index.html"

    def _repr_html_(self) -> str:
        from ..evaluation.predictions import count_confusions
        from . import text

        title = text.finding(self.experiment, self.metrics)
        tables = text.headline_table(self.metrics), count_confusions(self.experiment.test)
        cells = "".join(f"<td style='vertical-align: top'>{table.to_html(border=0)}</td>" for table in tables)
        places = f"run: <code>{html.escape(str(self.folder))}</code><br>report: <code>{html.escape(str(self.report()))}"
        return f"<p>{html.escape(title)}</p><table><tr>{cells}</tr></table><p>{places}</code></p>"
