"""breakhis_cls: the leak-free, reproducible, fast way from the BreakHis archive to a report.

names, config, errors, files, runs   what every room uses: names, settings, errors, atomic writes, a run's folder
data/        archive -> index -> splits -> pixel store -> tf.data; leaks; stains; synthetic tissue
modeling/    devices, backbones, feature cache, the two training phases
sweeping/    many runs, here or over a Ray cluster; the search for settings
evaluation/  from predictions.csv alone: metrics, figures, reports; saliency
download audit train sweep evaluate predict explain doctor   the commands; `breakhis --help` lists them
"""

__version__ = "0.1.0"
