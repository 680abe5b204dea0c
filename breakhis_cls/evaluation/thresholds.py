"""What decisions are worth: thresholds for a target sensitivity, chosen without the test rows that they are applied to,
net benefit over thresholds, and predictive values at a stated prevalence. The binary task alone."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from scipy import special, stats

from . import bootstrap, case_statistics, metrics, predictions
from .calibration import MODEL

TARGET_SENSITIVITIES = (0.85, 0.90, 0.95)  # need 19, 29 and 59 malignant cases; BreakHis has 54
ERROR = 0.05  # how often a threshold may miss its target
THRESHOLDS = np.arange(1, 100) / 100  # of net benefit: probabilities from which an image counts as malignant
PREVALENCES = (0.1, 0.3, 0.5)  # of malignant; BreakHis's own, 69 % of images, is enriched


def threshold_for(scores: np.ndarray, case: np.ndarray, sensitivity: float) -> tuple[float, float]:
    """The highest threshold that promises the sensitivity, of malignant images' scores (n,) and cases (n,), and the
    sensitivity that it promises; the lowest score where so few cases promise less. A promise is a one-sided 95 % lower
    bound over cases: Student's t on the logit of the share of images at or above the threshold, and below Clopper and
    Pearson's bound, since a case that fails may not be in the sample: n cases promise at most 0.05 ** (1 / n)."""
    thresholds, at = np.unique(scores, return_inverse=True)
    counts = pd.crosstab(case, at).to_numpy()
    detected = counts[:, ::-1].cumsum(axis=1)[:, ::-1]  # (n_cases, n_thresholds) images at or above each threshold
    share, n = detected.sum(axis=0) / len(scores), len(detected)
    promised = share * ERROR ** (1 / n)
    if n > 1:
        # The variance of a ratio of sums over cases (Cochran 1977, eq. 2.39).
        spread = ((detected - share * detected[:, :1]) ** 2).sum(axis=0)
        error = np.sqrt(n / (n - 1) * spread) / len(scores) / np.where(share < 1, share * (1 - share), 1)
        bound = special.expit(special.logit(share) - stats.t.ppf(1 - ERROR, n - 1) * error)
        promised = np.minimum(promised, bound)
    # The bound is not quite monotone: from below, up to the first threshold that does not keep the promise.
    chosen = max(int(np.argmin(np.append(promised >= sensitivity, False))) - 1, 0)
    return float(thresholds[chosen]), float(promised[chosen])


def choose_thresholds(table: pd.DataFrame) -> list[dict[str, Any]]:
    """thresholds.json: for each model (fold and seed) and target sensitivity, the threshold, what it promises and what
    it was chosen on: the model's validation rows; without malignant ones, the test rows of the seed's other folds (out
    of fold); a model with neither is left out."""
    entries, table = [], table[(table["label"] == "malignant") | (table["part"] == "test")]
    for (fold, seed), rows in table.groupby(MODEL, sort=True):
        if not (rows["part"] == "test").any():
            continue
        # A test label is read once: never the rows that the threshold is applied to.
        chosen_on, source = "validation", rows[rows["part"] == "validation"]
        if source.empty:
            others = table[(table["seed"] == seed) & (table["fold"] != fold) & (table["part"] == "test")]
            # Published folds overlap: a case of this fold's test rows must not choose its threshold.
            others = others[(others["label"] == "malignant") & ~others["case"].isin(rows["case"])]
            chosen_on, source = "test rows of the other folds", others
        about = {"fold": int(fold), "seed": int(seed), "chosen_on": chosen_on}
        about |= {"n_malignant_images": len(source), "n_malignant_cases": int(source["case"].nunique())}
        for goal in TARGET_SENSITIVITIES if len(source) else ():
            threshold, promised = threshold_for(source["p_malignant"].to_numpy(), source["case"].to_numpy(), goal)
            entries.append(about | {"sensitivity": goal, "threshold": threshold, "promised": promised})
    return entries


def operating_points(
    table: pd.DataFrame, thresholds: list[dict[str, Any]], n_resamples: int, seed: int
) -> list[dict[str, Any]]:
    """For each target sensitivity: the sensitivity and specificity of the test rows, with intervals."""
    points = []
    for goal, chosen in pd.DataFrame(thresholds).groupby("sensitivity") if thresholds else ():
        # The merge leaves rows of models without a threshold out; a probability of 0 or 1 stands for the decision.
        test = predictions.select_part(table, "test").merge(chosen[[*MODEL, "threshold"]], on=MODEL)
        malignant = (test["p_malignant"] >= test.pop("threshold")).astype(float)
        decided = test.assign(p_malignant=malignant, p_benign=1 - malignant)
        reached = metrics.compute_stratum(decided, f"at-{goal}", n_resamples, seed, ("sensitivity", "specificity"))
        used = {"lowest_threshold": chosen["threshold"].min(), "highest_threshold": chosen["threshold"].max()}
        points.append({"wanted": goal, "promised": chosen["promised"].min(), **used, **reached})
    return points


def net_benefit_curve(
    table: pd.DataFrame, prevalence: float | None = None, thresholds: np.ndarray = THRESHOLDS
) -> pd.DataFrame:
    """A row for each threshold t: threshold, model, low, high, treat_all; net benefit in true positives per image.
    Sensitivity * prevalence - (1 - specificity) * (1 - prevalence) * t / (1 - t) (Vickers and Elkin 2006); calling none
    malignant has 0. `prevalence` in (0, 1) is the table's own if None, also in each resample. low and high are the 95 %
    percentile interval over 2,000 samples of cases. The mean over replicates."""
    pieces, cases = case_statistics.score_images(table)
    weights = np.vstack([np.ones(len(cases)), bootstrap.case_weights(len(cases), 2_000, 0)])
    odds, curves, treat_all = thresholds / (1 - thresholds), [], []
    for images in pieces:
        called = images.scores[:, 1, None] >= thresholds
        # (resample, 1) images of each class, and (resample, threshold) of them those that are called malignant.
        (positives, hits), (negatives, alarms) = (
            [weights @ images.sum_by_case(is_class * what) for what in (np.ones((len(called), 1)), called)]
            for is_class in (images.true[:, None] == 1, images.true[:, None] != 1)
        )
        own = case_statistics.divide(positives, positives + negatives)
        share = own if prevalence is None else np.full_like(own, prevalence)
        sensitivity, alarm_rate = case_statistics.divide(hits, positives), case_statistics.divide(alarms, negatives)
        curves.append(share * sensitivity - (1 - share) * alarm_rate * odds)
        treat_all.append(share[0] - (1 - share[0]) * odds)
    curve = np.mean(curves, axis=0)
    low, high = np.nanquantile(curve[1:], [bootstrap.TAIL, 1 - bootstrap.TAIL], axis=0)
    columns = {"threshold": thresholds, "model": curve[0], "low": low, "high": high}
    return pd.DataFrame(columns | {"treat_all": np.mean(treat_all, axis=0)})


def predictive_values(pooled: dict[str, Any], prevalences: Iterable[float] = PREVALENCES) -> list[dict[str, Any]]:
    """For each prevalence of malignant in (0, 1): prevalence, and ppv and npv, each with value, low and high. By Bayes'
    theorem from sensitivity and specificity. Bounds come from both intervals' ends together, so they are at least as
    wide as 95 %; None where one of the two has none."""
    rows = []
    for prevalence in prevalences:
        row: dict[str, Any] = {"prevalence": prevalence, "ppv": {}, "npv": {}}
        for key in ("value", "low", "high"):
            sensitivity, specificity = (pooled[name][key] for name in ("sensitivity", "specificity"))
            row["ppv"][key] = row["npv"][key] = None
            if None not in (sensitivity, specificity):
                hits, rejects = sensitivity * prevalence, specificity * (1 - prevalence)
                called, passed = hits + 1 - prevalence - rejects, prevalence - hits + rejects
                row["ppv"][key] = hits / called if called > 0 else None
                row["npv"][key] = rejects / passed if passed > 0 else None
        rows.append(row)
    return rows
