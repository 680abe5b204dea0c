"""The report of a sweep: any number of runs as one table beside published results, in CSV, Markdown, LaTeX and HTML."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from .. import config, names
from ..evaluation import bootstrap, metrics, predictions
from ..evaluation.experiments import Experiment, group_experiments, read_source
from ..files import sha256_of_values, write_csv, write_text
from . import plots_sweep, report, text
from .plots_sweep import OURS, where

METRICS: tuple[str, ...] = ("image_accuracy", "recognition_rate", "balanced_accuracy", "roc_auc")
IN_CSV = (*METRICS, "f1")  # which is printed where it was published
# head.kind -> what its probe is called in literature.csv
PROBES = {"logistic": "linear", "keras": "linear", "knn": "knn"}
LEAKY_PROTOCOLS = ("image", "slide", "case")  # of the leak penalty, the leakiest first
READING = (
    "Ours: mean ± standard deviation (n − 1) over folds, seeds averaged within a fold first, as in the literature; "
    "below it the value of all folds pooled (where they test an image again, the mean over them), with its 95 % "
    "interval by bootstrap over cases where they are enough."
)
PUBLISHED = " Published: mean ± standard deviation over folds, where the source gives one."


def write_sweep_report(run_folders: list[Path], out: Path, title: str) -> tuple[Path, str]:
    """Write table.csv, table.md, table.tex, the figure `paper`, the leak penalty where the runs show one, and
    index.html; returns its path and its headline.

    `run_folders` are runs, or tables of predictions; folds and seeds of one experiment make one row for each
    magnification, and one for all where one model serves several. Raises DataError on what cannot be scored.
    """
    experiments = group_experiments([read_source(path) for path in run_folders])
    table = sweep_table(experiments)
    write_csv(out / "table.csv", table.drop(columns="row"))

    # --- a section for each task; sources are numbered once, for all of them ---
    cited = citations(table)
    contradictions = [banner for one in experiments for banner in text.contradictions(one)]
    sections, markdown, latex = [], [], ["% \\usepackage{booktabs}"]
    for task, lines in table.groupby("task", sort=False):
        first, second = printed_rows(lines, cited)
        markdown += [f"## {task}", text.markdown_table(first + ("<br>" + second).where(second != "", ""), n_text=3)]

        # LaTeX has the second lines as rows of their own, in small print.
        both = pd.concat([first, second]).sort_index(kind="stable")
        both = both[(both != "").any(axis=1)].reset_index(drop=True)
        small = both.index[both["Protocol"] == ""].tolist()
        warnings = [sentence for _, sentence in contradictions + banners(lines)]
        sources = [f"[{cited.index(entry) + 1}] {entry}." for entry in citations(lines)]
        caption = " ".join([f"{title}, {task}.", *warnings, *notes(lines), *sources])
        columns = "llp{4.2cm}" + "r" * (len(both.columns) - 3)
        latex.append(text.latex_table(both, caption, columns, small, environment="table*"))

        name = f"paper_{'_'.join(str(task).split())}" if sections else "paper"
        sample = [sentence for kind, sentence in banners(lines) if kind == "sample"]
        heading = " ".join([finding(lines), *(sample or [f"{lines['data'].iloc[0]}."])])
        labels = dict(zip(printed_metrics(lines), first.columns[3:], strict=True))
        shown = report.save_figures({name: plots_sweep.sweep_figure(lines, labels, heading)}, out)[name]
        pairs = list(zip(first.to_numpy().tolist(), second.to_numpy().tolist(), strict=True))
        sections.append({"task": task, "figure": shown, "header": list(first.columns), "lines": pairs})
    warnings = [sentence for _, sentence in contradictions + banners(table)]
    references = "\n".join(f"{at}. {entry}" for at, entry in enumerate(cited, 1))
    write_text(out / "table.md", "\n\n".join([f"# {title}", *warnings, *markdown, *notes(table), references]) + "\n")
    write_text(out / "table.tex", "\n".join(latex))

    # --- the page ---
    content = {
        "title": title, "finding": finding(table), "banners": contradictions + banners(table), "notes": notes(table),
        "sections": sections, "citations": cited, "penalties": write_penalties(experiments, out),
        "experiments": experiments,
    }  # fmt: skip
    write_text(out / "index.html", text.render("paper.html", content))
    return out / "index.html", content["finding"]


def sweep_table(experiments: list[Experiment], n_resamples: int = bootstrap.N_RESAMPLES) -> pd.DataFrame:
    """table.csv: a line for each row of the printed table and metric, and below it for each published value.

    Scores are shares of 1: mean, sd (over folds), value (pooled), low, high. Rows are in the order of a paper: task,
    protocol from the strictest to the leaky one, magnification. `row` numbers them; published results have the number
    of the row that they stand below.
    """
    # --- what distinguishes experiments beyond protocol, task and magnification: `head.peak_lr 0.001` ---
    elsewhere = (*config.PLACES, "data.task", "data.magnifications", "split.allow_leaks", "split.fold", "run.seed")
    flat = []
    for one in experiments:
        nested = config.settings_without(one.settings, elsewhere) if one.settings else {}
        flat.append({f"{section}.{key}": value for section, each in nested.items() if isinstance(each, dict)
                     for key, value in each.items()})  # fmt: skip
    varied = sorted({key for one in flat for key in one if len({str(each.get(key)) for each in flat}) > 1})

    # --- our rows ---
    rows = []
    for experiment, settings in zip(experiments, flat, strict=True):
        test, classes = experiment.test, predictions.class_names(experiment.table)
        task = "subtype" if set(classes) == set(names.SUBTYPES) else " ".join(classes)
        task, protocol = "binary" if classes == names.LABELS else task, experiment.meta("protocol")
        strata = {str(value): part for value, part in test.groupby("magnification")}
        is_joint = len(strata) > 1
        model = [experiment.meta("model"), f"one model for {' '.join(f'{one}X' for one in strata)}" if is_joint else "",
                 ", ".join(f"{key} {settings[key]}" for key in varied if key in settings)]  # fmt: skip
        for magnification, part in (strata | ({"all": test} if is_joint else {})).items():
            # The seed's name is that of the experiment's own report, so that the intervals are equal.
            name = f"magnification-{magnification}" if len(part) < len(test) else "pooled"
            pooled = metrics.compute_stratum(part, name, n_resamples, 0, only=IN_CSV)
            folds = mean_over_folds(part)
            over_folds = pd.DataFrame({"mean": folds.mean(), "sd": folds.std(), "n_folds": folds.notna().sum()})
            over_folds["n_seeds"] = part["seed"].nunique()
            row = {
                "task": task, "protocol": protocol, "magnification": magnification, "by": OURS,
                "model": "; ".join(filter(None, model)), "data": experiment.meta("data"),
            }  # fmt: skip
            scores = [{"metric": name} | over_folds.loc[name].to_dict() | pooled[name] for name in IN_CSV]
            # Custom tasks and protocols come last, by name.
            order = (
                ["binary", "subtype", task].index(task), task, [*text.PROTOCOLS, protocol].index(protocol), protocol,
                is_joint, [*map(str, names.MAGNIFICATIONS), "all"].index(magnification), row["model"],
            )  # fmt: skip
            # Published scores of `all` are of all four magnifications.
            is_whole = magnification != "all" or set(strata) == set(map(str, names.MAGNIFICATIONS))
            head = experiment.settings.head if experiment.settings else None
            probe = head and (PROBES.get(head.kind) or f"{head.shots}_shot")
            rows.append((order, row, scores, is_whole, probe))
    rows.sort(key=lambda one: one[0])

    # --- published results, once, below the first row of their conditions ---
    lines, literature = [], published_results()
    for at, (_, row, scores, is_whole, probe) in enumerate(rows):
        lines += [row | score | {"row": at} for score in scores]
        conditions = {"task": " ".join(sorted(row["task"].split())), "protocol": row["protocol"],
                      "magnification": row["magnification"]}  # fmt: skip
        same = (literature[list(conditions)] == list(conditions.values())).all(axis=1) & is_whole
        same &= (literature["probe"] == "") | (literature["probe"] == probe) | (probe is None)
        lines += literature[same].drop(columns="probe").assign(task=row["task"], row=at).to_dict("records")
        literature = literature[~same]
    return pd.DataFrame(lines)


def mean_over_folds(rows: pd.DataFrame) -> pd.DataFrame:
    """(fold, metric) values; seeds are averaged within a fold, over those in which the metric is defined."""
    values = []
    for (fold, _), part in rows.groupby(["fold", "seed"]):
        # All cases with weight 1: no resampling here.
        statistics, cases = metrics.compute_statistics(part, IN_CSV)
        values.append(
            {"fold": fold} | {name: bootstrap.statistic_value(statistics[name], len(cases)) for name in IN_CSV}
        )
    return pd.DataFrame(values).groupby("fold").mean()


def published_results() -> pd.DataFrame:
    """literature.csv: published results whose source was read, in the columns of `sweep_table`.

    Subtypes in `task` are sorted. `magnification` all is one model of all magnifications and its pooled score. `sd` is
    missing where the source gives a mean alone.
    """
    path, types = Path(__file__).with_name("literature.csv"), {"magnification": str}
    return pd.read_csv(path, comment="#", dtype=types, keep_default_na=False, na_values={"sd": [""]})


def printed_rows(lines: pd.DataFrame, cited: list[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One task's table as text, and what is printed below each cell: sizes, pooled values and intervals."""
    first, second, shown = [], [], printed_metrics(lines)
    for (_, by, _), part in lines.groupby(["row", "by", "model"], sort=False):
        about, scores = part.iloc[0], part.set_index("metric").reindex(shown).to_dict("records")
        means = [text.number(one["mean"]) + ("" if pd.isna(one["sd"]) else f" ± {one['sd']:.3f}") for one in scores]
        if by == OURS:
            model = f"ours: {about['model']}"
            sizes = [text.count(int(about[f"n_{unit}s"]), unit) for unit in ("fold", "seed", "image", "case")]
            below = [", ".join(sizes), *map(text.estimate, scores)]
        else:
            model = f"{by}, {about['model']} [{cited.index(citations(part)[0]) + 1}]"
            means = [mean.replace("–", "") for mean in means]  # not published, which is not undefined
            below = [""] * (1 + len(shown))
        first.append([about["protocol"], where(about["magnification"]), model, *means])
        second.append(["", "", *below])
    labels = [metrics.metric_words(lines["task"].iloc[0] == "binary")[name][0] for name in shown]
    header = ["Protocol", "Magnification", "Model", *labels]
    return pd.DataFrame(first, columns=header), pd.DataFrame(second, columns=header)


def printed_metrics(lines: pd.DataFrame) -> list[str]:
    """METRICS, and F1 where it was published beside these lines."""
    published = set(lines.loc[lines["by"] != OURS, "metric"])
    return [name for name in IN_CSV if name in METRICS or name in published]


def citations(lines: pd.DataFrame) -> list[str]:
    """Paper, source and note of the published lines, each once."""
    published = lines[lines["by"] != OURS].to_dict("records")
    noted = [f"{line['by']}: {line['source']}" + (f" ({line['note']})" if line["note"] else "") for line in published]
    return list(dict.fromkeys(noted))


def banners(lines: pd.DataFrame) -> list[tuple[str, str]]:
    """(kind, sentence) of what no reader may miss: leaks, synthetic tissue, and samples beside published numbers."""
    ours = lines[lines["by"] == OURS]
    pairs = ours[["protocol", "data"]].drop_duplicates().itertuples(index=False)
    shown = {banner for pair in pairs for banner in text.banners(*pair) if banner[0] != "sample"}
    if other := sorted(data for data in ours["data"].unique() if not data.startswith("breakhis")):
        beside = ", and must not be compared with the published rows" if len(ours) < len(lines) else ""
        where_from = f"Measured on {', '.join(other)}, not on the full data set"
        shown.add(("sample", f"{where_from}: never a BreakHis result{beside}."))
    return sorted(shown)


def notes(lines: pd.DataFrame) -> list[str]:
    """How to read the table, and what its protocols are."""
    published = PUBLISHED if (lines["by"] != OURS).any() else ""
    return [READING + published, f"Protocols. {'. '.join(map(text.protocol, lines['protocol'].unique()))}."]


def finding(lines: pd.DataFrame) -> str:
    """ROC AUC under each protocol, over the magnifications; of the full data set beside what was published."""
    sentences = []
    for task, inside in lines.groupby("task", sort=False):
        ours, published = inside[inside["by"] == OURS], inside[inside["by"] != OURS]
        auc = ours[ours["metric"] == "roc_auc"].groupby("protocol", sort=False)["value"]
        spans = ", ".join(f"{_range(values)} (protocol {protocol})" for protocol, values in auc)
        sentences.append(f"{str(task)[0].upper()}{str(task)[1:]}: ROC AUC {spans}.")
        if len(published) and ours["data"].str.startswith("breakhis").all():
            # The metric that is published most often, as means over folds on both sides.
            name = published["metric"].value_counts().index[0]
            theirs = published[published["metric"] == name]
            same = ours[(ours["metric"] == name) & ours["row"].isin(theirs["row"])]
            label = metrics.METRICS[name].label
            sentences.append(f"{label} {_range(same['mean'])}; published {_range(theirs['mean'])}.")
    return " ".join(sentences)


def _range(values: pd.Series) -> str:
    low, high = f"{values.min():.2f}", f"{values.max():.2f}"
    return "undefined" if values.isna().all() else low + (f" to {high}" if low < high else "")


def leak_penalty(table: pd.DataFrame, n_resamples: int = bootstrap.N_RESAMPLES) -> pd.DataFrame:
    """Predictions of several protocols -> rows of protocol, metric, value, low, high, n_images, n_cases.

    Each protocol's folds are pooled and its seeds averaged; 95 % intervals resample cases. low and high are missing
    where there are too few cases for an interval.
    """
    rows = []
    for protocol in [name for name in LEAKY_PROTOCOLS if name in set(table["protocol"])]:
        test = predictions.select_part(table[table["protocol"] == protocol], "test")
        for name, result in metrics.compute_stratum(test, "pooled", n_resamples, 0, only=METRICS).items():
            kept = {key: result.get(key) for key in ("value", "low", "high", "n_images", "n_cases")}
            rows.append({"protocol": protocol, "metric": name} | kept)
    return pd.DataFrame(rows)


def penalty_sentences(penalties: pd.DataFrame, data: str) -> tuple[str, str]:
    """What a paper would quote, and the figure's title, whichever way the comparison falls."""
    scores = penalties.set_index(["metric", "protocol"])
    spans = [
        f"{text.estimate(row.to_dict(), 2)} with the split by {protocol}"
        for protocol, row in scores.loc["roc_auc"].iterrows()
    ]
    lines = "95 % intervals over cases" if penalties["low"].notna().any() else "too few cases for intervals"
    sentence = f"One model, one budget, {data}: ROC AUC {', '.join(spans)} ({lines})."
    title = "the same model under several protocols."
    if {"image", "case"} <= set(penalties["protocol"]):
        accuracy = scores["value"]["image_accuracy"]
        gap = 100 * (accuracy["image"] - accuracy["case"])
        direction = "higher" if gap >= 0 else "lower"
        title = f"the split by image scores {abs(gap):.1f} points {direction} in accuracy than the split by case."
    return sentence, f"Leak penalty: {title} {data}; lines: {lines}."


def write_penalties(experiments: list[Experiment], out: Path) -> list[dict[str, Any]]:
    """Write the leak penalty of every model that was run under two or more of image, slide and case."""
    groups: dict[str, list[Experiment]] = {}
    for one in experiments:
        if one.meta("protocol") in LEAKY_PROTOCOLS:
            # The same model and budget on the same images, whatever the split.
            varying = ("split", "run", "name", *config.PLACES)
            settings = config.settings_without(one.settings, varying) if one.settings else {}
            magnifications = sorted(map(int, one.test["magnification"].unique()))
            identity = (one.meta("data"), one.meta("model"), sorted(predictions.class_names(one.table)))
            groups.setdefault(sha256_of_values(*identity, magnifications, settings), []).append(one)
    shown = []
    for group in groups.values():
        if len({one.meta("protocol") for one in group}) < 2:
            continue
        name = f"leak_penalty-{len(shown)}" if shown else "leak_penalty"
        penalties = leak_penalty(pd.concat([one.table for one in group], ignore_index=True))
        sentence, title = penalty_sentences(penalties, f"{group[0].meta('data')}, {group[0].meta('model')}")
        write_csv(out / f"{name}.csv", penalties)
        write_text(out / f"{name}.md", sentence + "\n")
        labels = {metric: metrics.METRICS[metric].label for metric in METRICS}
        figure = plots_sweep.leak_penalty(penalties, labels, title)
        shown.append({"sentence": sentence, "figure": report.save_figures({name: figure}, out)[name]})
    return shown
