from __future__ import annotations

import numpy as np
import pytest

from flaxzoo.augment import RandomErasing


def test_boxes_of_the_area_and_ratio_asked_for(run):
    many = np.ones((600, 40, 40, 1), np.float32)
    gone = run(RandomErasing(scale=(0.1, 0.3), ratio=(0.5, 2), p=1), many)[..., 0] == 0
    area = gone.mean((1, 2))
    assert area.min() > 0.09
    assert area.max() < 0.315
    assert abs(area.mean() - 0.2) < 0.012
    height, width = gone.any(2).sum(1), gone.any(1).sum(1)
    # A full rectangle and nothing else.
    np.testing.assert_array_equal(gone.sum((1, 2)), height * width)
    assert (width / height).max() < 2.3
    assert (width / height).min() > 0.43
    # Every pixel can be hit.
    assert gone.any(0).all()


def test_half_of_the_images(run):
    many = np.ones((2000, 8, 8, 1), np.float32)
    changed = (run(RandomErasing(scale=(0.2, 0.3)), many) != 1).any((1, 2, 3))
    assert abs(changed.mean() - 0.5) < 0.045


def test_colours(run):
    black, mean, std = np.zeros((4, 8, 8, 3), np.float32), (0.5, 0.4, 0.3), (0.2, 0.2, 0.2)
    options = {"scale": (0.3, 0.3), "p": 1, "mean": mean, "std": std}
    lowest = -np.float32(mean) / np.float32(std)
    normalized = black + lowest
    grey = run(RandomErasing(**options), normalized)
    assert set(np.unique(grey)) == {0, *lowest.tolist()}
    red = run(RandomErasing(fill=(1.0, 0.0, 0.0), **options), normalized)
    values = red * np.float32(std) + np.float32(mean)
    erased = values[..., 0] > 0.5
    np.testing.assert_allclose(values[erased], np.float32([[1, 0, 0]] * erased.sum()), atol=1e-6)


def test_noise_is_uniform(run):
    black = np.full((50, 32, 32, 3), -1, np.float32)
    noise = run(RandomErasing(fill="noise", scale=(0.3, 0.3), p=1, mean=(0.5,), std=(0.5,)), black)
    values = noise[noise != -1]
    assert abs(values.mean()) < 0.01
    assert abs(values.std() - 2 / np.sqrt(12)) < 0.01
    assert values.min() >= -1
    assert values.max() <= 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"scale": (0, 0.3)}, "scale must be above 0"),
        ({"ratio": (3, 1)}, "ratio is a range"),
        ({"fill": "nearest"}, "fill must be one of 'mean', 'noise'"),
    ],
)
def test_fields_are_checked(fields, message):
    with pytest.raises(ValueError, match=message):
        RandomErasing(**fields)
