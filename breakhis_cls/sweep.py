"""Many runs and one report: `python -m breakhis_cls.sweep --config FILE [--executor local|ray] [--section.name value]`.

FILE says what varies: a base config and axes, or ranges to search; see docs/scaling.md.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from . import config
from .config import PositiveInt
from .errors import ANSWER_IS_NO, DONE, ConfigError, exits_cleanly
from .sweeping import plan

if TYPE_CHECKING:
    from .modeling.run_folder import RunFolder
    from .sweeping.search import Search
    from .sweeping.tasks import Executor, Failure


class Arguments(config.Config):
    """What the command line says beside the settings of every run."""

    executor: Literal["local", "ray"] = "local"
    """local: processes of this machine. ray: tasks of a Ray cluster (pip install 'breakhis_cls[sweep]')."""
    workers: PositiveInt | None = None
    """Runs at a time, at most. None: what cores, memory and GPUs are good for. A search has one: start it several times
    instead, and the processes share its study."""
    retries: Annotated[int, Field(ge=0)] = 1
    """How often a run that was killed or crashed is tried again."""
    ray_address: str | None = None
    """auto: the cluster that this machine is a node of; or HOST:PORT. None: a cluster of this machine alone."""


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    """Make the runs that are not there yet, then the report. Exit code 1 if a run failed for good."""
    sweep, given, overrides = _parsed(list(sys.argv[1:] if argv is None else argv))
    if sweep.search is not None:
        return _search(sweep, sweep.search, overrides, given.run.dir / ".search" / sweep.name)
    from .sweeping import shared

    runs = shared.name_runs(plan.expand_runs(sweep, overrides))
    failures = _run([run for run in runs if not run.finished], len(runs), sweep.name, given)
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    _report([run for run in runs if run.finished], len(runs), sweep.name)
    return ANSWER_IS_NO if failures else DONE


def _parsed(argv: list[str]) -> tuple[plan.Sweep, Arguments, dict[str, Any]]:
    """The sweep, how to execute it, and the settings that the command line gives to every run."""
    argv, path = config.split_config_option(argv)
    sweep = plan.read_sweep(path) if path else plan.Sweep()
    default = Arguments.model_validate(plan.expand_runs(sweep, {})[0].model_dump())
    description = "Many runs and one report. --config FILE.yaml names the sweep; below, the settings of its first run."
    given = config.parse_arguments(Arguments, argv, "breakhis sweep", description, default)
    if path is None:
        raise ConfigError("sweep needs --config FILE, such as configs/protocol_case.yaml")
    words = [
        word[2:].partition("=")[0].replace("-", "_").replace(".no_", ".") for word in argv if word.startswith("--")
    ]
    content = given.model_dump()
    told = [word.split(".") for word in words if "." in word]
    return sweep, given, {f"{section}.{key}": content[section][key] for section, key in told}


def _run(todo: list[RunFolder], n_runs: int, name: str, given: Arguments) -> list[Failure]:
    from .sweeping import shared, tasks
    from .sweeping.progress import SweepProgress

    if not todo:
        print(f"{name}: all {n_runs} runs are finished; nothing to do")
        return []
    with _executor(given, shared.needs_of(todo)) as executor:
        shared_work = shared.preparation_tasks(todo)
        with SweepProgress(f"{name}, work that its runs share", len(shared_work), is_live=False) as board:
            if failed := tasks.fan_out(shared_work, executor, given.retries, board):
                return failed
        with SweepProgress(name, len(todo), n_runs - len(todo)) as board:
            return tasks.fan_out([shared.run_task(run) for run in todo], executor, given.retries, board)


def _executor(given: Arguments, needs: Any) -> Executor:
    if given.executor == "ray":
        from .sweeping.ray_cluster import RayCluster

        return RayCluster(given.ray_address, given.workers, needs)
    from .sweeping.local import LocalExecutor

    return LocalExecutor(given.workers, needs)


def _report(finished: list[RunFolder], n_runs: int, name: str) -> None:
    """One table over all runs that came through."""
    import pandas as pd

    from .files import sha256_of_values
    from .reports import paper_table

    if not finished:
        return
    folders = [run.folder for run in finished]
    data = sorted({pd.read_csv(folder / "predictions.csv", nrows=1)["data"].item() for folder in folders})
    # A sweep over magnifications is one over several data, and still has one report.
    measured_on = data[0] if len(data) == 1 else f"{data[0].rpartition('-')[0]}-{sha256_of_values(data)[:8]}"
    page = paper_table.write_sweep_table(folders, finished[0].settings.run.reports / f"{name}-{measured_on}", name)
    print(f"runs:   {len(finished)} of {n_runs} are finished, in {finished[0].settings.run.dir}\nreport: {page}")


def _search(sweep: plan.Sweep, space: Search, overrides: dict[str, Any], study: Path) -> int:
    """Runs one after the other in this process; other processes of the same command share the study."""
    from .sweeping.search import search
    from .train import train_run

    def runs_of(values: dict[str, Any]) -> list[config.Config]:
        return plan.expand_runs(sweep, overrides | values)

    best = search(sweep.name, space, runs_of, study, lambda settings: train_run(settings, report=False))
    print(f"best:   {best}")
    return DONE


if __name__ == "__main__":
    sys.exit(main())
