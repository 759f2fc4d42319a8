"""What every model of the zoo does before it is trained."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _operations import operations
from conformance.families import (
    CLASSES,
    FAMILIES,
    backbone,
    every,
    get,
    has_maps,
    has_reference,
    inputs,
    is_classifier,
    only,
    saved,
    takes_images,
    taking,
    tiny,
)

import flaxzoo as fz
from flaxzoo import model as model_module
from flaxzoo._calls import apply_module
from flaxzoo._trees import flatten, prefixes
from flaxzoo.errors import ShapeError
from flaxzoo.models import Head
from flaxzoo.models.stages import stages_of
from flaxzoo.precision import computing_in


def shape_of(model, *example):
    """The shape of what a model without variables would give."""
    sample = jax.ShapeDtypeStruct((4, *example), jnp.dtype(model.spec.input_dtype))
    variables = model.shapes(sample)
    return jax.eval_shape(lambda v, x: apply_module(model.module, v, x), variables, sample)


def close(ours, others, tolerance=1e-5):
    others = np.asarray(others, np.float32)
    limit = tolerance * np.abs(others).max()
    np.testing.assert_allclose(np.asarray(ours, np.float32), others, rtol=0, atol=limit)


@only(every)
def test_fresh_variables_are_finite_and_depend_on_the_seed(family):
    first, again, other = (get(family).init(rng) for rng in (0, 0, 1))
    leaves = [flatten(model.variables) for model in (first, again, other)]
    assert all(np.isfinite(leaf).all() for leaf in leaves[0].values())
    for path, leaf in leaves[0].items():
        np.testing.assert_array_equal(leaf, leaves[1][path], path)
    assert any((leaf != leaves[2][path]).any() for path, leaf in leaves[0].items())
    assert all(leaf.dtype == jnp.float32 for leaf in leaves[0].values())


@only(every)
def test_equal_modules_share_one_compiled_program(family):
    x = inputs(family)
    first = tiny(family)
    again = get(family).with_variables(first.variables)
    assert first.module == again.module
    first(x)
    before = model_module._forward._cache_size()
    np.testing.assert_array_equal(first(x), again(x + 0))
    assert model_module._forward._cache_size() == before


@only(taking("num_classes"))
def test_number_of_classes(family):
    shape = FAMILIES[family].input_shape
    assert shape_of(get(family), *shape).shape == (4, CLASSES)
    assert shape_of(get(family, num_classes=2), *shape).shape == (4, 2)
    features = shape_of(get(family, num_classes=0), *shape)
    assert features.ndim == 2
    assert features.shape[0] == 4


@only(taking("num_classes"))
def test_only_the_classifier_is_exchanged(family, assert_same):
    kept = tiny(family).variables
    options = {"pretrained": saved(family), "input_shape": FAMILIES[family].input_shape}
    name, fields = FAMILIES[family].name, FAMILIES[family].fields
    two = fz.models.get(name, num_classes=2, **options, **fields)
    assert_same(two.variables, kept, besides=["params/head/fc"])
    assert two.variables["params"]["head"]["fc"]["kernel"].shape[-1] == 2
    assert np.isfinite(two(inputs(family))).all()
    none = fz.models.get(name, num_classes=0, **options, **fields)
    assert "fc" not in none.variables["params"].get("head", {})
    gone = ["params/head/fc"]
    if not getattr(getattr(two.module, "head", None), "hidden_features", True):
        gone += ["params/head/dense_", "params/head/norm_"]
    if getattr(getattr(two.module, "head", None), "classifier_norm", None) is not None:
        # The norm belongs to the classifier, with its statistics.
        gone.append("batch_stats/head/fc")
    assert_same(none.variables, kept, besides=gone)
    assert_same(get(family, pretrained=saved(family)).variables, kept)


@only(takes_images)
@pytest.mark.parametrize("channels", [1, 4])
def test_channels(family, channels):
    model = get(family, in_channels=channels)
    size = FAMILIES[family].input_shape[:2]
    assert model.spec.input_shape == (*size, channels)
    assert shape_of(model, *size, channels).shape == (4, CLASSES)


@only(lambda family: takes_images(family) and has_reference(family))
@pytest.mark.parametrize("channels", [1, 4])
def test_channels_of_pretrained_variables(family, channels, assert_same):
    model = get(family, in_channels=channels, pretrained=saved(family))
    reference = FAMILIES[family].architecture.reference
    stems = [f"params/backbone/{stem}/kernel" for stem in reference.stem]
    assert_same(model.variables, tiny(family).variables, besides=stems)
    assert np.isfinite(model(inputs(family, shape=model.spec.input_shape))).all()


@only(has_maps)
def test_feature_maps(family):
    model, x = tiny(family), inputs(family)
    maps = model.feature_maps(x)
    reductions = backbone(family).reductions()
    assert list(maps) == list(reductions)
    for name, reduction in reductions.items():
        assert maps[name].ndim == 4
        if reduction is not None:
            size = tuple(-(-side // reduction) for side in x.shape[1:3])
            if FAMILIES[family].cropped:
                assert all(np.less_equal(maps[name].shape[1:3], size)), name
            else:
                assert maps[name].shape[1:3] == size, name
    pyramid = get(family, features=True, num_classes=None)
    variables = {kind: {"backbone": tree["backbone"]} for kind, tree in model.variables.items()}
    same = pyramid.with_variables(variables)(x)
    assert list(same) == list(maps)
    for name, value in maps.items():
        close(same[name], value)


@only(lambda family: is_classifier(family) and not has_maps(family))
def test_families_without_maps_say_so(family):
    with pytest.raises(TypeError, match="no stages to give feature maps of"):
        tiny(family).feature_maps(inputs(family))


@only(every)
def test_every_slice_joins(family):
    model = tiny(family)
    module = getattr(model.module, "backbone", model.module)
    variables = model.variables
    if module is not model.module:
        variables = {k: tree["backbone"] for k, tree in variables.items() if "backbone" in tree}
    count = len(stages_of(module))

    @jax.jit
    def joined(variables, x):
        def run(x, start, stop):
            return module.apply(variables, x, start, stop, method="run_stages")

        whole = module.apply(variables, x)
        return whole, [run(run(x, 0, k), k, None) for k in range(1, count)]

    whole, parts = joined(variables, inputs(family))
    assert len(parts) == count - 1 > 0
    for part in parts:
        close(part, whole)


@only(every)
def test_every_slice_is_a_model_with_its_variables(family, assert_same):
    model = tiny(family)
    for name in list(stages_of(model.module))[1:]:
        first = fz.transfer.slice_model(model, stop=name)
        second = fz.transfer.slice_model(model, start=name)
        joined = fz.transfer.merge_variables(first.variables, second.variables)
        assert_same(joined, model.variables)


@only(every)
def test_bfloat16(family):
    model, x = (
        get(family, dtype=jnp.bfloat16).with_variables(tiny(family).variables),
        inputs(family),
    )
    assert all(leaf.dtype == jnp.float32 for leaf in flatten(model.shapes()).values())
    outputs = model(x)
    assert outputs.dtype == jnp.bfloat16
    close(outputs, tiny(family)(x), tolerance=0.1)


@only(every)
def test_precision_is_the_dtype_of_every_layer(family):
    """What a policy fills in is what the family hands down: the same operations, on the same."""
    low, x = get(family, dtype=jnp.bfloat16).module, tiny(family).spec.sample()

    def filled_in(variables, x):
        with computing_in(fz.PrecisionPolicy("bfloat16")):
            return apply_module(tiny(family).module, variables, x)

    shapes = tiny(family).shapes()
    handed_down = operations(functools.partial(apply_module, low), shapes, x)
    assert operations(filled_in, shapes, x) == handed_down
    # Softmaxes and norms.
    wide = ("exp", "rsqrt", "sqrt", "log")
    assert not [key for key in handed_down if key[0] in wide and "bfloat16" in key]


@only(lambda family: FAMILIES[family].other_shape is not None)
def test_another_size(family):
    shape = FAMILIES[family].other_shape
    assert tiny(family)(inputs(family, shape=shape)).shape == (4, CLASSES)


@only(every)
def test_shapes_that_do_not_fit_are_refused(family):
    with pytest.raises(ShapeError):
        tiny(family)(inputs(family, shape=FAMILIES[family].refused_shape))


@only(every)
def test_the_last_batch_is_padded_without_a_trace(family):
    model, x = tiny(family), inputs(family, batch=4)
    outputs = model_module.run_batches(model, x, 4, 3)
    close(outputs, model(x))


@only(is_classifier)
def test_a_head_of_ones_own(family, assert_same):
    model = tiny(family)
    new = model.replace_head(Head(2), rng=1)
    assert_same(new.variables, model.variables, besides=["params/head", "batch_stats/head"])
    assert new(inputs(family)).shape == (4, 2)


@only(is_classifier)
def test_features_probe_and_neighbours(family):
    """What is extracted once feeds heads, probes and neighbours alike."""
    model, x = tiny(family), inputs(family, batch=4)
    labels = np.array([0, 1, 0, 1], np.int32)
    features = fz.transfer.extract_features(
        model, (x, labels), batch_size=4, pooling="auto", progress=False
    )
    assert features.inputs.ndim == 2
    probe = fz.transfer.linear_probe(features, penalties=1e-4)
    assert probe.score(features) == 1.0
    assert fz.transfer.KNN(features, k=1).score(features) == 1.0
    joined = fz.transfer.merge_variables(
        fz.transfer.slice_model(model, stop="head").variables, probe.to_head_variables()
    )
    whole = model.replace_head(Head(2)).with_variables(joined)
    np.testing.assert_array_equal(np.argmax(whole(x), -1), labels)


@only(taking("implementation"))
def test_attention_weights_sum_to_1(family):
    weights = tiny(family).attention_weights(inputs(family, 2))
    assert weights
    for path, array in weights.items():
        assert array.ndim == 4, path
        np.testing.assert_allclose(array.sum(-1), 1, rtol=1e-5, err_msg=path)
    network = backbone(family)
    owners = [child for children in network.stages().values() for child in children]
    places = [max(owners.index(p) for p in prefixes(path) if p in owners) for path in weights]
    assert places == sorted(places)
