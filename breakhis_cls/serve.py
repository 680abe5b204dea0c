"""A page in the browser that answers for your own images, or refuses and says why. Research use only.

examples:
  breakhis serve runs/binary_200x-0-0-1234abcd               then open http://127.0.0.1:7860
  breakhis serve runs/binary_200x-0-0-1234abcd --data.root FOLDER    shows the nearest training cases as pictures
"""

import base64
import importlib
import importlib.util
import io
import os
import sys
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from . import config
from .errors import DONE, ConfigError, DataError, RunError, exits_cleanly
from .names import IMAGE_SUFFIXES, MAGNIFICATIONS

N_NEAREST, N_EXAMPLES = 3, 8  # cases of each class; test images, half of them misclassified if there are as many
PICTURE_PX = 460  # width of a picture on the page


class Arguments(config.Section):
    """Arguments of the command."""

    run: Annotated[config.UserPath, config.Positional("RUN")]
    """Folder of a finished run."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 lets other machines in, without any password."""
    port: Annotated[int, Field(ge=1, le=65535)] = 7860
    """Port to listen on."""
    quantile: config.Quantile = config.REFUSE_BEYOND
    """Refuse images that are farther from the training images than this share of those, their own case left out."""
    data_root: config.UserText | None = Field(None, alias="data.root")
    """Folder of the images, if it is not the one in the run's config."""


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    """Serve the page until interrupted."""
    arguments = config.parse_arguments(Arguments, argv, "breakhis serve", __doc__)
    app, options = build_app(arguments.run, arguments.quantile, arguments.data_root)
    print(f"http://{arguments.host}:{arguments.port}\nResearch use only: this is not a medical device.", flush=True)
    try:
        app.launch(server_name=arguments.host, server_port=arguments.port, quiet=True, **options)
    except OSError:
        raise ConfigError(f"port {arguments.port} of {arguments.host} cannot be used; choose another --port") from None
    return DONE


def build_app(run: Path, quantile: float, data_root: str | None) -> tuple[Any, dict[str, Any]]:
    """The page of a finished run (gradio.Blocks), and what its `launch` is to be called with."""
    if importlib.util.find_spec("gradio") is None:
        raise ConfigError("serve needs Gradio: pip install -c constraints.txt -e '.[app]'")
    if not (run / "metrics.json").is_file():
        raise RunError(f"{run} is not a finished run; name the folder that train printed")
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read on import
    from .modeling.predictor import open_predictor

    predictor = open_predictor(run, quantile)
    gr: Any = importlib.import_module("gradio")
    import numpy as np
    import pandas as pd
    from PIL import Image

    from .data import index, png
    from .evaluation import error_analysis
    from .modeling import gradcam
    from .pipeline.pixel_store import fit_image
    from .reports import saliency_report, text
    from .train import TrainedRun

    trained, settings, reference = TrainedRun(run, predictor.settings), predictor.settings, predictor.reference
    try:
        root = index.find_root(config.change_settings(settings, {"data.root": data_root or settings.data.root}).data)
    except DataError:  # the images are elsewhere: cases are named, and no example can be shown
        root = None

    # --- answers ---
    def embed(rgb: np.ndarray) -> str:
        """A picture as the value of `src`."""
        packed, height_px = io.BytesIO(), max(1, round(rgb.shape[0] * PICTURE_PX / rgb.shape[1]))
        Image.fromarray(rgb).resize((PICTURE_PX, height_px)).save(packed, "JPEG", quality=88)
        return f"data:image/jpeg;base64,{base64.b64encode(packed.getvalue()).decode()}"

    def answer(paths: list[str] | None, magnification: str | None) -> str:
        """HTML: a card for each image."""
        cards = []
        for path in paths or []:
            card: dict[str, Any] = {"name": Path(path).name, "error": "", "row": None}
            cards.append(card)
            try:
                rgb = png.decode_any(Path(path))
                field = fit_image(rgb, settings.image)
            except (OSError, ValueError, DataError, Image.DecompressionBombError) as error:
                card["error"] = str(error).replace(path, card["name"])
                continue
            table, features = predictor.predict(field[None], int(magnification[:-1]) if magnification else None)
            row = table.iloc[0].to_dict()
            at = np.array([predictor.classes.index(row["predicted"])])
            evidence = gradcam.class_evidence(predictor.model, field[None], at)
            heat = gradcam.upsample_heat(evidence[0], rgb.shape[:2], settings.image)
            card |= {"row": row, "picture": embed(rgb), "heat": embed(saliency_report.blend_heat(rgb, heat))}
            nearest: dict[str, list[dict[str, str]]] = card.setdefault("nearest", {})
            if not reference:
                continue
            for name in predictor.classes:
                for at in reference.nearest(features, name, N_NEAREST)[0]:
                    file = str(reference.files[at])
                    picture = embed(png.decode(root / file)) if root and (root / file).is_file() else ""
                    shown = {"file": Path(file).name, "case": str(reference.cases[at]), "picture": picture}
                    nearest.setdefault(name, []).append(shown)
        return text.render("answers.html", {"cards": cards})

    # --- the page ---
    split, data = pd.read_csv(run / "split.csv", dtype={"case": str}), str(trained.predictions["data"].iloc[0])
    seen, trained_at = split[split["part"] == "train"], [f"{one}X" for one in settings.data.magnifications]
    test = error_analysis.add_predictions(trained.experiment.test).sample(frac=1, random_state=0)
    test["result"] = np.where(test["true_label"] == test["predicted_label"], "correctly classified", "misclassified")
    test = test.drop_duplicates(["case", "result"]).groupby("result").head(N_EXAMPLES // 2)
    labels = test["true_label"] + ", " + test["result"] + ", case " + test["case"]
    examples = {label: [[str(root / file)]] for label, file in zip(labels, test["file"], strict=True)} if root else {}
    about = {
        "banners": text.banners(settings.split.protocol, data),
        "finding": text.finding(trained.experiment, trained.metrics),
        "trained_on": f"{len(seen):,} images of {seen['case'].nunique()} cases at {', '.join(trained_at)} ({data})",
        "table": text.headline_table(trained.metrics).to_html(border=0),
        "quantile": quantile if reference else None,
    }
    with gr.Blocks(title="BreakHis: try a model", analytics_enabled=False, delete_cache=(3600, 3600)) as app:
        gr.HTML("<h1>Try a model</h1><p class='caution'>Research use only: this is not a medical device.</p>")
        files = gr.File(label="Images of H&E fields", file_count="multiple", file_types=sorted(IMAGE_SUFFIXES))
        if examples:
            shown = {"label": "Test images of this run", "example_labels": [*examples]}
            gr.Examples([*examples.values()], files, **shown)
        choices, value = [f"{one}X" for one in MAGNIFICATIONS], trained_at[0] if len(trained_at) == 1 else None
        magnification = gr.Radio(choices, value=value, label="Magnification of the images")
        button = gr.Button("Predict", variant="primary", elem_id="predict")
        button.click(answer, [files, magnification], gr.HTML(elem_id="answers"))
        gr.HTML(text.render("about.html", about))
    style = (Path(text.__file__).parent / "templates" / "serve.css").read_text("utf-8")
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])  # no font from the network
    return app, {"css": style, "theme": theme, "max_file_size": "100mb", "footer_links": []}


if __name__ == "__main__":
    sys.exit(main())
