"""One self-contained HTML page about one experiment: a plain dict of facts, then a template."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.figure import Figure
from PIL import Image

from .. import __version__, config
from ..files import write_text
from . import figures, pictures, predictions, wording
from .sources import Experiment

TEMPLATES = Path(__file__).parent / "templates"
SHEETS = ("confident_errors", "sample_sheet")


def write(
    experiment: Experiment, metrics: dict[str, Any], folder: Path, images_root: Path | None = None
) -> Path:
    """Write index.html and the figures (PNG and SVG) into folder; returns the page's path.

    Learning curves need the run's history, pictures the images under `images_root`; both are left out where absent.
    """
    shown = {
        name: _saved(figure, folder, name) for name, figure in drawn(experiment, metrics, images_root).items()
    }
    page = folder / "index.html"
    write_text(page, rendered("report.html", facts(experiment, metrics) | {"figures": shown}))
    return page


def drawn(experiment: Experiment, metrics: dict[str, Any], images_root: Path | None) -> dict[str, Figure]:
    """Figures by file name, in the page's order."""
    test = experiment.test
    made: dict[str, Figure | None] = {"confusion_matrix": figures.confusion_matrix(test)}
    for magnification in sorted(test["magnification"].unique()):
        rows = predictions.of_part(experiment.table, "test").query("magnification == @magnification")
        made[f"confusion_matrix_{magnification}x"] = figures.confusion_matrix(rows)
    made["roc"] = figures.roc(test, _area("ROC AUC", metrics["pooled"]["roc_auc"]))
    made["precision_recall"] = figures.precision_recall(
        test, _area("Average precision", metrics["pooled"]["average_precision"])
    )
    history = experiment.sources[0].history
    if history is not None and len(history):
        made["learning_curves"] = figures.learning_curves(history)
    if images_root is not None:
        made["confident_errors"] = pictures.confident_errors(test, images_root)
        made["sample_sheet"] = pictures.sample_sheet(test, images_root)
    return {name: figure for name, figure in made.items() if figure is not None}


def facts(experiment: Experiment, metrics: dict[str, Any]) -> dict[str, Any]:
    """All that the template shows but figures."""
    binary = predictions.is_binary(experiment.table)
    return {
        "name": experiment.name,
        "binary": binary,
        "finding": wording.finding(experiment, metrics),
        "banners": wording.banners(experiment),
        "caveats": wording.caveats(experiment, metrics),
        "about": _about(experiment, metrics),
        "headline": _headline(metrics["pooled"], binary),
        "magnifications": _strata(metrics["by_magnification"], binary),
        "subtypes": metrics["by_subtype"],
        "by_class": metrics.get("by_class", {}),
        "errors": pictures.surest_errors(experiment.test).to_dict("records"),
        "runs": [_run(source) for source in experiment.sources],
        "version": __version__,
    }


def rendered(template: str, content: dict[str, Any]) -> str:
    """A template of this room, filled; HTML is escaped, an unknown name is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=jinja2.select_autoescape(["html"]),
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"number": wording.number, "span": wording.span, "subtype": wording.subtype}
    return environment.get_template(template).render(content)


def _about(experiment: Experiment, metrics: dict[str, Any]) -> list[tuple[str, str]]:
    counts = metrics["pooled"]["image_accuracy"]
    seeds = sorted(int(seed) for seed in experiment.test["seed"].unique())
    tested = [wording.count(counts[f"n_{unit}s"], unit) for unit in ("image", "slide", "case")]
    return [
        ("Protocol", wording.protocol(experiment)),
        ("Folds, seeds", f"{wording.folds(experiment)}; seed {', '.join(map(str, seeds))}"),
        ("Data", experiment.said("data")),
        ("Tested on", f"{tested[0]}, {tested[1]}, {tested[2]}"),
        ("Model", experiment.said("model")),
        ("Weights", wording.weights(experiment)),
    ]


def _headline(pooled: dict[str, Any], binary: bool) -> list[dict[str, Any]]:
    words = wording.metric_words(binary)
    return [{"label": label, "reading": reading, **pooled[name]} for name, (label, reading) in words.items()]


def _strata(by: dict[str, Any], binary: bool) -> dict[str, Any]:
    words = wording.metric_words(binary)
    rows = [{"label": words[name][0], "cells": [by[key][name] for key in by]} for name in words]
    return {"keys": [f"{key}X" for key in by], "rows": rows}


def _run(source) -> dict[str, Any]:
    return {
        "name": source.name,
        "environment": source.environment or {},
        "settings": config.to_yaml(source.settings) if source.settings else "",
    }


def _area(name: str, result: dict[str, Any]) -> str:
    if result["value"] is None:
        return f"{name} is undefined: {result['undefined']}"
    interval = wording.span(result, digits=2)
    return f"{name} {result['value']:.2f}" + (f" ({interval})" if interval else "")


def _saved(figure: Figure, folder: Path, name: str) -> dict[str, str]:
    """Write a figure; what the page needs of it, with vectors as SVG and sheets of images as JPEG."""
    png, svg = figures.save(figure, folder, name)
    alt = " ".join(figure.get_suptitle().split())
    uri = _jpeg(png) if name in SHEETS else _uri("svg+xml", svg.read_bytes())
    return {"uri": uri, "alt": alt, "width": str(round(figure.get_figwidth() * 96))}


def _jpeg(png: Path) -> str:
    """A sheet of photographs is five times smaller as JPEG; the PNG lies beside the page."""
    written = io.BytesIO()
    with Image.open(png) as opened:
        opened.convert("RGB").save(written, "JPEG", quality=85, optimize=True)
    return _uri("jpeg", written.getvalue())


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
