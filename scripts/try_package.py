"""Tries an installed flaxzoo with no extras: what make package runs outside the checkout."""

from pathlib import Path

import numpy as np

import flaxzoo as fz


def main() -> None:
    package = Path(fz.__file__)
    if Path(__file__).parents[1] / "src" in package.parents:
        raise SystemExit(f"this is the checkout, not an installed package: {package}")
    model = fz.models.get("cnn.digits", pretrained=True)
    images = np.random.default_rng(0).random((32, 8, 8, 1), np.float32)
    labels = model.predict(images, top_k=1).indices[:, 0]
    state = fz.create_train_state(model, optimizer="adamw", learning_rate=1e-3)
    _, metrics = fz.train_step(state, (images, labels))
    print(f"flaxzoo {fz.__version__} in {package.parent}: {metrics.compute()}")


if __name__ == "__main__":
    main()
