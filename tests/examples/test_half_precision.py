"""Half precision on real digits: training ends where float32 ends."""

import pytest

import flaxzoo as fz


@pytest.mark.full_compiler
def test_the_digits_end_where_float32_ends():
    """The recipe of the weights ``cnn.digits``: 359 test images, one of which is 0.28 points.

    With the whole compiler: without, convolutions in bfloat16 take minutes.
    """
    train, test = fz.data.load_digits()
    reached = {}
    for precision in ("float32", "bfloat16", "float16"):
        trainer = fz.Trainer(
            fz.models.get(
                "cnn", num_classes=10, input_shape=(8, 8, 1), batch_norm=True, dropout=0.25
            ),
            optimizer="adamw",
            learning_rate="cosine",
            schedule_options={"peak_value": 2e-3, "warmup_steps": 50},
            precision=precision,
        )
        trainer.fit(train, epochs=25, batch_size=64, progress=False)
        reached[precision] = 100 * trainer.evaluate(test)["accuracy"]
    assert reached["float32"] > 98.5
    assert abs(reached["bfloat16"] - reached["float32"]) < 0.5
    assert abs(reached["float16"] - reached["float32"]) < 0.5
