"""The report of a sweep: any number of runs as one table beside published results, in CSV, Markdown, LaTeX and HTML."""

from pathlib import Path
from typing import Any

import pandas as pd
from threadpoolctl import threadpool_limits

from .. import config, names
from ..evaluation import metrics, predictions
from ..evaluation.experiments import Experiment, flat_settings
from ..files import sha256_of_values, write_csv, write_text
from . import plots_sweep, report, text
from .plots_sweep import OURS, where

METRICS: tuple[str, ...] = ("image_accuracy", "recognition_rate", "balanced_accuracy", "roc_auc")
IN_CSV = (*METRICS, "f1")  # which is printed where it was published
# head.kind -> what its probe is called in literature.csv
PROBES = {"logistic": "linear", "keras": "linear", "knn": "knn"}
LEAKY_PROTOCOLS = ("image", "slide", "case")  # of the leak penalty, the leakiest first


@threadpool_limits.wrap(limits=1)  # as metrics are computed
def write_sweep_report(
    experiments: list[Experiment], numbers: dict[str, dict[str, Any]], out: Path, title: str
) -> tuple[Path, str]:
    """Write table.csv, for each task a table in Markdown and LaTeX and a figure, and index.html; returns its path and
    its headline. An experiment makes one row for each magnification, and one for all where one model serves several.
    numbers: metrics of each experiment, by its name. Raises DataError on what cannot be scored."""
    table = sweep_table(experiments, numbers)
    write_csv(out / "table.csv", table.drop(columns="row"))

    # --- a section for each task; sources are numbered once, for all of them ---
    cited = citations(table)
    contradictions = [banner for one in experiments for banner in text.contradictions(one)]
    sections, files = [], ["table.csv"]
    for task, lines in table.groupby("task", sort=False):
        suffix = f"_{'_'.join(str(task).split())}" if sections else ""
        first, second = printed_rows(lines, cited)
        both = pd.concat([first, second]).sort_index(kind="stable")  # a row, and what is printed below it
        warnings = [sentence for _, sentence in contradictions + banners(lines)]
        sources = [f"[{cited.index(entry) + 1}] {entry}." for entry in citations(lines)]
        caption = " ".join([f"{title}, {task}.", *warnings, *notes(lines), *sources])
        text.write_tables(out, f"table{suffix}", both[(both != "").any(axis=1)], caption, 3, "llp{4.2cm}")
        files += [f"table{suffix}.md", f"table{suffix}.tex"]
        labels = dict(zip(printed_metrics(lines), first.columns[3:], strict=True))
        figure = plots_sweep.sweep_figure(lines, labels, f"Scores by protocol and magnification, {task}")
        pairs = list(zip(first.to_numpy().tolist(), second.to_numpy().tolist(), strict=True))
        [shown] = report.save_figures({f"paper{suffix}": figure}, out).values()
        sections.append({"task": task, "figure": shown, "header": list(first.columns), "lines": pairs})

    headline = f"{finding(table)}: {title}"
    content = {
        "headline": headline, "banners": contradictions + banners(table), "notes": notes(table), "sections": sections,
        "citations": cited, "penalties": leak_penalties(table), "experiments": experiments, "files": files,
    }  # fmt: skip
    write_text(out / "index.html", text.render("paper.html", content))
    return out / "index.html", headline


def sweep_table(experiments: list[Experiment], numbers: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """table.csv: a line for each row of the printed table and metric, and below it for each published value. Scores are
    shares of 1: mean, sd (over folds), value (pooled), low, high. Rows are in the order of a paper: task, protocol from
    the strictest to the leaky one, magnification. `row` numbers them; published results have the number of the row that
    they stand below."""
    # --- what distinguishes experiments beyond protocol, task and magnification: `head.peak_lr 0.001` ---
    elsewhere = (*config.PLACES, "data.task", "data.magnifications", "split.allow_leaks", "split.fold", "run.seed")
    flat = [flat_settings(one.settings, elsewhere) if one.settings else {} for one in experiments]
    varied = sorted({key for one in flat for key in one if len({str(each.get(key)) for each in flat}) > 1})

    # --- the null: the same heads on randomly initialised backbones, whose range stands behind a result of ours ---
    is_null = [
        one.settings is not None and one.settings.model.weights == "random" and not one.settings.fine_tunes
        and not one.settings.features.source and one.settings.head.epochs > 0 for one in experiments
    ]  # fmt: skip
    if all(is_null):
        is_null = [False] * len(experiments)
    nulls = {_conditions(one): one.test for one, null in zip(experiments, is_null, strict=True) if null}

    # --- our rows ---
    rows = []
    for experiment, settings, null in zip(experiments, flat, is_null, strict=True):
        if null:
            continue
        test, classes = experiment.test, frozenset(predictions.class_names(experiment.table))
        named = {frozenset(names.LABELS): "binary", frozenset(names.SUBTYPES): "subtype"}
        task = named.get(classes, " ".join(predictions.class_names(experiment.table)))
        protocol, null_test = experiment.meta("protocol"), nulls.get(_conditions(experiment))
        strata = {str(value): part for value, part in test.groupby("magnification")}
        is_joint = len(strata) > 1
        model = [experiment.meta("model"), f"one model for {' '.join(f'{one}X' for one in strata)}" if is_joint else "",
                 ", ".join(f"{key} {settings[key]}" for key in varied if key in settings)]  # fmt: skip
        head = experiment.settings and experiment.settings.head
        for magnification, part in (strata | ({"all": test} if is_joint else {})).items():
            found = numbers[experiment.name]
            stratum = found["by_magnification"][magnification] if len(part) < len(test) else found["pooled"]
            scores = pd.DataFrame({name: stratum[name] for name in IN_CSV}).T
            scores = scores.drop(columns=["image_low", "image_high"], errors="ignore")
            # Seeds are averaged within a fold, over those in which the metric is defined.
            values = {key: metrics.compute_values(rows, IN_CSV) for key, rows in part.groupby(["fold", "seed"])}
            folds = pd.DataFrame(values).T.groupby(level=0).mean()
            scores = scores.assign(mean=folds.mean(), sd=folds.std(), n_folds=folds.notna().sum())
            if null_test is not None:
                seeds = null_test[null_test["file"].isin(part["file"])].groupby("seed")
                by_seed = pd.DataFrame([metrics.compute_values(rows, IN_CSV) for _, rows in seeds])
                scores = scores.assign(null_low=by_seed.min(), null_high=by_seed.max())
            row = {
                "task": task, "protocol": protocol, "magnification": magnification, "by": OURS,
                "model": "; ".join(filter(None, model)), "data": experiment.meta("data"),
                "n_seeds": part["seed"].nunique(),
            }  # fmt: skip
            # Custom tasks and protocols come last, by name.
            order = (
                ["binary", "subtype", task].index(task), task, [*text.PROTOCOLS, protocol].index(protocol), protocol,
                is_joint, [*map(str, names.MAGNIFICATIONS), "all"].index(magnification), row["model"],
            )  # fmt: skip
            # Published scores of `all` are of all four magnifications, and those of a probe stand beside the same one.
            is_whole = magnification != "all" or set(strata) == set(map(str, names.MAGNIFICATIONS))
            probe = head and (PROBES.get(head.kind) or f"{head.shots}_shot")
            rows.append((order, row, scores.rename_axis("metric").reset_index(), is_whole, probe))
    rows.sort(key=lambda one: one[0])

    # --- published results, once, below the first row of their conditions ---
    lines, literature = [], published_results()
    for at, (_, row, scores, is_whole, probe) in enumerate(rows):
        lines.append(scores.assign(**row, row=at))
        same = (literature["protocol"] == row["protocol"]) & (literature["magnification"] == row["magnification"])
        same &= (literature["task"] == " ".join(sorted(row["task"].split()))) & is_whole
        same &= literature["probe"].isin(["", probe]) | (probe is None)
        lines.append(literature[same].drop(columns="probe").assign(task=row["task"], row=at))
        literature = literature[~same]
    table = pd.concat([each for each in lines if len(each)], ignore_index=True)
    first = ["task", "protocol", "magnification", "by", "model", "data", "metric", "mean", "sd"]
    return table[[*first, *table.columns.difference(first, sort=False)]]


def _conditions(experiment: Experiment) -> str:
    """What a result has in common with its null: all but the backbone's weights and the seed."""
    outside = ("run", "split.fold", *config.PLACES)
    settings = config.settings_without(experiment.settings, outside) if experiment.settings else {}
    return sha256_of_values(experiment.meta("protocol"), experiment.meta("data"), settings)


def published_results() -> pd.DataFrame:
    """literature.csv: published results whose source was read, in the columns of `sweep_table`. Subtypes in `task` are
    sorted; `magnification` all is one model of all magnifications and its pooled score."""
    path, na = text.HERE / "literature.csv", {"sd": [""]}
    return pd.read_csv(path, comment="#", dtype={"magnification": str}, keep_default_na=False, na_values=na)


def printed_metrics(lines: pd.DataFrame) -> list[str]:
    """METRICS, and F1 where it was published beside these lines."""
    published = set(lines.loc[lines["by"] != OURS, "metric"])
    return [name for name in IN_CSV if name in METRICS or name in published]


def printed_rows(lines: pd.DataFrame, cited: list[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One task's table as text, and what is printed below each cell: sizes, pooled values and intervals."""
    first, second, shown = [], [], printed_metrics(lines)
    for (_, by, model), part in lines.groupby(["row", "by", "model"], sort=False):
        about, scores = part.iloc[0], part.set_index("metric").reindex(shown).to_dict("records")
        means = [text.number(one["mean"]) + ("" if pd.isna(one["sd"]) else f" ± {one['sd']:.3f}") for one in scores]
        named, below = f"ours: {model}", [""] * (1 + len(shown))
        if by == OURS:
            units = ("fold", "seed", "image", "case")
            nulls = [text.interval(score, "null_low", "null_high") for score in scores]
            below = [", ".join(text.count(int(about[f"n_{unit}s"]), unit) for unit in units)]
            below += [text.estimate(score) + (f"; null {null}" if null else "")
                      for score, null in zip(scores, nulls, strict=True)]  # fmt: skip
        else:
            named = f"{by}, {model} [{cited.index(citations(part)[0]) + 1}]"
            means = [mean.replace("–", "") for mean in means]  # not published, which is not undefined
        first.append([about["protocol"], where(about["magnification"]), named, *means])
        second.append(["", "", *below])
    words = metrics.metric_words(lines["task"].iloc[0] == "binary")
    header = ["Protocol", "Magnification", "Model", *(words[name][0] for name in shown)]
    return pd.DataFrame(first, columns=header), pd.DataFrame(second, columns=header)


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
    null = "null_low" in lines and lines["null_low"].notna().any()
    protocols = ". ".join(map(text.protocol, lines["protocol"].unique()))
    shown = {"null": null, "published": (lines["by"] != OURS).any(), "protocols": protocols}
    return text.fill_sentences("sweep", shown)


def finding(lines: pd.DataFrame) -> str:
    """ROC AUC under each protocol, over the magnifications."""
    sentences, auc = [], lines[(lines["by"] == OURS) & (lines["metric"] == "roc_auc")]
    for task, inside in auc.groupby("task", sort=False):
        spans = []
        for protocol, rows in inside.groupby("protocol", sort=False):
            ends = dict.fromkeys(text.number(value, 2) for value in (rows["value"].min(), rows["value"].max()))
            span = " to ".join(ends) if len(rows) > 1 else text.estimate(rows.iloc[0].to_dict(), 2)
            spans.append(f"{span} by {protocol}")
        sentences.append(f"{str(task)[0].upper()}{str(task)[1:]}: ROC AUC {', '.join(spans)}")
    return ". ".join(sentences)


def leak_penalties(table: pd.DataFrame) -> list[str]:
    """A sentence for each model, data and magnification that ran under two or more of image, slide and case: ROC AUC
    under each, and by how much the split by image flatters."""
    ours, sentences = table[table["by"] == OURS].drop_duplicates(["row", "metric"]), []
    for (model, data, magnification), rows in ours.groupby(["model", "data", "magnification"], sort=False):
        scores = rows.drop_duplicates(["metric", "protocol"]).set_index(["metric", "protocol"])
        if len(tried := [name for name in LEAKY_PROTOCOLS if ("roc_auc", name) in scores.index]) > 1:
            shown = {one: text.estimate(scores.loc[("roc_auc", one)].to_dict(), 2) for one in tried}
            spans = [f"{value} with the split by {one}" for one, value in shown.items()]
            sentence = f"{model}, {data}, {where(magnification)}: ROC AUC {', '.join(spans)}."
            if {"image", "case"} <= set(tried):
                accuracy = scores["value"]["image_accuracy"]
                gap = 100 * float(accuracy["image"] - accuracy["case"])
                sentence += f" The split by image scores {abs(gap):.1f} points {'higher' if gap >= 0 else 'lower'} in"
                sentence += " accuracy than the split by case."
            sentences.append(sentence)
    return sentences
