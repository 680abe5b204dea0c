"""All that a report shows of one experiment beyond its metrics, made once from the table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .. import names
from ..evaluation import bootstrap, calibration, error_analysis, predictions, thresholds
from ..evaluation.experiments import Experiment
from ..files import atomic_path, write_json

N_RESAMPLES = 2_000  # of the intervals that stand beside the headline
MIN_IMAGES = 30  # of a stratum that has a reliability diagram


@dataclass(frozen=True)
class Analysis:
    """Calibration, operating points, referral and failures of one experiment's test rows."""

    reliability: dict[str, pd.DataFrame]
    reliability_of_answers: dict[str, pd.DataFrame]
    calibration: dict[str, Any] | None
    thresholds: list[dict[str, Any]]
    operating_points: list[dict[str, Any]]
    referral: pd.DataFrame
    errors: pd.DataFrame
    cases: pd.DataFrame


def analyse_experiment(experiment: Experiment, seed: int = 0) -> Analysis:
    """Everything but the metrics themselves; thresholds and operating points for the binary task alone."""
    table, test = experiment.table, experiment.test
    chosen = thresholds.choose_thresholds(table) if predictions.is_binary(table) else []
    return Analysis(
        reliability=_reliability(test, "magnification", names.MAGNIFICATIONS, False),
        reliability_of_answers=_reliability(test, "subtype", tuple(names.SUBTYPES), True),
        calibration=calibration.compare_calibration(table, seed),
        thresholds=chosen,
        operating_points=thresholds.operating_points(table, chosen, N_RESAMPLES, seed),
        referral=thresholds.risk_coverage_curve(test),
        errors=error_analysis.errors_by_stratum(test),
        cases=error_analysis.case_table(test),
    )


def write_analysis(analysis: Analysis, folder: Path) -> None:
    """cases.csv, errors.csv, referral.csv, calibration.json and thresholds.json."""
    for name in ("cases", "errors", "referral"):
        with atomic_path(folder / f"{name}.csv") as temporary:
            getattr(analysis, name).to_csv(temporary, index=False, lineterminator="\n")
    curves = {name: curve.to_dict("records") for name, curve in analysis.reliability.items()}
    told = {"reliability": curves, "temperature": analysis.calibration}
    write_json(folder / "calibration.json", told)
    if analysis.thresholds:
        write_json(folder / "thresholds.json", analysis.thresholds)


def _reliability(test: pd.DataFrame, column: str, order: tuple, of_answer: bool) -> dict[str, pd.DataFrame]:
    strata = {} if of_answer else {"all": test}
    for value in order:
        rows = test[test[column] == value]
        enough = len(rows) >= MIN_IMAGES and rows["case"].nunique() >= bootstrap.MIN_CASES
        if enough and len(np.unique(test[column])) > 1:
            strata[f"{value}X" if column == "magnification" else str(value)] = rows
    return {name: calibration.reliability_curve(rows, of_answer) for name, rows in strata.items()}
