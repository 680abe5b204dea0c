"""Write the features of a frozen backbone to a file, for any other program, or for `--features.source`.

examples:
  breakhis features binary_200x --out features.npz
  breakhis features RUN --out features.parquet

The file ends in .npz, .npy (with a CSV of names beside it), .csv, .parquet or .h5. With --features.source it
writes embeddings from elsewhere in another form.
"""

import sys
from pathlib import Path

from . import config
from .errors import DONE, ConfigError, exits_cleanly


class Arguments(config.Config):
    """All settings of a run; those of data, image, model and run.seed count."""

    out: config.UserPath = Path("features.npz")
    """File to write; docs/embeddings.md describes the forms."""


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    """Write the features of all images at `data.magnifications`, extracted where they are not cached."""
    argv = sys.argv[1:] if argv is None else argv
    if argv and not argv[0].startswith("-"):
        argv = ["--config", *argv]
    arguments = config.parse_settings(Arguments, argv, "breakhis features", __doc__)
    settings, out = config.Config.model_validate(arguments.model_dump(exclude={"out"})), arguments.out
    from .data import embeddings, index
    from .modeling import features, weights
    from .pipeline.pixel_store import PixelStore

    if out.suffix.lower() not in embeddings.KINDS:
        raise ConfigError(f"--out {out} ends in no known kind; expected {' '.join(embeddings.KINDS)}")
    if source := settings.features.source:
        images = embeddings.load_images(source, settings.data.magnifications)
        matrix = embeddings.select_rows(source, images["file"])
    else:
        images = index.load_images(settings.data)
        store = PixelStore.open(images, index.find_root(settings.data), settings.image, settings.data.cache)
        hashes = images["pixel_sha256"].to_numpy()
        matrix = features.backbone_features(settings, hashes, store.array, store.rows)
    embeddings.write_embeddings(out, images, matrix)
    encoder = weights.encoder_title(settings)
    print(f'{out}\nnext: breakhis train --features.source {out} --features.encoder "{encoder}"')
    return DONE


if __name__ == "__main__":
    sys.exit(main())
