"""Kaggle's zip of BreakHis, through Kaggle's own client: resumed where it broke off, never glued from two.

The client goes on with a partial download; newer ones do so only if the archive is still the same one. A note
beside the zip holds its identity, so that this holds for all, and a whole zip is not asked for again.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
from pathlib import Path
from typing import Any

from .. import files
from ..errors import BreakHisError, CredentialsError, DownloadError
from .archive import check_free

OWNER, DATASET = "ambarish", "breakhis"
URL = f"https://www.kaggle.com/datasets/{OWNER}/{DATASET}"
AUTHORS = "https://web.inf.ufpr.br/vri/databases/breast-cancer-histopathological-database-breakhis/"
BY_HAND = f"fetch the authors' tarball from\n  {AUTHORS}\nand name it with --from-zip"
# If Kaggle does not say; "4 GB" according to https://kaiko-ai.github.io/eva/main/datasets/breakhis
ARCHIVE_BYTES = 4_300_000_000


def fetch_archive(folder: Path, root: Path) -> Path:
    """Fetch `breakhis.zip` into `folder`, or go on with it, and return its path; the tree will lie in `root`.

    CredentialsError if Kaggle is not told, or does not accept, who asks; DownloadError if the zip cannot be
    had whole; DataError if the disk has no room for zip and tree. What was fetched stays for the next call.
    """
    path = folder / f"{DATASET}.zip"
    if _is_whole(path):
        return path
    import requests
    import urllib3

    try:
        folder.mkdir(parents=True, exist_ok=True)
        _download(_client(), path, root)
    except requests.HTTPError as error:
        raise _refusal(error) from None
    except (OSError, ValueError, urllib3.exceptions.HTTPError) as error:  # requests' errors are OSErrors
        raise DownloadError(
            f"the download of {URL} broke off ({error}); the same command goes on with it, "
            "or fetch the zip in a browser and name it with --from-zip"
        ) from None
    return path


def discard(path: Path) -> None:
    """Remove a fetched zip and what is known of it, so that the next call starts afresh."""
    for leftover in (path, _note(path), path.with_name(f"{path.name}.kaggle-partial")):
        leftover.unlink(missing_ok=True)


def _download(api: Any, path: Path, root: Path) -> None:
    """What `api.dataset_download_files` does, but knowing what is on offer before a byte of it is used."""
    from kagglesdk.datasets.types.dataset_api_service import ApiDownloadDatasetRequest

    request = ApiDownloadDatasetRequest()
    request.owner_slug, request.dataset_slug = OWNER, DATASET
    with api.build_kaggle_client() as client:
        response = client.datasets.dataset_api_client.download_dataset(request)
        offered = {name: response.headers.get(name) for name in ("ETag", "Last-Modified", "Content-Length")}
        if _noted(path).get("offered") != offered:
            discard(path)  # begun with another archive
        n_bytes = int(offered["Content-Length"] or ARCHIVE_BYTES)
        n_here = path.stat().st_size if path.exists() else 0
        # PNGs are packed already: the tree is as large as the zip.
        check_free([(path.parent, max(0, n_bytes - n_here), "archive"), (root, n_bytes, "tree")])
        files.write_json(_note(path), {"offered": offered, "whole": False})
        try:
            api.download_file(response, str(path), client.http_client(), quiet=False, resume=True)
        except ValueError:  # the client's word for a file that has not the size that was promised
            discard(path)
            raise
        files.write_json(_note(path), {"offered": offered, "whole": True, "bytes": path.stat().st_size})


def _note(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _noted(path: Path) -> dict[str, Any]:
    try:
        return json.loads(_note(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}


def _is_whole(path: Path) -> bool:
    noted = _noted(path)
    return bool(noted.get("whole")) and path.is_file() and path.stat().st_size == noted["bytes"]


def _client() -> Any:
    """Kaggle's client, authenticated. Its own advice on standard output is replaced by one message."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            import kaggle  # authenticates on import, and swallows what goes wrong

            api = kaggle.KaggleApi()
            api.authenticate()
    except SystemExit:
        raise CredentialsError(_who_asks("Kaggle does not know who is asking")) from None
    return api


def _who_asks(problem: str) -> str:
    looked = "".join(f"\n  {place}: {'' if found else 'not '}there" for place, found in credential_places().items())
    return (
        f"{problem}. Looked for a token in{looked}\n"
        "To make one, sign in at https://www.kaggle.com, open Settings > API > Generate New Token, and put\n"
        f"it into ~/.kaggle/access_token or KAGGLE_API_TOKEN. Without an account, {BY_HAND}"
    )


def credential_places() -> dict[str, bool]:
    """Where Kaggle's client looks for credentials, in its order, and whether something is there."""
    home, told = Path.home(), os.environ.get("KAGGLE_CONFIG_DIR")
    xdg = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config") / "kaggle"
    folders = [Path(told)] if told else [home / ".kaggle", xdg]
    tokens = [home / ".kaggle" / "access_token", home / ".kaggle" / "access_token.txt"]
    keys = [folder / "kaggle.json" for folder in folders]
    has_key = bool(os.environ.get("KAGGLE_USERNAME") and os.environ.get("KAGGLE_KEY"))
    return {
        "KAGGLE_API_TOKEN (environment)": bool(os.environ.get("KAGGLE_API_TOKEN")),
        **{str(path): path.is_file() for path in tokens},
        "KAGGLE_CONFIG_DIR (environment; another folder for kaggle.json)": bool(told),
        **{str(path): path.is_file() for path in keys},
        "KAGGLE_USERNAME and KAGGLE_KEY (environment)": has_key,
        str(home / ".kaggle" / "credentials.json"): (home / ".kaggle" / "credentials.json").is_file(),
    }


def _refusal(error: Any) -> BreakHisError:
    """What a status code of Kaggle's means for the user."""
    status = error.response.status_code if error.response is not None else None
    if status == 401:
        return CredentialsError(_who_asks("Kaggle does not accept the credentials (401)"))
    if status == 403:
        return CredentialsError(f"Kaggle refuses the download (403); sign in, open {URL}, accept its terms")
    if status == 404:
        return DownloadError(f"Kaggle has no {OWNER}/{DATASET} (404); {BY_HAND}")
    return DownloadError(f"Kaggle answers {status or error} to a request for {URL}; try again later")
