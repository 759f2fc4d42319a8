"""MNIST entry point, in the form of Flax's own examples."""

import os
import sys

from absl import app, flags, logging
from ml_collections import config_flags

sys.path.insert(0, os.path.dirname(__file__))
import train

FLAGS = flags.FLAGS
flags.DEFINE_string("workdir", "runs/mnist", "Directory for TensorBoard summaries.")
config_flags.DEFINE_config_file(
    "config",
    os.path.join(os.path.dirname(__file__), "configs", "default.py"),
    "File with the hyper-parameters.",
    lock_config=True,
)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError("Too many command-line arguments.")
    train.train_and_evaluate(FLAGS.config, FLAGS.workdir)


if __name__ == "__main__":
    logging.set_verbosity(logging.INFO)
    app.run(main)
