"""Default hyper-parameters."""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The settings of the run; any can be changed by --config.name=value."""
    config = ml_collections.ConfigDict()
    config.model = "cnn"
    config.optimizer = "sgd"
    config.learning_rate = 0.1
    config.momentum = 0.9
    config.batch_size = 128
    config.num_epochs = 10
    config.seed = 0
    # A directory with MNIST's IDX files, or "digits" for scikit-learn's small ones.
    config.data = "digits"
    return config
