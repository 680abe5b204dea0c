"""Train many runs (folds, seeds, any setting) and write one report; docs/scaling.md explains the file of a sweep.

examples:
  breakhis sweep --config protocol_case                  five folds, and a report of all of them
  breakhis sweep --config protocol_case --head.C 0.1     a setting of every run
  breakhis sweep --base finetune_200x                    all folds of a run
"""

import sys
from concurrent.futures import ProcessPoolExecutor
from typing import Annotated, Any, Literal

from pydantic import Field

from . import config
from .errors import ANSWER_IS_NO, DONE, ConfigError, exits_cleanly
from .files import sha256_of_values
from .parallel import count_cores, show_progress
from .sweeping import plan, tasks, worker


class Arguments(config.Config):
    """What the command line says beside the settings of every run."""

    base: config.UserPath | None = None
    """Instead of --config: a run's folder or its config, all folds of which are trained."""
    executor: Literal["local", "ray"] = "local"
    """local: processes of this machine. ray: tasks of a Ray cluster (pip install -e '.[sweep]')."""
    workers: config.PositiveInt | None = None
    """Runs at a time, at most. None: as many as cores, memory and GPUs allow. A search runs one at a time: start it
    several times instead, and the processes share its study."""
    retries: Annotated[int, Field(ge=0)] = 1
    """How often a run that was killed or crashed is tried again."""
    ray_address: str | None = None
    """auto: the cluster that this machine is a node of; or HOST:PORT. None: a cluster of this machine alone."""


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    """Train the runs that are not finished, then write the report. Exit code 1 if a run failed for good."""
    sweep, arguments, overrides = read_command(list(sys.argv[1:] if argv is None else argv))
    name, space = sweep.name, sweep.search
    if space is not None:
        from .sweeping import search

        folder = arguments.run.dir / ".search" / name
        best = search.search(name, space, lambda one: plan.expand_runs(sweep, overrides | one), folder, worker.train)
        print(f"best:   {best}")
        return DONE

    runs = plan.name_runs(plan.expand_runs(sweep, overrides))
    n_finished = sum(run.finished for run in runs)
    over = f" over {', '.join(sweep.axes)}" if sweep.axes else ""
    todo = "nothing to do" if n_finished == len(runs) else f"each one's log lies in {arguments.run.dir / '.sweep'}"
    print(f"{name}: {len(runs)} runs{over}, of which {n_finished} are finished; {todo}")
    how = arguments.executor, arguments.workers, arguments.retries, arguments.ray_address
    failures = plan.train_runs(runs, name, *how)
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    # A failed run does not keep the others from their report.
    if finished := [run for run in runs if run.finished]:
        result = write_reports(finished, name)
        print(f"{name}: {len(finished)} of {len(runs)} runs are finished, in {finished[0].settings.run.dir}\n")
        print(result)
    return ANSWER_IS_NO if failures else DONE


def read_command(argv: list[str]) -> tuple[plan.Sweep, Arguments, dict[str, Any]]:
    """The sweep, how to execute it, and the settings that the command line gives to every run."""
    argv, path = config.split_option(argv, "--config")
    _, base = config.split_option(argv, "--base")
    sweep = plan.read_sweep(path) if path else plan.sweep_folds(base) if base else plan.Sweep()
    default = Arguments.model_validate(plan.expand_runs(sweep, {})[0].model_dump())
    given = config.read_options(Arguments, argv, "breakhis sweep", __doc__, default)
    arguments = config.change_settings(default, given, "the command line")
    if (path is None) == (base is None):
        raise ConfigError(
            "expected a sweep, such as --config protocol_case, or a run or its config: --base binary_200x"
        )

    # A setting counts for every run, even where its value is that of the first run.
    overrides = {name: value for name, value in given.items() if "." in name}
    return sweep.model_copy(update={"name": arguments.name}), arguments, overrides


def write_reports(finished: list[plan.RunFolder], name: str) -> str:
    """Write the report of each experiment, its folds pooled, and one page over all of them; returns what to print."""
    from .evaluate import write_experiment
    from .evaluation.experiments import group_experiments, read_source
    from .reports import sweep_report, text

    experiments = group_experiments([read_source(run.folder) for run in finished])
    data = sorted({one.meta("data") for one in experiments})
    # A sweep over magnifications is over several sets of images, and has one report all the same.
    measured_on = data[0] if len(data) == 1 else f"{data[0].rpartition('-')[0]}-{sha256_of_values(data)[:8]}"
    out = finished[0].settings.run.reports / f"{name}-{measured_on}"
    with ProcessPoolExecutor(count_cores(), tasks.SPAWN, worker.follow_parent) as pool:  # starts what is used alone
        run = pool.map if len(experiments) > 1 else map
        written = run(write_experiment, experiments, [out / one.name for one in experiments])
        written = show_progress(written, "reports", len(experiments))
        numbers = {one.name: found for one, found in zip(experiments, written, strict=True)}
    page, finding = sweep_report.write_sweep_report(experiments, numbers, out, name)
    lines = []
    for one in experiments if len(experiments) <= 3 else ():  # the page links to all of them
        lines += [text.summary(numbers[one.name], one.name), f"  report: {out / one.name / 'index.html'}", ""]
    return "\n".join([*lines, f"result: {finding}", f"report: {page}"])


if __name__ == "__main__":
    sys.exit(main())
