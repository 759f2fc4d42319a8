"""Cells by their recipes: sums, what the next cell gets, halved maps."""

import jax
import numpy as np
import pytest

from flaxzoo.layers.searched_cell import CURRENT, PREVIOUS, HalfSize, Recipe, SearchedCell

MAPS = tuple(np.random.default_rng(i).random((1, 5, 6, 4), np.float32) for i in range(2))


@pytest.fixture
def shapes():
    """Shapes of what a cell returns, without its parameters."""

    def shapes_of(cell, maps=MAPS):
        (before, out), _ = jax.eval_shape(cell.init_with_output, jax.random.key(0), maps)
        return before.shape, out.shape

    return shapes_of


def test_sums_and_what_is_joined():
    recipe = Recipe(
        ((("skip", CURRENT), ("avg", CURRENT)), (("skip", "0"), ("max", "0"))),
        (CURRENT, "0", "1"),
    )
    (before, out), variables = SearchedCell(width=4, recipe=recipe, previous=None).init_with_output(
        jax.random.key(0), MAPS[0]
    )
    np.testing.assert_array_equal(before, MAPS[0])
    assert set(variables["params"]) == {"conv_1x1"}
    current, first, second = np.split(np.asarray(out), 3, axis=-1)
    padded = np.pad(current, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=np.nan)
    windows = np.stack([padded[:, i : i + 5, j : j + 6] for i in range(3) for j in range(3)])
    np.testing.assert_allclose(first, current + np.nanmean(windows, 0), rtol=1e-5, atol=1e-6)
    padded = np.pad(first, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    windows = np.stack([padded[:, i : i + 5, j : j + 6] for i in range(3) for j in range(3)])
    np.testing.assert_allclose(second, first + windows.max(0), rtol=1e-6)


def test_sums_of_a_reducing_cell_have_its_size(shapes):
    recipe = Recipe(
        ((("sep3", CURRENT), ("max", PREVIOUS)), (("avg", "0"), ("skip", CURRENT))), ("1",)
    )
    assert shapes(SearchedCell(width=6, recipe=recipe, stride=2)) == ((1, 5, 6, 4), (1, 3, 3, 6))


def test_the_next_cell_gets_this_one_s_current_map_or_the_same_previous_one():
    for keeps, expected in ((False, MAPS[1]), (True, MAPS[0])):
        cell = SearchedCell(width=4, keeps_previous=keeps)
        (before, _), _ = cell.init_with_output(jax.random.key(0), MAPS)
        np.testing.assert_array_equal(before, expected)


def test_halves_see_even_and_odd_pixels(random_variables):
    x = MAPS[0]
    module = HalfSize(width=4)
    variables = random_variables(module, x)
    params, stats = variables["params"], variables["batch_stats"]["final_path_bn"]
    even = x[:, ::2, ::2] @ params["path_1_conv"]["kernel"][0, 0]
    # Behind the last row there are zeros.
    odd = np.pad(x[:, 1::2, 1::2], ((0, 0), (0, 1), (0, 0), (0, 0)))
    odd = odd @ params["path_2_conv"]["kernel"][0, 0]
    norm = params["final_path_bn"]
    both = (np.concatenate([even, odd], -1) - stats["mean"]) / np.sqrt(stats["var"] + 1e-5)
    expected = both * norm["scale"] + norm["bias"]
    np.testing.assert_allclose(module.apply(variables, x), expected, rtol=1e-4, atol=1e-5)
