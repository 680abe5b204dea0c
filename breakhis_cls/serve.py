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


def build_app(
    run: Path, quantile: float = config.REFUSE_BEYOND, data_root: str | None = None
) -> tuple[Any, dict[str, Any]]:
    """The page of a finished run (gradio.Blocks), and what its `launch` is to be called with.

    ConfigError without Gradio, RunError for an unfinished run, and as open_predictor.
    """
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

    trained, settings, classes = TrainedRun(run, predictor.settings), predictor.settings, predictor.classes
    try:
        data = config.change_settings(settings, {"data.root": data_root}).data if data_root else settings.data
        root = index.find_root(data)
    except DataError:  # the images are elsewhere: cases are named, and no example can be shown
        root = None

    def embed(rgb: np.ndarray) -> str:
        """A picture as the value of `src`."""
        height_px = max(1, round(rgb.shape[0] * PICTURE_PX / rgb.shape[1]))
        packed = io.BytesIO()
        Image.fromarray(rgb).resize((PICTURE_PX, height_px)).save(packed, "JPEG", quality=88)
        return f"data:image/jpeg;base64,{base64.b64encode(packed.getvalue()).decode()}"

    def nearest_cases(features: np.ndarray) -> dict[str, list[dict[str, str]]]:
        found: dict[str, list[dict[str, str]]] = {}
        if not (reference := predictor.reference):
            return {}
        for name in classes:
            for row in reference.nearest(features, name, N_NEAREST)[0]:
                file = str(reference.files[row])
                picture = embed(png.decode(root / file)) if root and (root / file).is_file() else ""
                shown = {"file": Path(file).name, "case": str(reference.cases[row]), "picture": picture}
                found.setdefault(name, []).append(shown)
        return found

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
            card |= {"row": row, "picture": embed(rgb), "nearest": nearest_cases(features)}
            evidence = gradcam.class_evidence(predictor.model, field[None], np.array([classes.index(row["predicted"])]))
            heat = gradcam.upsample_heat(evidence[0], rgb.shape[:2], settings.image)
            card["heat"] = embed(saliency_report.blend_heat(rgb, heat.clip(0, 1)))
        return text.render("answers.html", {"cards": cards})

    # --- examples: the run's own test images, misclassified and correctly classified, each of another case ---
    test = error_analysis.add_predictions(trained.experiment.test)
    test = (
        test.assign(correct=test["true_label"] == test["predicted_label"])
        .sample(frac=1, random_state=0)
        .drop_duplicates(["case", "correct"])
    )
    test = pd.concat([test[~test["correct"]].head(N_EXAMPLES // 2), test[test["correct"]].head(N_EXAMPLES)])
    test = test.head(N_EXAMPLES) if root else test.head(0)
    examples = [
        (str(root / row.file), f"{row.true_label}, {'correctly classified' if row.correct else 'misclassified'}")
        for row in test.itertuples()
        if root and (root / str(row.file)).is_file()
    ]

    split = pd.read_csv(run / "split.csv", dtype={"case": str})
    seen = split[split["part"] == "train"]
    about = text.render("about.html", {
        "banners": text.banners(settings.split.protocol, str(trained.predictions["data"].iloc[0])),
        "finding": text.finding(trained.experiment, trained.metrics),
        "trained_on": f"{len(seen):,} images of {seen['case'].nunique()} cases at "
                      f"{'X, '.join(map(str, settings.data.magnifications))}X ({trained.predictions['data'].iloc[0]})",
        "table": text.headline_table(trained.metrics).to_html(border=0),
        "quantile": quantile if predictor.reference else None,
    })  # fmt: skip
    with gr.Blocks(title="BreakHis: try a model", analytics_enabled=False, delete_cache=(3600, 3600)) as app:
        gr.HTML("<h1>Try a model</h1><p class='caution'>Research use only: this is not a medical device.</p>")
        files = gr.File(label="Images of H&E fields", file_count="multiple", file_types=sorted(IMAGE_SUFFIXES))
        trained_at = [f"{one}X" for one in settings.data.magnifications]
        choices, value = [f"{one}X" for one in MAGNIFICATIONS], trained_at[0] if len(trained_at) == 1 else None
        magnification = gr.Radio(choices, value=value, label="Magnification of the images")
        button = gr.Button("Predict", variant="primary", elem_id="predict")
        answers = gr.HTML(elem_id="answers")
        button.click(answer, [files, magnification], answers)
        if examples:
            shown = {"columns": 4, "allow_preview": False, "height": "auto", "interactive": False}
            gallery = gr.Gallery(examples, label="Test images of this run", elem_id="examples", **shown)

            def choose(event: Any) -> str:
                return answer([examples[event.index][0]], None)

            choose.__annotations__["event"] = gr.SelectData  # which Gradio reads

            gallery.select(choose, None, answers)
        gr.HTML(about)
    style = (Path(text.__file__).parent / "templates" / "serve.css").read_text("utf-8")
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])  # no font from the network
    allowed = [str(root)] if root else []
    return app, {"css": style, "theme": theme, "allowed_paths": allowed, "max_file_size": "100mb", "footer_links": []}


if __name__ == "__main__":
    sys.exit(main())
