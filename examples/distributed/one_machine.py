"""The digits on one device, on eight, and on eight that divide the parameters: the same run.

Where there are no accelerators, eight devices are simulated on the CPU; they show what lies where
and that the numbers agree, not how much faster eight are. After many epochs the parameters differ
by more than rounding: a unit whose input is all but zero comes out on either side of its ReLU, as
it does on one device where anything is rounded differently.
"""

import argparse

import jax
import numpy as np

import flaxzoo as fz


def train(data, epochs, **options):
    """A CNN with BatchNorm and dropout, whose parameters are mostly in one dense layer."""
    model = fz.models.get(
        "cnn",
        num_classes=10,
        input_shape=(8, 8, 1),
        features=(32, 64),
        hidden=(512,),
        batch_norm=True,
        dropout=0.2,
    )
    trainer = fz.Trainer(model, optimizer="sgd", momentum=0.9, learning_rate=0.02, **options)
    trainer.fit(data, epochs=epochs, batch_size=64, progress=False)
    return trainer


def bytes_on_a_device(trainer):
    """What the first device holds of the training state."""
    first = jax.tree.leaves(trainer.state.params)[0].addressable_shards[0].device
    shards = [s for leaf in jax.tree.leaves(trainer.state) for s in leaf.addressable_shards]
    return sum(shard.data.nbytes for shard in shards if shard.device == first)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=8, help="how many, simulated on CPUs")
    parser.add_argument("--epochs", type=int, default=2)
    args = parser.parse_args()
    # Before JAX computes anything; accelerators are what they are.
    jax.config.update("jax_num_cpu_devices", args.devices)

    train_data, test_data = fz.data.load_digits()
    expected = None
    for name, options in (
        ("one device", {"devices": 1}),
        ("replicated", {"devices": args.devices}),
        ("fsdp", {"devices": args.devices, "sharding": "fsdp"}),
    ):
        trainer = train(train_data, args.epochs, **options)
        numbers = [np.asarray(leaf) for leaf in jax.tree.leaves(trainer.state.params)]
        expected = expected or numbers
        difference = max(np.abs(a - b).max() for a, b in zip(numbers, expected, strict=True))
        accuracy = trainer.evaluate(test_data)["accuracy"]
        print(
            f"{name:12}accuracy {accuracy:.4f}  largest difference {difference:.1e}  "
            f"{bytes_on_a_device(trainer) / 1e6:.2f} MB on a device"
        )


if __name__ == "__main__":
    main()
