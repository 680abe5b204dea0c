"""`breakhis <command>`: the same as `python -m breakhis_cls.<command>`."""

import difflib
import importlib
import sys

from . import __version__
from .errors import BAD_INPUT, DONE

# name -> what it does; the module of that name is imported only when it runs, to keep --help quick
COMMANDS = {
    "download": "fetch BreakHis from Kaggle or unpack an archive, and check that it is complete",
    "audit": "check a split for leaks: test images whose slide, case number or pixels are in training",
    "train": "train one model, predict, and write its report",
    "sweep": "train many models (folds, seeds, any setting) and write one report; also on a Ray cluster",
    "evaluate": "compute metrics and write a report from runs or from any predictions.csv",
    "predict": "predict your own images with a trained model",
    "explain": "draw Grad-CAM heat maps of a trained model, with a randomisation check",
    "serve": "open a page in the browser that answers for your own images, or refuses",
    "export": "write the model as ONNX, SavedModel or LiteRT, with proof that it answers the same",
    "features": "write the features of a frozen backbone to a file; docs/embeddings.md",
    "doctor": "check whether this machine can run `train`, and what to install or change",
}


def main(argv: list[str] | None = None) -> int:
    """Run the command that is named first, with the rest of the command line."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(f"breakhis {__version__}: patient-level, reproducible evaluation on BreakHis")
        print("\nusage: breakhis <command> [options]\n")
        print("\n".join(f"  {name:<10}{what}" for name, what in COMMANDS.items()))
        print("\n`breakhis <command> --help` lists the settings of a command and their defaults.")
        print("A research tool; not a medical device.")
        return DONE
    if argv[0] == "--version":
        print(__version__)
        return DONE
    if argv[0] not in COMMANDS:
        # "trian" -> did you mean 'train'?
        near = difflib.get_close_matches(argv[0], COMMANDS, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(COMMANDS)}"
        print(f"error: no command '{argv[0]}'; {hint}", file=sys.stderr)
        return BAD_INPUT
    return importlib.import_module(f"breakhis_cls.{argv[0]}").main(argv[1:])


if __name__ == "__main__":
    sys.exit(main())
