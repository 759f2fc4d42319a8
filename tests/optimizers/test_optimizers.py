from __future__ import annotations

import copy
import json
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_digits

from flaxzoo import optimizers, schedules
from flaxzoo.errors import ArgumentError, ShapeError, UnknownArgumentError, UnknownNameError
from flaxzoo.optimizers import catalog

# Unoptimized code is as right and compiles in half the time, which is what these tests spend.
FAST = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}

pytestmark = pytest.mark.filterwarnings("ignore:`optimistic_adam` is deprecated")

# Keywords without which an optimizer cannot be built: privacy is for the caller to choose.
REQUIRED = {"dpsgd": {"l2_norm_clip": 1.0, "noise_multiplier": 0.1}}

_pixels, _labels = load_digits(return_X_y=True)
IMAGES = jnp.asarray(_pixels[:64] / 16.0, jnp.float32)
LABELS = jnp.asarray(_labels[:64])


def dense(seed, rows, columns, bias=0.5):
    kernel = np.random.default_rng(seed).normal(size=(rows, columns)) / np.sqrt(rows)
    return {"kernel": jnp.asarray(kernel, jnp.float32), "bias": jnp.full(columns, bias)}


ONE_LAYER = {"head": dense(0, 64, 10)}
TWO_LAYERS = {
    "backbone": dense(1, 64, 8),
    "norm": {"scale": jnp.ones((1, 8))},
    "head": dense(2, 8, 10),
}


def loss_fn(params, images=IMAGES, labels=LABELS):
    if "backbone" in params:
        layer = params["backbone"]
        images = jnp.tanh(images @ layer["kernel"] + layer["bias"]) * params["norm"]["scale"]
    logits = images @ params["head"]["kernel"] + params["head"]["bias"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def one_step(tx, params, opt_state):
    """What flaxzoo.train_step does with an optimizer."""
    value, grads = jax.value_and_grad(loss_fn)(params)
    extra = {"obj_fn": loss_fn} if "obj_fn" in tx.needs else {}
    if "per_example_gradients" in tx.needs:
        grads = jax.vmap(lambda x, y: jax.grad(loss_fn)(params, x[None], y[None]))(IMAGES, LABELS)
    updates, opt_state = tx.update(
        grads, opt_state, params, value=value, grad=grads, value_fn=loss_fn, **extra
    )
    return optax.apply_updates(params, updates), opt_state, value


def train(tx, params, steps):
    """Losses before each step, then the loss, parameters and state at the end."""

    def body(carry, _):
        *carry, value = one_step(tx, *carry)
        return tuple(carry), value

    def run(params, opt_state):
        (params, opt_state), losses = jax.lax.scan(body, (params, opt_state), None, length=steps)
        final = optimizers.eval_params(opt_state, params)
        return losses, loss_fn(final), params, opt_state

    return jax.jit(run, compiler_options=FAST)(params, tx.init(params))


def get(name, **options):
    return optimizers.get(name, **REQUIRED.get(name, {}), **options)


def distance(a, b):
    return jax.tree.map(lambda x, y: float(jnp.max(jnp.abs(x - y))), a, b)


# --- every optimizer ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", optimizers.list())
def test_the_loss_falls_at_the_default_learning_rate(name):
    losses, final, _, _ = train(get(name), ONE_LAYER, steps=100)
    # Lamb and lion take the smallest of first steps; noise may not hide as a fall.
    assert final < 0.99 * losses[0]
    assert np.isfinite(np.asarray(losses)).all()


@pytest.mark.parametrize("name", optimizers.list())
def test_all_common_options_build_on_every_optimizer(name):
    options = {"learning_rate": "cosine", "total_steps": 100, "weight_decay": 1e-3}
    if name != "dpsgd":
        options.update(clip_norm=1.0, accumulate_steps=2)
    tx = get(name, **options)
    state = jax.eval_shape(tx.init, TWO_LAYERS)

    def step(state):
        params, state, _ = one_step(tx, TWO_LAYERS, state)
        return params, state

    params, after = jax.eval_shape(step, state)
    assert jax.tree.structure(params) == jax.tree.structure(TWO_LAYERS)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), after) == jax.tree.map(
        lambda a: (a.shape, a.dtype), state
    )
    assert float(tx.learning_rate(0)) == pytest.approx(optimizers.default_learning_rate(name))
    rebuilt = optimizers.from_config(json.loads(json.dumps(tx.config)))
    assert rebuilt is tx


def test_nothing_that_optax_offers_is_missed():
    named = """
        adabelief adagrad adam adamw radam adafactor fromage lamb lars sm3 sgd noisy_sgd dpsgd
        optimistic_gradient_descent rmsprop yogi lion nadam nadamw lbfgs polyak_sgd muon prodigy
        schedule_free_sgd schedule_free_adamw sophia dadapt_adamw dog dowg momo momo_adam cocob
        ademamix adopt sam mechanize
    """
    registered = set(optimizers.list())
    assert set(named.split()) <= registered
    unknown = set(catalog.candidates()) - registered - set(catalog.EXCLUDED)
    assert not unknown, f"neither registered nor excluded with a reason: {sorted(unknown)}"
    assert not registered & set(catalog.EXCLUDED)
    assert all(catalog.EXCLUDED.values())


def test_every_optimizer_with_unmaskable_decay_has_a_way_around_it():
    recipes = [catalog.recipe(n, optimizers.REGISTRY.entry(n)) for n in optimizers.list()]
    native = [r for r in recipes if r.decay == "native"]
    assert [r.name for r in native if not r.mask_keyword] == []


# --- frozen parameters -------------------------------------------------------------------------

LABEL_TREE = {"backbone": "frozen", "norm": "frozen", "head": "train"}


@pytest.mark.parametrize(
    "name", ["adam", "dpsgd", "lbfgs", "momo", "muon", "sam", "schedule_free_adamw", "sophia"]
)
def test_half_of_the_parameters_frozen(name):
    tx = optimizers.partition({"train": get(name), "frozen": optax.set_to_zero()}, LABEL_TREE)
    losses, final, params, state = train(tx, TWO_LAYERS, steps=60)
    assert final < 0.99 * losses[0]
    assert distance(params["backbone"], TWO_LAYERS["backbone"]) == {"bias": 0.0, "kernel": 0.0}
    averaged = optimizers.eval_params(state, params)
    assert averaged["backbone"] is params["backbone"] or distance(
        averaged["backbone"], params["backbone"]
    ) == {"bias": 0.0, "kernel": 0.0}


def test_plain_multi_transform_works_through_as_optimizer():
    inner = {"train": optimizers.get("lbfgs"), "frozen": optax.set_to_zero()}
    plain = optax.multi_transform(inner, LABEL_TREE)
    tx = optimizers.as_optimizer(plain, needs={"value", "value_fn"})
    losses, final, _, _ = train(tx, TWO_LAYERS, steps=20)
    assert final < 0.5 * losses[0]


def test_partition_knows_what_its_groups_need():
    groups = {"a": optimizers.get("momo"), "b": optimizers.get("sophia")}
    tx = optimizers.partition(groups, {"backbone": "a", "norm": "a", "head": "b"})
    assert tx.needs == {"value", "obj_fn"}
    assert tx.learning_rate is None
    one = optimizers.partition({"a": groups["a"], "b": optax.set_to_zero()}, LABEL_TREE)
    assert float(one.learning_rate(0)) == 1.0
    with pytest.raises(ValueError, match="accumulate_steps"):
        optimizers.partition(
            {"a": groups["a"], "b": optimizers.get("adam", accumulate_steps=2)}, LABEL_TREE
        )


def test_fill_masked_restores_what_a_mask_took_out():
    masked = {"head": ONE_LAYER["head"], "backbone": optax.MaskedNode()}
    full = {"head": dense(7, 64, 10), "backbone": dense(8, 3, 3)}
    filled = optimizers.fill_masked(masked, full)
    assert filled["backbone"]["kernel"] is full["backbone"]["kernel"]
    assert filled["head"]["kernel"] is ONE_LAYER["head"]["kernel"]


# --- weight decay ------------------------------------------------------------------------------

# One of each way that weight decay is added; biases may not move by it, kernels must.
WAYS = ["adamw", "adam", "muon", "prodigy", "momo_adam", "novograd", "schedule_free_adamw", "rprop"]


@pytest.mark.parametrize("name", WAYS)
def test_weight_decay_spares_biases_and_norms(name):
    on, off = get(name, weight_decay=0.5), get(name, weight_decay=0.0)

    def both(params):
        return [one_step(tx, params, tx.init(params))[0] for tx in (on, off)]

    moved = distance(*jax.jit(both, compiler_options=FAST)(TWO_LAYERS))
    assert moved["backbone"]["bias"] == 0.0
    assert moved["head"]["bias"] == 0.0
    assert moved["norm"]["scale"] == 0.0  # rank 2, spared by its name
    assert moved["backbone"]["kernel"] > 0.0
    assert moved["head"]["kernel"] > 0.0


def test_decoupled_decay_is_learning_rate_times_decay():
    params = {"kernel": jnp.full((2, 2), 3.0), "bias": jnp.full(2, 3.0)}
    zeros = jax.tree.map(jnp.zeros_like, params)
    for name in ("adamw", "signum", "muon"):
        tx = optimizers.get(name, learning_rate=0.1, weight_decay=0.5)
        updates, _ = tx.update(zeros, tx.init(params), params)
        np.testing.assert_allclose(updates["kernel"], -0.1 * 0.5 * 3.0, rtol=1e-6)
        np.testing.assert_array_equal(updates["bias"], 0.0)


def test_decoupled_decay_follows_the_schedule():
    params = {"kernel": jnp.ones((2, 2))}
    zeros = jax.tree.map(jnp.zeros_like, params)
    tx = optimizers.get("signum", learning_rate=lambda step: 0.1 * (step + 1), weight_decay=1.0)
    state = tx.init(params)
    seen = []
    for _ in range(3):
        updates, state = tx.update(zeros, state, params)
        seen.append(float(updates["kernel"][0, 0]))
    np.testing.assert_allclose(seen, [-0.1, -0.2, -0.3], rtol=1e-6)


def test_coupled_decay_is_added_to_the_gradient():
    params = {"kernel": jnp.full((2, 2), 3.0), "bias": jnp.full(2, 3.0)}
    ones = jax.tree.map(jnp.ones_like, params)
    tx = optimizers.get("sgd", learning_rate=0.1, weight_decay=0.5)
    updates, _ = tx.update(ones, tx.init(params), params)
    np.testing.assert_allclose(updates["kernel"], -0.1 * (1.0 + 0.5 * 3.0), rtol=1e-6)
    np.testing.assert_allclose(updates["bias"], -0.1, rtol=1e-6)


def test_line_search_decay_minimises_the_penalised_loss():
    # min (w - 1)^2 + wd/2 w^2 is w = 2 / (2 + wd); the bias has no penalty and goes to 1.
    def fn(p):
        return jnp.sum((p["kernel"] - 1.0) ** 2) + jnp.sum((p["bias"] - 1.0) ** 2)

    params = {"kernel": jnp.zeros((2, 2)), "bias": jnp.zeros(2)}
    tx = optimizers.get("lbfgs", weight_decay=3.0)

    @jax.jit
    def step(params, state):
        value, grads = jax.value_and_grad(fn)(params)
        updates, state = tx.update(grads, state, params, value=value, grad=grads, value_fn=fn)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    for _ in range(15):
        params, state = step(params, state)
    np.testing.assert_allclose(params["kernel"], 0.4, atol=1e-3)
    np.testing.assert_allclose(params["bias"], 1.0, atol=1e-3)


def test_a_mask_of_the_users_own():
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    zeros = jax.tree.map(jnp.zeros_like, params)
    for mask in ({"kernel": False, "bias": True}, lambda p: {"kernel": False, "bias": True}):
        tx = optimizers.get("adamw", learning_rate=0.1, weight_decay=0.5, weight_decay_mask=mask)
        updates, _ = tx.update(zeros, tx.init(params), params)
        np.testing.assert_array_equal(updates["kernel"], 0.0)
        np.testing.assert_allclose(updates["bias"], -0.05, rtol=1e-6)
        assert (tx.config is None) == callable(mask)


def test_masked_schedule_free_adamw_is_optaxs_where_nothing_is_masked():
    ours = optimizers.get(
        "schedule_free_adamw",
        weight_decay=0.1,
        weight_decay_mask=lambda p: jax.tree.map(lambda _: True, p),
        warmup_steps=3,
    )
    theirs = optax.contrib.schedule_free_adamw(weight_decay=0.1, warmup_steps=3)
    want = train(optimizers.as_optimizer(theirs), ONE_LAYER, steps=5)[2]
    got = train(ours, ONE_LAYER, steps=5)[2]
    assert max(jax.tree.leaves(distance(got, want))) < 1e-6


def test_the_default_mask():
    tree = {"conv": {"kernel": jnp.ones((3, 3, 1, 1)), "bias": jnp.ones(1)}, "t": jnp.ones(())}
    assert optimizers.decay_mask(tree) == {"conv": {"kernel": True, "bias": False}, "t": False}
    heads = {"attention": {"bias": jnp.ones((4, 8)), "scale": jnp.ones((4, 8))}}
    assert jax.tree.leaves(optimizers.decay_mask(heads)) == [False, False]


# --- learning rates ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["adam", "fromage", "optimistic_adam", "polyak_sgd", "sm3"])
def test_a_schedule_acts_at_the_step_it_names(name):
    rates = [0.5, 0.25, 0.0]
    varying = get(name, learning_rate=lambda step: jnp.asarray(rates)[step])
    step = jax.jit(one_step, static_argnums=0, compiler_options=FAST)
    first, state, _ = step(varying, ONE_LAYER, varying.init(ONE_LAYER))
    constant = get(name, learning_rate=rates[0])
    want, _, _ = step(constant, ONE_LAYER, constant.init(ONE_LAYER))
    assert max(jax.tree.leaves(distance(first, want))) < 1e-5
    second, state, _ = step(varying, first, state)
    third, _, _ = step(varying, second, state)
    assert max(jax.tree.leaves(distance(second, first))) > 1e-4
    assert max(jax.tree.leaves(distance(third, second))) < 1e-7  # a rate of 0 stands still


def test_rprop_multiplies_its_adapted_step_by_the_schedule():
    grads = jax.tree.map(jnp.ones_like, ONE_LAYER)
    tx = optimizers.get("rprop", learning_rate=lambda step: 0.01 * (step + 1))
    state = tx.init(ONE_LAYER)
    steps = []
    for _ in range(3):
        updates, state = tx.update(grads, state, ONE_LAYER)
        steps.append(float(updates["head"]["bias"][0]))
    # optax's rprop applies a step one update after it computed it; the unit step grows by 1.2.
    np.testing.assert_allclose(steps, [0.0, -0.02, -0.03 * 1.2], rtol=1e-6)


def test_learning_rate_forms():
    assert float(optimizers.get("adam").learning_rate(5)) == pytest.approx(1e-3)
    assert float(optimizers.get("prodigy").learning_rate(5)) == 1.0
    named = optimizers.get(
        "adam",
        learning_rate="linear",
        total_steps=100,
        accumulate_steps=4,
        schedule_options={"peak_value": 0.1},
    )
    # 100 calls are 25 updates.
    assert float(named.learning_rate(5)) == pytest.approx(0.08)
    assert named.config["schedule_options"] == {"peak_value": 0.1, "total_steps": 25}
    made = optimizers.get("adam", learning_rate=schedules.get("linear", total_steps=10))
    assert made.config["learning_rate"] == "linear"
    assert optimizers.get("sgd", learning_rate=lambda step: 0.1).config is None


def test_total_steps_is_ignored_where_nothing_needs_it():
    assert optimizers.get("adam", total_steps=7) is optimizers.get("adam", total_steps=9)


# --- accumulation and clipping -----------------------------------------------------------------


@pytest.mark.parametrize("name", ["momo", "noisy_sgd", "lion"])
def test_accumulation_updates_on_the_mean(name):
    tx, plain = optimizers.get(name, accumulate_steps=3), optimizers.get(name)
    grads = [jax.tree.map(lambda p, s=s: jnp.full_like(p, s), ONE_LAYER) for s in (1.0, 2.0, 6.0)]
    state, update = tx.init(ONE_LAYER), jax.jit(tx.update)
    for index, (g, value) in enumerate(zip(grads, (1.0, 2.0, 6.0), strict=True)):
        updates, state = update(g, state, ONE_LAYER, value=value)
        if index < 2:
            assert max(float(jnp.abs(u).max()) for u in jax.tree.leaves(updates)) == 0.0
    mean = jax.tree.map(lambda p: jnp.full_like(p, 3.0), ONE_LAYER)
    want, _ = jax.jit(plain.update)(mean, plain.init(ONE_LAYER), ONE_LAYER, value=3.0)
    assert max(jax.tree.leaves(distance(updates, want))) < 1e-6
    assert isinstance(state, optax.MultiStepsState)
    assert (int(state.mini_step), int(state.gradient_step)) == (0, 1)
    assert tx.accumulate_steps == 3


def test_a_line_search_works_under_accumulation_and_clipping():
    tx = optimizers.get("lbfgs", accumulate_steps=2, clip_norm=10.0)
    losses, final, _, _ = train(tx, ONE_LAYER, steps=20)
    assert final < 0.2 * losses[0]


def test_accumulation_keeps_half_precision_parameters():
    params = {"kernel": jnp.ones((2, 2), jnp.bfloat16)}
    tx = optimizers.get("sgd", accumulate_steps=2)
    state = tx.init(params)
    assert state.acc_grads["kernel"].dtype == jnp.float32
    updates, _ = tx.update(params, state, params)
    assert updates["kernel"].dtype == jnp.bfloat16


def test_clip_norm():
    grads = {"kernel": jnp.full((2, 2), 50.0)}
    tx = optimizers.get("sgd", learning_rate=1.0, clip_norm=2.0)
    updates, _ = tx.update(grads, tx.init(grads), grads)
    np.testing.assert_allclose(updates["kernel"], -1.0, rtol=1e-6)


# --- what an update needs ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "needed"),
    [("momo", "value=loss"), ("lbfgs", "value=loss"), ("sam", "value_fn=fn"), ("sophia", "obj_fn")],
)
def test_an_absent_argument_is_named(name, needed):
    tx = optimizers.get(name)
    with pytest.raises(UnknownArgumentError, match=needed):
        tx.update(ONE_LAYER, tx.init(ONE_LAYER), ONE_LAYER)


def test_value_fn_and_obj_fn_stand_in_for_each_other():
    def first_update(name, params, **extra):
        tx = optimizers.get(name)
        return tx.update(jax.grad(loss_fn)(params), tx.init(params), params, **extra)[0]

    def differences(params):
        for name in ("sophia", "sam"):
            given = first_update(name, params, value_fn=loss_fn)
            want = first_update(name, params, obj_fn=loss_fn)
            yield distance_of(given, want)

    def distance_of(a, b):
        return jax.tree.map(lambda x, y: jnp.abs(x - y).max(), a, b)

    found = jax.jit(lambda p: list(differences(p)), compiler_options=FAST)(ONE_LAYER)
    assert max(float(d) for d in jax.tree.leaves(found)) == 0.0


def test_sam_takes_the_gradient_uphill():
    def fn(p):
        return jnp.sum(p["w"] ** 2)

    params = {"w": jnp.asarray([[3.0, 4.0]])}
    tx = optimizers.get("sam", learning_rate=0.1, rho=0.5)
    updates, _ = tx.update(jax.grad(fn)(params), tx.init(params), params, value_fn=fn)
    # Half a unit along (0.6, 0.8), gradient 2w there.
    np.testing.assert_allclose(updates["w"], [[-0.1 * 6.6, -0.1 * 8.8]], rtol=1e-5)


def test_dpsgd_wants_one_gradient_per_example():
    tx = get("dpsgd")
    with pytest.raises(ShapeError, match="one gradient per example"):
        tx.update(ONE_LAYER, tx.init(ONE_LAYER), ONE_LAYER)
    with pytest.raises(ValueError, match="l2_norm_clip"):
        get("dpsgd", clip_norm=1.0)
    with pytest.raises(ValueError, match="larger batch"):
        get("dpsgd", accumulate_steps=2)
    with pytest.raises(UnknownArgumentError, match="needs 'l2_norm_clip', 'noise_multiplier'"):
        optimizers.get("dpsgd")


def test_lbfgs_without_a_line_search_needs_nothing():
    tx = optimizers.get("lbfgs", learning_rate=0.1, linesearch=None)
    assert tx.needs == frozenset()
    tx.update(ONE_LAYER, tx.init(ONE_LAYER), ONE_LAYER)


# --- the object --------------------------------------------------------------------------------


def test_equal_options_give_the_same_object():
    one = optimizers.get("adamw", learning_rate="cosine", total_steps=10, b1=0.8)
    assert one is optimizers.get("adamw", learning_rate="cosine", total_steps=10, b1=0.8)
    assert one is not optimizers.get("adamw", learning_rate="cosine", total_steps=11, b1=0.8)
    assert optimizers.get("prodigy", betas=[0.9, 0.99]) is optimizers.get(
        "prodigy", betas=(0.9, 0.99)
    )
    compiled = jax.jit(lambda tx, p: tx.init(p), static_argnums=0)
    compiled(optimizers.get("adam", b1=0.7), ONE_LAYER)
    compiled(optimizers.get("adam", b1=0.7), ONE_LAYER)
    assert compiled._cache_size() == 1


def test_it_is_an_optax_transformation():
    tx = optimizers.get("adam", learning_rate=0.1)
    assert isinstance(tx, optax.GradientTransformationExtraArgs)
    chained = optax.chain(optax.clip(1.0), tx)
    grads = jax.tree.map(jnp.ones_like, ONE_LAYER)
    updates, _ = chained.update(grads, chained.init(ONE_LAYER), ONE_LAYER, value=1.0)
    want, _ = optax.adam(0.1).update(grads, optax.adam(0.1).init(ONE_LAYER), ONE_LAYER)
    assert max(jax.tree.leaves(distance(updates, want))) < 1e-7
    assert "adam(learning_rate=0.1)" in repr(tx)


def test_it_survives_pickling_and_copying():
    tx = optimizers.get("adam", learning_rate=0.1, mu_dtype=jnp.bfloat16)
    assert tx.config == {"name": "adam", "learning_rate": 0.1, "mu_dtype": "bfloat16"}
    assert pickle.loads(pickle.dumps(tx)).config == tx.config
    assert copy.deepcopy(tx).config == tx.config
    with pytest.raises(UnknownArgumentError, match="name"):
        optimizers.from_config({"learning_rate": 0.1})


def test_as_optimizer_takes_names_factories_and_transformations():
    assert optimizers.as_optimizer("adam") is optimizers.get("adam")
    assert optimizers.as_optimizer(optax.adam, b1=0.8) is optimizers.get("adam", b1=0.8)
    own = optimizers.get("adam")
    assert optimizers.as_optimizer(own) is own

    built = optax.sgd(0.5)
    wrapped = optimizers.as_optimizer(built, clip_norm=2.0, total_steps=5)
    assert wrapped is optimizers.as_optimizer(built, clip_norm=2.0)
    assert (wrapped.config, wrapped.learning_rate) == (None, None)
    grads = {"kernel": jnp.full((2, 2), 50.0)}
    updates, _ = wrapped.update(grads, wrapped.init(grads), grads, value=1.0, value_fn=loss_fn)
    np.testing.assert_allclose(updates["kernel"], -0.5, rtol=1e-6)

    def mine(learning_rate, power=1.0):
        return optax.sgd(learning_rate * power)

    tx = optimizers.as_optimizer(mine, learning_rate=0.1, power=3.0, weight_decay=0.5)
    assert tx.name == "mine"
    params = {"kernel": jnp.ones((2, 2))}
    updates, _ = tx.update({"kernel": jnp.ones((2, 2))}, tx.init(params), params)
    np.testing.assert_allclose(updates["kernel"], -0.3 * 1.5, rtol=1e-6)

    multi = optimizers.as_optimizer(optax.MultiSteps(optax.sgd(0.1), 2))
    multi.update(params, multi.init(params), params, value=0.0)


def test_registering_an_optimizer():
    @optimizers.register("test_plain", override=True)
    def plain(learning_rate, scale=1.0):
        """Gradient descent, scaled."""
        return optax.sgd(learning_rate * scale)

    try:
        tx = optimizers.get("test_plain", learning_rate=0.1, scale=2.0)
        updates, _ = tx.update({"k": jnp.ones(1)}, tx.init({"k": jnp.ones(1)}))
        np.testing.assert_allclose(updates["k"], -0.2, rtol=1e-6)
        found = optimizers.info("test_plain")
        assert found.summary == "Gradient descent, scaled."
        assert {"learning_rate", "clip_norm", "scale"} <= set(found.signature.parameters)
    finally:
        del optimizers.REGISTRY._entries["test_plain"]


def test_info_shows_common_and_own_options():
    found = optimizers.info("adamw")
    assert found.summary
    assert {"clip_norm", "accumulate_steps", "b1"} <= set(found.signature.parameters)
    assert found.signature.parameters["learning_rate"].default == 1e-3
    assert "mask" not in found.signature.parameters


def test_eval_params_finds_the_average_in_a_nested_state():
    tx = optimizers.get("schedule_free_sgd", learning_rate=0.5, accumulate_steps=2, clip_norm=1.0)
    _, _, params, state = train(tx, ONE_LAYER, steps=8)
    inner = [
        s
        for s in jax.tree.leaves(
            state, is_leaf=lambda s: isinstance(s, optax.contrib.ScheduleFreeState)
        )
        if isinstance(s, optax.contrib.ScheduleFreeState)
    ]
    want = optax.contrib.schedule_free_eval_params(inner[0], params)
    got = jax.jit(optimizers.eval_params)(state, params)
    assert max(jax.tree.leaves(distance(got, want))) < 1e-6
    assert max(jax.tree.leaves(distance(got, params))) > 1e-4
    adam = optimizers.get("adam")
    assert optimizers.eval_params(adam.init(ONE_LAYER), ONE_LAYER) is ONE_LAYER


def test_wrappers_pass_options_to_their_base():
    tx = optimizers.get(
        "mechanize", base_optimizer="momo", base_options={"beta": 0.8}, weight_decay=0.1
    )
    assert tx.needs == {"value"}
    assert json.loads(json.dumps(tx.config))["base_options"] == {"beta": 0.8}
    assert optimizers.get("schedule_free", base_optimizer=optax.sgd(0.1)).config is None
    with pytest.raises(ValueError, match="sam cannot wrap 'lbfgs'"):
        optimizers.get("sam", base_optimizer="lbfgs")


# --- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("adma", {}, UnknownNameError, "adam"),
        (
            "adamw",
            {"beta1": 0.9},
            UnknownArgumentError,
            r"(?s)does not take 'beta1'.*clip_norm.*b1",
        ),
        ("adamw", {"clipnorm": 1.0}, UnknownArgumentError, "Did you mean 'clip_norm'"),
        (
            "sgd",
            {"learning_rate": -0.1},
            ArgumentError,
            "learning_rate must be a finite",
        ),
        (
            "sgd",
            {"learning_rate": float("nan")},
            ArgumentError,
            "learning_rate must be a finite",
        ),
        ("sgd", {"learning_rate": "cosine"}, UnknownArgumentError, "needs total_steps"),
        ("sgd", {"learning_rate": "cosin"}, UnknownNameError, "cosine"),
        ("sgd", {"schedule_options": {"a": 1}}, UnknownArgumentError, "schedule_options"),
        ("sgd", {"learning_rate": "constant", "schedule_options": {"a": 1}}, TypeError, "'a'"),
        ("sgd", {"learning_rate": "linear", "total_steps": 0}, ValueError, "total_steps"),
        ("sgd", {"learning_rate": [0.1]}, ArgumentError, "learning_rate must be a finite number"),
        ("sgd", {"clip_norm": 0.0}, ArgumentError, "clip_norm must be a finite number above 0"),
        (
            "sgd",
            {"accumulate_steps": 0},
            ArgumentError,
            "accumulate_steps must be an int",
        ),
        (
            "sgd",
            {"accumulate_steps": 1.5},
            ArgumentError,
            "accumulate_steps must be an int",
        ),
        (
            "sgd",
            {"weight_decay": -1.0},
            ArgumentError,
            "weight_decay must be a finite",
        ),
        (
            "adafactor",
            {"weight_decay": 0.1, "weight_decay_rate": 0.1},
            UnknownArgumentError,
            "are the same",
        ),
    ],
)
def test_bad_options(name, options, error, message):
    with pytest.raises(error, match=message):
        optimizers.get(name, **options)


def test_bad_values_for_as_optimizer():
    with pytest.raises(UnknownArgumentError, match="learning rate and other options are inside"):
        optimizers.as_optimizer(optax.sgd(0.1), learning_rate=0.1)
    with pytest.raises(TypeError, match="a name"):
        optimizers.as_optimizer(3)
    with pytest.raises(TypeError, match="must return"):
        optimizers.as_optimizer(lambda learning_rate: None, learning_rate=0.1)
    with pytest.raises(ValueError, match="needs takes"):
        optimizers.as_optimizer(optax.sgd(0.1), needs={"hessian"})
    twice = optimizers.get("adam", accumulate_steps=2)
    with pytest.raises(ValueError, match="already"):
        optimizers.as_optimizer(twice, accumulate_steps=2)
