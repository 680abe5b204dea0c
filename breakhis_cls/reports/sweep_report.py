"""The page of a paper's table: what was found, the table, the figure, the penalty of leaky splits, the sources."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from .. import __version__
from ..evaluation import predictions
from ..evaluation.experiments import Experiment
from ..files import atomic_path, sha256_of_values, write_text
from . import paper_table, penalty, plots_sweep, report, text
from .paper_rows import METRICS, Row


def write_sweep_page(rows: list[Row], experiments: list[Experiment], out: Path, title: str) -> Path:
    """Write index.html with the figure (paper, or paper_<task> where there are several) and the penalty's files."""
    penalties = _penalties(experiments, out)
    sections = []
    for task in paper_table.tasks(rows):
        inside = [row for row in rows if row.task == task]
        sections.append({"task": task, "figure": _drawn(inside, rows, out), "lines": paper_table.grid(inside, rows),
                         "header": paper_table.header(inside)})  # fmt: skip
    content = {
        "title": title,
        "finding": finding(rows),
        "banners": paper_table.banners(rows),
        "notes": paper_table.notes(rows),
        "sections": sections,
        "penalties": penalties,
        "citations": paper_table.citations(rows),
        "experiments": [_about(one) for one in experiments],
        "version": __version__,
    }
    write_text(out / "index.html", report.render("paper.html", content))
    return out / "index.html"


def finding(rows: list[Row]) -> str:
    """ROC AUC under each protocol, over the magnifications; of the full data set beside what was published."""
    told = []
    for task in paper_table.tasks(rows):
        inside = [row for row in rows if row.task == task]
        spans = [
            f"{_span(inside, protocol)} by {protocol}" for protocol in dict.fromkeys(one.protocol for one in inside)
        ]
        told.append(f"{task[0].upper()}{task[1:]}: ROC AUC {', '.join(spans)}.{_beside(inside)}")
    return " ".join(told)


def _span(inside: list[Row], protocol: str) -> str:
    return _range([row.scores["roc_auc"]["value"] for row in inside if row.protocol == protocol])


def _beside(inside: list[Row]) -> str:
    """Means over folds and published means of the metric that is published most often."""
    if any(not row.data.startswith("breakhis") for row in inside):
        return ""
    names = [name for row in inside for one in row.published for name in one.scores]
    if not names:
        return ""
    name = max(METRICS, key=names.count)
    ours = [row.scores[name]["mean"] for row in inside if any(name in one.scores for one in row.published)]
    theirs = [one.scores[name][0] for row in inside for one in row.published if name in one.scores]
    return f" {penalty.METRICS[name]} {_range(ours)}; published {_range(theirs)}."


def _range(values: Sequence[float | None]) -> str:
    known = [f"{value:.2f}" for value in values if value is not None]
    if not known:
        return "undefined"
    return min(known) + (f" to {max(known)}" if min(known) < max(known) else "")


def _drawn(inside: list[Row], rows: list[Row], out: Path) -> dict[str, str]:
    name = "paper" if inside[0].task == rows[0].task else f"paper_{'_'.join(inside[0].task.split())}"
    sample = [sentence for kind, sentence in paper_table.banners(inside) if kind == "sample"]
    said = " ".join([finding(inside), *(sample or [f"{inside[0].data}."])])
    return report.save_figures({name: plots_sweep.sweep_figure(inside, said)}, out)[name]


def _penalties(experiments: list[Experiment], out: Path) -> list[dict[str, Any]]:
    """Of every model that was run under two or more of image, slide and case."""
    groups: dict[str, list[Experiment]] = {}
    for one in experiments:
        if one.meta("protocol") in penalty.PROTOCOLS:
            groups.setdefault(_key(one), []).append(one)
    compared = [group for group in groups.values() if len({one.meta("protocol") for one in group}) > 1]
    return [_penalty(group, out, f"leak_penalty-{at}" if at else "leak_penalty") for at, group in enumerate(compared)]


def _penalty(group: list[Experiment], out: Path, name: str) -> dict[str, Any]:
    found = penalty.table(pd.concat([one.table for one in group], ignore_index=True))
    data = f"{group[0].meta('data')}, {group[0].meta('model')}"
    with atomic_path(out / f"{name}.csv") as temporary:
        found.to_csv(temporary, index=False, lineterminator="\n")
    said = penalty.sentence(found, data)
    write_text(out / f"{name}.md", said + "\n")
    drawn = report.save_figures({name: penalty.figure(found, data)}, out)[name]
    return {"sentence": said, "figure": drawn, "rows": found.to_dict("records"), "labels": penalty.METRICS}


def _key(one: Experiment) -> str:
    """Of one model and one budget on the same images, whatever the split."""
    settings = one.settings.model_dump(mode="json", exclude={"split", "run", "name"}) if one.settings else {}
    for section, key in (("data", "root"), ("data", "cache"), ("model", "weights")):
        settings.get(section, {}).pop(key, None)
    return sha256_of_values(one.meta("data"), one.meta("model"), sorted(predictions.class_names(one.table)),
                  sorted(map(int, one.test["magnification"].unique())), settings)  # fmt: skip


def _about(one: Experiment) -> dict[str, str]:
    seeds = ", ".join(str(seed) for seed in sorted(one.test["seed"].unique()))
    return {"name": one.name, "model": one.meta("model"), "data": one.meta("data"), "folds": text.folds(one),
            "protocol": text.protocol(one), "seeds": seeds, "weights": text.weights(one)}  # fmt: skip
