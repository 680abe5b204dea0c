"""Kaggle's zip of BreakHis, through Kaggle's own client: resumed where it stopped, never joined from two archives.

The client continues a partial download; newer versions do so only if the archive is still the same one. A note
beside the zip holds its identity, so that this is true for all versions, and a complete zip is not requested again.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
from pathlib import Path

from .. import files
from ..errors import DownloadError
from .archive import check_free

OWNER, DATASET = "ambarish", "breakhis"
URL = f"https://www.kaggle.com/datasets/{OWNER}/{DATASET}"
AUTHORS = "https://web.inf.ufpr.br/vri/databases/breast-cancer-histopathological-database-breakhis/"
BY_HAND = f"download the authors' tarball from\n  {AUTHORS}\nand name it with --from-zip"
LICENCE = (
    "licence of the images: CC BY 4.0 according to https://kaiko-ai.github.io/eva/main/datasets/breakhis\n"
    f"  we do not know what the authors say; their page is the authority: {AUTHORS}\n"
    "  cite Spanhol, Oliveira, Petitjean, Heutte, IEEE TBME 63(7), 2016, doi 10.1109/TBME.2015.2496264."
)
# If Kaggle does not say; "4 GB" according to https://kaiko-ai.github.io/eva/main/datasets/breakhis
ARCHIVE_BYTES = 4_300_000_000


def fetch_archive(folder: Path, root: Path) -> Path:
    """Download `breakhis.zip` into `folder`, or continue that, and return its path; the tree will lie in `root`.

    DownloadError if Kaggle finds no valid credentials or the download is not complete; DataError if the disk has no
    room for zip and tree. What was downloaded stays for the next call.
    """
    path, note_at = folder / f"{DATASET}.zip", folder / f"{DATASET}.zip.json"
    try:
        note = json.loads(note_at.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        note = {}
    if note.get("whole") and path.is_file() and path.stat().st_size == note["bytes"]:
        return path
    import requests
    import urllib3
    from kagglesdk.datasets.types.dataset_api_service import ApiDownloadDatasetRequest

    try:
        # --- authenticate: the client prints advice and exits, which one message replaces ---
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                import kaggle  # authenticates on import, and hides what fails

                api = kaggle.KaggleApi()
                api.authenticate()
        except SystemExit:
            raise DownloadError(_credentials_help("No credentials for Kaggle")) from None

        # --- as api.dataset_download_files does, but knowing what is offered before a byte of it is used ---
        request = ApiDownloadDatasetRequest()
        request.owner_slug, request.dataset_slug = OWNER, DATASET
        with api.build_kaggle_client() as client:
            response = client.datasets.dataset_api_client.download_dataset(request)
            offered = {name: response.headers.get(name) for name in ("ETag", "Last-Modified", "Content-Length")}
            if note.get("offered") != offered:
                discard(path)  # the partial download is of another archive
            n_bytes = int(offered["Content-Length"] or ARCHIVE_BYTES)
            n_here = path.stat().st_size if path.exists() else 0
            # PNGs are compressed already: the tree is as large as the zip.
            check_free([(folder, max(0, n_bytes - n_here), "archive"), (root, n_bytes, "tree")])
            folder.mkdir(parents=True, exist_ok=True)
            files.write_json(note_at, {"offered": offered, "whole": False})  # first: a kill must not lose it
            try:
                api.download_file(response, str(path), client.http_client(), quiet=False, resume=True)
            except ValueError:  # raised by the client for a file that is not as large as promised
                discard(path)
                raise
            files.write_json(note_at, {"offered": offered, "whole": True, "bytes": path.stat().st_size})
    except requests.HTTPError as error:
        status = error.response.status_code if error.response is not None else None
        known = {
            401: _credentials_help("Kaggle does not accept the credentials (401)"),
            403: f"Kaggle refuses (403); sign in, open {URL}, accept its terms",
            404: f"Kaggle has no {OWNER}/{DATASET} (404); {BY_HAND}",
        }
        other = f"Kaggle answers {status or error} to a request for {URL}; try again later"
        raise DownloadError(known.get(status or 0, other)) from None
    except (OSError, ValueError, urllib3.exceptions.HTTPError) as error:  # requests' errors are OSErrors
        found = f"the download of {URL} stopped ({error}); the same command continues it"
        raise DownloadError(f"{found}, or download the zip in a browser and name it with --from-zip") from None
    return path


def discard(path: Path) -> None:
    """Remove a downloaded zip and what is known of it, so that the next call starts from the beginning."""
    for suffix in ("", ".json", ".kaggle-partial"):  # the last is the client's
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def credential_places() -> dict[str, bool]:
    """Where Kaggle's client looks for credentials, in its order, and whether something is there."""
    home, config_dir = Path.home() / ".kaggle", os.environ.get("KAGGLE_CONFIG_DIR")
    xdg = Path(os.environ.get("XDG_CONFIG_HOME") or home.with_name(".config")) / "kaggle"
    keys = [folder / "kaggle.json" for folder in ([Path(config_dir)] if config_dir else [home, xdg])]
    return {
        "KAGGLE_API_TOKEN (environment)": bool(os.environ.get("KAGGLE_API_TOKEN")),
        **{str(home / name): (home / name).is_file() for name in ("access_token", "access_token.txt")},
        "KAGGLE_CONFIG_DIR (environment; another folder for kaggle.json)": bool(config_dir),
        **{str(path): path.is_file() for path in keys},
        "KAGGLE_USERNAME and KAGGLE_KEY (environment)": all(map(os.environ.get, ("KAGGLE_USERNAME", "KAGGLE_KEY"))),
        str(home / "credentials.json"): (home / "credentials.json").is_file(),
    }


def _credentials_help(problem: str) -> str:
    places = "".join(f"\n  {place}: {'' if found else 'not '}there" for place, found in credential_places().items())
    return (
        f"{problem}. Looked for a token in{places}\n"
        "To make one, sign in at https://www.kaggle.com, open Settings > API > Generate New Token, and put\n"
        f"it into ~/.kaggle/access_token or KAGGLE_API_TOKEN. Without an account, {BY_HAND}"
    )
