"""Kaggle's zip of BreakHis, through Kaggle's own client, which continues a partial download of the same archive."""

import contextlib
import io
import os
from pathlib import Path

from ..errors import DownloadError
from .archive import check_free

NAME = "ambarish/breakhis"
URL = f"https://www.kaggle.com/datasets/{NAME}"
AUTHORS = "https://web.inf.ufpr.br/vri/databases/breast-cancer-histopathological-database-breakhis/"
BY_HAND = f"download the authors' tarball from\n  {AUTHORS}\nand name it with --from-zip"
LICENCE = (
    "licence of the images: CC BY 4.0 according to https://kaiko-ai.github.io/eva/main/datasets/breakhis\n"
    f"  we do not know what the authors say; their page is the authority: {AUTHORS}\n"
    "  cite Spanhol, Oliveira, Petitjean, Heutte, IEEE TBME 63(7), 2016, doi 10.1109/TBME.2015.2496264."
)
ARCHIVE_BYTES = 4_300_000_000  # "4 GB" according to https://kaiko-ai.github.io/eva/main/datasets/breakhis


def fetch_archive(folder: Path, root: Path) -> Path:
    """Download `breakhis.zip` into `folder`, or continue that, and return its path; the tree will lie in `root`.
    DownloadError if Kaggle finds no valid credentials or the download is not complete; DataError if the disk has no
    room for zip and tree. What was downloaded stays for the next call."""
    path = folder / "breakhis.zip"
    if path.is_file() and not marker_of(path).exists():  # whole: not asked for again
        return path
    # PNGs are compressed already: the tree is as large as the zip.
    n_here = path.stat().st_size if path.exists() else 0
    check_free([(folder, max(0, ARCHIVE_BYTES - n_here), "archive"), (root, ARCHIVE_BYTES, "tree")])
    import requests
    import urllib3

    try:
        try:  # the client prints advice and exits, which one message replaces
            with contextlib.redirect_stdout(io.StringIO()):
                import kaggle  # authenticates on import, and hides what fails

                api = kaggle.KaggleApi()
                api.authenticate()
        except SystemExit:
            raise DownloadError(_credentials_help("No credentials for Kaggle")) from None
        api.dataset_download_files(NAME, folder, quiet=False)
    except requests.HTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        known = {
            401: _credentials_help("Kaggle does not accept the credentials (401)"),
            403: f"Kaggle refuses (403); sign in, open {URL}, accept its terms",
            404: f"Kaggle has no {NAME} (404); {BY_HAND}",
        }
        other = f"Kaggle answers {status or error} to a request for {URL}; try again later"
        raise DownloadError(known.get(status, other)) from None
    except (OSError, ValueError, urllib3.exceptions.HTTPError) as error:  # requests' errors are OSErrors
        found = f"the download of {URL} stopped ({error}); the same command continues it"
        raise DownloadError(f"{found}, or download the zip in a browser and name it with --from-zip") from None
    return path


def marker_of(path: Path) -> Path:
    """The client's note of a download that is not complete."""
    return path.with_name(f"{path.name}.kaggle-partial")


def credential_places() -> dict[str, bool]:
    """Where Kaggle's client looks for credentials, in its order, and whether something is there."""
    home, config_dir = Path.home() / ".kaggle", os.environ.get("KAGGLE_CONFIG_DIR")
    xdg = Path(os.environ.get("XDG_CONFIG_HOME") or home.with_name(".config")) / "kaggle"
    keys = [Path(config_dir)] if config_dir else [home, xdg]
    paths = [home / "access_token", home / "access_token.txt", *(folder / "kaggle.json" for folder in keys)]
    return {
        "KAGGLE_API_TOKEN (environment)": bool(os.environ.get("KAGGLE_API_TOKEN")),
        **{str(path): path.is_file() for path in (*paths, home / "credentials.json")},
        "KAGGLE_USERNAME and KAGGLE_KEY (environment)": all(map(os.environ.get, ("KAGGLE_USERNAME", "KAGGLE_KEY"))),
    }


def _credentials_help(problem: str) -> str:
    places = "".join(f"\n  {place}: {'' if found else 'not '}there" for place, found in credential_places().items())
    return (
        f"{problem}. Looked for a token in{places}\n"
        "To make one, sign in at https://www.kaggle.com, open Settings > API > Generate New Token, and put\n"
        f"it into ~/.kaggle/access_token or KAGGLE_API_TOKEN. Without an account, {BY_HAND}"
    )
