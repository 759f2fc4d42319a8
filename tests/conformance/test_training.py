"""What every model of the zoo does in training."""

import jax
import numpy as np
import pytest
from conformance.families import (
    FAMILIES,
    backbone,
    batch_of,
    every,
    get,
    is_classifier,
    only,
    taking,
    tiny,
)

import flaxzoo as fz
from flaxzoo._calls import apply_module
from flaxzoo._trees import flatten
from flaxzoo.data.batch import Batch
from flaxzoo.models.stages import stage_paths, stages_of
from flaxzoo.training import step
from flaxzoo.transfer import layer_decay_rates, matching_paths


def state_of(model, **options):
    return fz.create_train_state(model, optimizer="sgd", learning_rate=0.05, **options)


def moved(before, after):
    """The paths of the parameters that are not bitwise as before."""
    before, after = flatten(before), flatten(after)
    return {path for path in before if (before[path] != after[path]).any()}


@only(every)
def test_steps_move_the_parameters_and_are_traced_once(family):
    state, batch = state_of(tiny(family)), batch_of(family)
    programs = step._train_step._cache_size()
    first = state
    losses = []
    for _ in range(6):
        state, metrics = fz.train_step(state, batch)
        losses.append(metrics.compute()["loss"])
    assert step._train_step._cache_size() == programs + 1
    assert np.isfinite(losses).all()
    assert min(losses) < losses[0]
    # Whatever stands before a norm that takes means away, such as a bias, may stand still.
    assert len(moved(first.params, state.params)) > 0.5 * len(flatten(first.params))


@only(lambda family: bool(FAMILIES[family].random))
def test_dropped_values_and_paths_are_drawn_from_the_state(family):
    model = get(family, **FAMILIES[family].random).with_variables(tiny(family).variables)
    batch = batch_of(family)
    losses = [
        fz.train_step(state_of(model, rng=rng), batch)[1].compute()["loss"] for rng in (0, 0, 1)
    ]
    assert losses[0] == losses[1] != losses[2]
    np.testing.assert_array_equal(model(batch[0]), tiny(family)(batch[0]))


def middle_group(family):
    """A glob over the parameters of one stage in the middle."""
    stages = stage_paths(tiny(family).module, tiny(family).variables["params"])
    paths = [paths for paths in stages.values() if paths]
    return paths[len(paths) // 2][0].rpartition("/")[0] + "/*"


@only(every)
@pytest.mark.parametrize("how", ["group", "stage", "glob"])
def test_what_is_frozen_stays_bitwise(family, how):
    model = tiny(family)
    params = model.variables["params"]
    stages = stage_paths(model.module, params)
    owners = {path: name for name, paths in stages.items() for path in paths}
    middle = list(stages)[len(stages) // 2]
    if how == "group":
        options = {"freeze": next(iter(params))}
        frozen = matching_paths(params, options["freeze"])
    elif how == "glob":
        options = {"freeze": middle_group(family)}
        frozen = matching_paths(params, options["freeze"])
    else:
        options = {"freeze_until": middle}
        before = list(stages)[: list(stages).index(middle)]
        frozen = {path for path, name in owners.items() if name in before}
    assert frozen
    state = state_of(model, **options)
    assert state.frozen == frozen
    after, _ = fz.train_step(state, batch_of(family))
    changed = moved(params, after.params)
    assert changed
    assert not changed & frozen
    # The statistics of frozen norms stand still with them.
    for path, leaf in flatten(state.batch_stats).items():
        group = path.rpartition("/")[0]
        inside = {p for p in owners if p.startswith(f"{group}/")}
        if inside and inside <= frozen:
            np.testing.assert_array_equal(leaf, flatten(after.batch_stats)[path], path)


@only(every)
def test_layer_decay_follows_the_depth(family):
    model = tiny(family)
    rates = layer_decay_rates(model, 1.0, 0.5)
    params = model.variables["params"]
    rate_of = {p: rate for group, rate in rates.items() for p in matching_paths(params, group)}
    assert set(rate_of) == set(flatten(params))
    by_stage = {
        name: {rate_of[p] for p in paths}
        for name, paths in stage_paths(model.module, params).items()
        if paths
    }
    network = backbone(family)
    shared = {} if network is None else network.depths()
    by_depth = {}
    for name, rates in by_stage.items():
        by_depth.setdefault(shared.get(name, name), set()).update(rates)
    # In the order in which depths begin: a class token that comes in late is as deep as the
    # patches' embedding.
    assert all(len(rates) == 1 for rates in by_depth.values())
    sequence = [rates.pop() for rates in by_depth.values()]
    assert sequence == sorted(sequence)
    assert sequence[-1] == 1.0
    assert sequence[0] < 1.0
    assert set(stages_of(model.module)) >= set(stage_paths(model.module, params))


@only(every)
def test_weight_decay_skips_what_the_family_says(family):
    model = tiny(family)
    params = model.variables["params"]
    state = fz.create_train_state(model, optimizer="adamw", learning_rate=0.1, weight_decay=0.5)
    zeros = jax.tree.map(np.zeros_like, state.params)
    after = jax.jit(lambda state, grads: state.apply_gradients(grads=grads).params)(state, zeros)
    changed = moved(params, after)
    network = getattr(model.module, "backbone", None)
    globs = network.no_weight_decay() if hasattr(network, "no_weight_decay") else ()
    spared = set().union(*(matching_paths(params, f"backbone/{glob}") for glob in globs))
    leaves = flatten(params)
    plain = {
        path
        for path, leaf in leaves.items()
        if leaf.ndim < 2 or path.rpartition("/")[2] in ("bias", "scale")
    }
    assert changed == set(leaves) - plain - spared


@only(every)
def test_filling_does_not_count(family):
    state = state_of(tiny(family))
    inputs, targets = batch_of(family, 3)
    whole = fz.eval_step(state, (inputs, targets)).compute()
    filled = [np.concatenate([x, np.repeat(x[-1:], 1, 0)]) for x in (inputs, targets)]
    weight = np.array([1, 1, 1, 0], np.float32)
    padded = fz.eval_step(state, Batch(*filled, weight)).compute()
    assert padded == pytest.approx(whole, rel=1e-5)


@only(taking("remat"))
def test_recomputation_changes_no_gradient(family):
    x = batch_of(family)[0]
    variables = tiny(family).variables
    rest = {k: v for k, v in variables.items() if k != "params"}

    def gradients(module):
        def loss(params):
            outputs = apply_module(module, {"params": params, **rest}, x, train=False)
            return (outputs**2).sum()

        return flatten(jax.jit(jax.grad(loss))(variables["params"]))

    plain, saving = (gradients(get(family, remat=remat).module) for remat in (False, True))
    for path, leaf in plain.items():
        limit = 1e-4 * np.abs(leaf).max() + 1e-7
        np.testing.assert_allclose(saving[path], leaf, rtol=0, atol=limit, err_msg=path)


@only(is_classifier)
def test_the_head_alone_trains_on_features(family):
    model = tiny(family)
    inputs, targets = batch_of(family)
    features = np.asarray(model.features(inputs))
    head = fz.transfer.slice_model(model, start="head")
    state = state_of(head, inputs=features)
    after, metrics = fz.train_step(state, (features, targets))
    whole, expected = fz.train_step(state_of(model, freeze="backbone"), (inputs, targets))
    assert metrics.compute() == pytest.approx(expected.compute(), rel=1e-5)
    for path, leaf in flatten(after.params["head"]).items():
        other = flatten(whole.params["head"])[path]
        np.testing.assert_allclose(leaf, other, rtol=1e-4, atol=1e-6, err_msg=path)


@only(every)
def test_float32_stays_float32_and_no_rank_is_promoted(family):
    """Under JAX's stricter settings; traced alone, as dtypes and ranks show there."""
    state, batch = state_of(tiny(family)), step.prepare(state_of(tiny(family)), batch_of(family))
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch)
    with jax.enable_x64(True), jax.numpy_rank_promotion("raise"):
        after, metrics = jax.eval_shape(step.update, state, batch)
        evaluated = jax.eval_shape(step.evaluate, state, batch)
    expected = jax.tree.map(lambda x: (x.shape, x.dtype), state)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == expected
    assert np.float64 not in {leaf.dtype for leaf in jax.tree.leaves((metrics, evaluated))}
