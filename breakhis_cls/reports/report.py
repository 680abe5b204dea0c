"""One self-contained HTML page about one experiment, its figures, its tables, a checklist and a model card."""

import base64
import io
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from threadpoolctl import threadpool_limits

from ..evaluation import calibration, error_analysis, experiments, predictions, thresholds
from ..evaluation.experiments import Experiment
from ..evaluation.metrics import expected_widths, metric_words
from ..files import write_csv, write_json, write_text
from . import plots, plots_images, text

PHOTOGRAPHS = ("confident_errors", "heat_")  # how the names of sheets of tissue begin
N_RESAMPLES = 2_000  # for operating points; the headline has 10,000
N_CASES = (35, 70, 140, 280)  # for which the expected width of intervals is shown; BreakHis has 70


def analyze_experiment(
    experiment: Experiment, metrics: dict[str, Any], prevalences: Sequence[float] = (), seed: int = 0
) -> dict[str, Any]:
    """What a report shows beyond the metrics: calibration, decisions (binary task alone), participants and errors.
    prevalences: of malignant, in (0, 1), for PPV and NPV; the first also for the decision curve, else the test's
    own."""
    table, test, pooled = experiment.table, experiment.test, metrics["pooled"]
    binary, stated = predictions.is_binary(table), prevalences[0] if prevalences else None
    chosen = thresholds.choose_thresholds(table) if binary else []
    shown = prevalences or thresholds.PREVALENCES
    return {
        "curve": calibration.smooth_curve(test),
        "line": calibration.calibration_line(test),
        "noise_floor": calibration.noise_floor(test),
        "calibration": calibration.compare_calibration(table, seed),
        "thresholds": chosen,
        "operating_points": thresholds.operating_points(table, chosen, N_RESAMPLES, seed),
        "prevalence": stated or float((test["label"] == "malignant").mean()),
        "net_benefit": thresholds.net_benefit_curve(test, stated) if binary else pd.DataFrame(),
        "predictive_values": thresholds.predictive_values(pooled, shown) if binary else [],
        "parts": experiments.describe_parts(experiment),
        "flow": experiments.count_flow(experiment),
        "widths": {name: expected_widths(pooled[name], N_CASES) for name in ("roc_auc", "image_accuracy")},
        "errors": error_analysis.errors_by_stratum(test),
        "cases": error_analysis.case_table(test),
    }


@threadpool_limits.wrap(limits=1)  # as metrics are computed
def write_report(
    experiment: Experiment, metrics: dict[str, Any], folder: Path, images_root: Path | None,
    prevalences: Sequence[float] = (),
) -> Path:  # fmt: skip
    """Write index.html, the figures (PNG and SVG), the tables and the checklist into folder; returns the page's path.
    Learning curves need the run's history, sheets of images the files under `images_root`: left out where absent.
    prevalences: see analyze_experiment."""
    analysis = analyze_experiment(experiment, metrics, prevalences)
    binary, pooled = predictions.is_binary(experiment.table), metrics["pooled"]

    # --- figures by file name ---
    test, auc, ece = experiment.test, pooled["roc_auc"], pooled["ece"]
    scaled = analysis["calibration"].get("with_temperature")
    area = f"is undefined ({auc['undefined']})" if auc["value"] is None else text.estimate(auc, 2)
    fit = f", {text.number(scaled['ece']['value'])} with temperature scaling" if scaled else ""
    drawn: dict[str, Figure | None] = {"confusion_matrix": plots.confusion_matrix(test)}
    by_magnification = dict([*test.groupby("magnification")]) if test["magnification"].nunique() > 1 else {}
    for magnification, rows in by_magnification.items():
        drawn[f"confusion_matrix_{magnification}x"] = plots.confusion_matrix(rows)
    drawn["roc"] = plots.roc(test, f"ROC curve: AUC {area}")
    title = f"Calibration: ECE {text.number(ece['value'])}{fit}"
    drawn["calibration"] = plots.calibration(analysis["curve"], test, title)
    if len(curve := analysis["net_benefit"]):
        drawn["decision_curve"] = plots.decision_curve(curve, analysis["prevalence"])
    if (flow := analysis["flow"])[0]:  # a table alone says nothing of what was left out
        drawn["flow"] = plots.flow(*flow)

    # Of several runs the first one's: curves of different folds do not add up.
    history = experiment.sources[0].history
    if history is not None and len(history):
        drawn["learning_curves"] = plots.learning_curves(history)
    if images_root is not None:
        drawn["confident_errors"] = plots_images.confident_errors(test, images_root)
    figures = save_figures({name: figure for name, figure in drawn.items() if figure is not None}, folder)

    words, banners, sizes = metric_words(binary), text.experiment_banners(experiment), text.sizes(pooled["roc_auc"])
    model, data, protocol = (experiment.meta(column) for column in ("model", "data", "protocol"))

    # --- tables for a spreadsheet, for another program, and for a paper ---
    for name in ("cases", "errors", "net_benefit"):
        if len(analysis[name].columns):
            write_csv(folder / f"{name}.csv", analysis[name])
    fitted = {name: analysis[name] for name in ("line", "noise_floor")} | {"temperature": analysis["calibration"]}
    write_json(folder / "calibration.json", fitted | {"curve": analysis["curve"].to_dict("records")})
    if analysis["thresholds"]:
        write_json(folder / "thresholds.json", analysis["thresholds"])
    zooms = {f"{key}X": results for key, results in metrics["by_magnification"].items()}
    for kind in ("png", "svg") if len(zooms) == 1 else ():  # the same picture under the name that it has beside others
        shutil.copyfile(folder / f"confusion_matrix.{kind}", folder / f"confusion_matrix_{min(zooms).lower()}.{kind}")
    strata = {"all": pooled} | (zooms if len(zooms) > 1 else {})
    table = pd.DataFrame({"Metric": [label for label, _ in words.values()]} | {
        stratum: [text.estimate(results[name], digits=2).replace(" to ", "–") for name in words]
        for stratum, results in strata.items()
    })  # fmt: skip
    caption = f"{model} on {data}, protocol {protocol}, {text.folds(experiment)}; {sizes}. 95 % intervals by bootstrap "
    caption = " ".join([f"{caption}over cases.", *(sentence for _, sentence in banners)])
    markdown = text.write_tables(folder, "table", table, caption)

    # --- the page, the model card and the checklist ---
    seeds, runs = ", ".join(map(str, sorted(experiment.test["seed"].unique()))), []
    for run in experiment.sources:
        try:
            link = Path(os.path.relpath(run.path, folder)).as_posix()
        except ValueError:  # on another drive of Windows
            link = run.path.resolve().as_uri()
        runs.append((run, link))
    content = {
        "headline": text.headline(experiment, metrics), "name": experiment.name, "binary": binary, "metrics": metrics,
        "words": words, "zooms": [*zooms], "banners": banners,
        "finding": text.finding(experiment, metrics), "caveats": text.caveats(experiment),
        "about": {
            "Protocol": text.split_claim(experiment), "Folds, seeds": f"{text.folds(experiment)}; seed {seeds}",
            "Data": data, "Test set": sizes, "Model": model, "Weights": text.weights(experiment),
        },
        "verdict": text.calibration_verdict(analysis, pooled["ece"]["value"]),
        "several_folds": experiment.test["fold"].nunique() > 1,
        "n_cases": [f"{n} cases" for n in N_CASES], "analysis": analysis, "cases": analysis["cases"].to_dict("records"),
        "errors": {code: rows.set_index("magnification").to_dict("index")
                   for code, rows in analysis["errors"].groupby("subtype", sort=False)},
        "confident_errors": error_analysis.most_confident_errors(experiment.test).to_dict("records"),
        "chosen_on": sorted({entry["chosen_on"] for entry in analysis["thresholds"]}), "settings": experiment.settings,
        "runs": runs, "table": markdown,
        "figures": figures,
    }  # fmt: skip
    write_text(folder / "model_card.md", text.render("model_card.md", content))
    page = text.render("report.html", content)
    write_text(folder / "index.html", page)

    # CLAIM 2024 and TRIPOD+AI 2024: a link where the page has the section, else "not applicable" with the reason, or
    # "missing".
    titles = dict(re.findall(r'<h2 id="([\w-]+)"[^>]*>(.*?)</h2>', page))
    items = pd.read_csv(text.HERE / "checklist.csv", dtype=str, keep_default_na=False)
    linked = items["section"].map(lambda section: f"[{titles.get(section)}](index.html#{section})")
    missing = items["note"].replace("", "missing: this report has no such section")
    items["answer"] = linked.where(items["section"].isin(titles), missing)
    guidelines = [
        (guideline, (~rows["answer"].str.startswith("missing")).sum(), rows.to_dict("records"))
        for guideline, rows in items.groupby("guideline", sort=False)
    ]
    write_text(folder / "checklist.md", text.render("checklist.md", {"guidelines": guidelines}))
    return folder / "index.html"


def save_figures(figures: dict[str, Figure], folder: Path) -> dict[str, dict[str, Any]]:
    """Write figures as PNG, and as SVG unless they are photographs; returns what a page embeds and links to."""
    shown = {}
    for name, figure in figures.items():
        kinds = ("png",) if name.startswith(PHOTOGRAPHS) else ("png", "svg")
        picture = plots.save(figure, folder, name, kinds=kinds)
        if "svg" in kinds:
            kind, content = "svg+xml", (folder / f"{name}.svg").read_bytes()
        else:  # five times smaller as JPEG, and a page loads fast; the PNG has every pixel
            kind, buffer = "jpeg", io.BytesIO()
            picture.thumbnail((1_600, picture.height))
            picture.save(buffer, "JPEG", quality=80, optimize=True)
            content = buffer.getvalue()
        uri = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
        shown[name] = {"uri": uri, "alt": " ".join(figure.get_suptitle().split()), "name": name, "kinds": kinds}
    return shown
