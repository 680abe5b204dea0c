"""breakhis_cls: the leak-free, reproducible, fast way from the BreakHis archive to a report.

names, config, errors, files   what every room uses: the name grammar, settings, errors, atomic writes
data/        archive -> index -> splits -> pixel store -> tf.data; synthetic tissue; leaks
modeling/    ResNet50, feature cache, the two training phases, devices
evaluation/  from predictions.csv alone: metrics, figures, the report
download  audit  train  evaluate  predict        the commands; `breakhis --help` lists them
"""

__version__ = "0.1.0"
