"""One self-contained HTML page about one experiment: a plain dict of facts, then a template."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from .. import __version__, config
from ..evaluation import predictions
from ..evaluation.experiments import Experiment
from ..evaluation.metrics import metric_words
from ..files import write_text
from . import analysis, papers, plots, plots_calibration, plots_images, text

TEMPLATES = Path(__file__).parent / "templates"
SHEETS = ("confident_errors", "sample_sheet", "heat_")  # how the names of pictures of tissue begin


def write_report(
    experiment: Experiment, metrics: dict[str, Any], folder: Path, images_root: Path | None = None
) -> Path:
    """Write index.html, the figures (PNG and SVG) and the tables into folder; returns the page's path.

    Learning curves need the run's history, pictures the images under `images_root`; both are left out where
    absent.
    """
    found = analysis.analyse_experiment(experiment)
    shown = save_figures(draw_figures(experiment, metrics, found, images_root), folder)
    content = report_facts(experiment, metrics, found)
    analysis.write_analysis(found, folder)
    write_text(folder / "table.tex", papers.latex(experiment, metrics))
    write_text(folder / "table.md", content["table"])
    write_text(folder / "model_card.md", render("model_card.md", content))
    write_text(folder / "index.html", render("report.html", content | {"figures": shown}))
    return folder / "index.html"


def draw_figures(
    experiment: Experiment, metrics: dict[str, Any], found: analysis.Analysis, images_root: Path | None
) -> dict[str, Figure]:
    """Figures by file name."""
    made = _of_answers(experiment.test, metrics["pooled"]) | _of_trust(experiment, metrics["pooled"], found)
    history = experiment.sources[0].history
    if history is not None and len(history):
        made["learning_curves"] = plots.learning_curves(history)
    if images_root is not None:
        made["confident_errors"] = plots_images.confident_errors(experiment.test, images_root)
        made["sample_sheet"] = plots_images.sample_sheet(experiment.test, images_root)
    return {name: figure for name, figure in made.items() if figure is not None}


def _of_answers(test: pd.DataFrame, pooled: dict[str, Any]) -> dict[str, Figure | None]:
    made: dict[str, Figure | None] = {"confusion_matrix": plots.confusion_matrix(test)}
    for magnification, rows in test.groupby("magnification"):
        made[f"confusion_matrix_{magnification}x"] = plots.confusion_matrix(rows)
    made["roc"] = plots.roc(test, _area("ROC AUC", pooled["roc_auc"]))
    made["precision_recall"] = plots.precision_recall(test, _area("Average precision", pooled["average_precision"]))
    return made


def _of_trust(experiment: Experiment, pooled: dict[str, Any], found: analysis.Analysis) -> dict[str, Figure | None]:
    unit = "case" if predictions.is_binary(experiment.table) else "slide"
    made: dict[str, Figure | None] = {
        "reliability": plots_calibration.reliability(found.reliability, _calibration_finding(pooled["ece"], found)),
        "risk_coverage": plots_calibration.risk_coverage(found.referral, unit),
        "errors": plots_calibration.errors(found.errors),
    }
    if found.reliability_of_answers:
        title = "How often an answer of a stated probability is right, by true subtype"
        made["reliability_subtypes"] = plots_calibration.reliability(found.reliability_of_answers, title)
    if pooled["roc_auc"]["value"] is not None and len(found.cases) > 2:
        made["influence"] = plots_calibration.influences(found.cases, "roc_auc", "ROC AUC")
    return made


def _calibration_finding(ece: dict[str, Any], found: analysis.Analysis) -> str:
    told = f"Stated and true frequencies differ by {ece['value']:.3f} on average (ECE)"
    if found.calibration:
        told += f", {found.calibration['with_temperature']['ece']['value']:.3f} with temperature"
    return told


def report_facts(experiment: Experiment, metrics: dict[str, Any], found: analysis.Analysis) -> dict[str, Any]:
    """All that the templates show but figures."""
    binary = predictions.is_binary(experiment.table)
    return {
        "name": experiment.name,
        "binary": binary,
        "finding": text.finding(experiment, metrics),
        "banners": text.banners(experiment),
        "caveats": text.caveats(experiment, metrics),
        "about": _about(experiment, metrics),
        "headline": _headline(metrics["pooled"], binary),
        "magnifications": _strata(metrics["by_magnification"], binary),
        "subtypes": metrics["by_subtype"],
        "by_class": metrics.get("by_class", {}),
        "surest_errors": plots_images.most_confident_errors(experiment.test).to_dict("records"),
        "settings": experiment.settings,
        "table": papers.markdown(experiment, metrics),
        "worst": found.errors.sort_values("error", ascending=False).head(3).to_dict("records"),
        "cases": found.cases.to_dict("records"),
        "calibration": found.calibration,
        "operating_points": found.operating_points,
        "chosen_on": sorted({entry["chosen_on"] for entry in found.thresholds}),
        "runs": [_run(source) for source in experiment.sources],
        "version": __version__,
    }


def render(template: str, content: dict[str, Any]) -> str:
    """A template of this room, filled; HTML is escaped, an unknown name is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=jinja2.select_autoescape(["html"]),
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "number": text.number,
        "span": text.span,
        "subtype": text.subtype,
        "p_value": text.p_value,
        "percent": plots.percent,
    }
    return environment.get_template(template).render(content)


def _about(experiment: Experiment, metrics: dict[str, Any]) -> list[tuple[str, str]]:
    counts = metrics["pooled"]["image_accuracy"]
    seeds = sorted(int(seed) for seed in experiment.test["seed"].unique())
    tested = [text.count(counts[f"n_{unit}s"], unit) for unit in ("image", "slide", "case")]
    return [
        ("Protocol", text.protocol(experiment)),
        ("Folds, seeds", f"{text.folds(experiment)}; seed {', '.join(map(str, seeds))}"),
        ("Data", experiment.meta("data")),
        ("Tested on", f"{tested[0]}, {tested[1]}, {tested[2]}"),
        ("Model", experiment.meta("model")),
        ("Weights", text.weights(experiment)),
    ]


def _headline(pooled: dict[str, Any], binary: bool) -> list[dict[str, Any]]:
    words = metric_words(binary)
    return [{"label": label, "reading": reading, **pooled[name]} for name, (label, reading) in words.items()]


def _strata(by: dict[str, Any], binary: bool) -> dict[str, Any]:
    words = metric_words(binary)
    rows = [{"label": words[name][0], "cells": [by[key][name] for key in by]} for name in words]
    return {"keys": [f"{key}X" for key in by], "rows": rows}


def _run(source) -> dict[str, Any]:
    return {
        "name": source.name,
        "environment": source.environment or {},
        "settings": config.dump_config(source.settings) if source.settings else "",
    }


def _area(name: str, result: dict[str, Any]) -> str:
    if result["value"] is None:
        return f"{name} is undefined: {result['undefined']}"
    interval = text.span(result, digits=2)
    return f"{name} {result['value']:.2f}" + (f" ({interval})" if interval else "")


def save_figures(made: dict[str, Figure], folder: Path) -> dict[str, dict[str, str]]:
    """Write figures; what a page needs of each, with vectors as SVG and sheets of images as JPEG."""
    shown = {}
    for name, figure in made.items():
        png, svg = plots.save(figure, folder, name)
        uri = _jpeg(png) if name.startswith(SHEETS) else _uri("svg+xml", svg.read_bytes())
        alt = " ".join(figure.get_suptitle().split()) or name
        shown[name] = {"uri": uri, "alt": alt, "width": str(round(figure.get_figwidth() * 96))}
    return shown


def _jpeg(png: Path) -> str:
    """A sheet of photographs is five times smaller as JPEG; the PNG lies beside the page."""
    written = io.BytesIO()
    with Image.open(png) as opened:
        opened.convert("RGB").save(written, "JPEG", quality=85, optimize=True)
    return _uri("jpeg", written.getvalue())


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
