from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxzoo.augment as augment
from flaxzoo.augment import Affine, ColorJitter, Compose, Flip, RandomErasing, as_augmentation
from flaxzoo.data.batch import Batch
from flaxzoo.errors import ShapeError, UnknownArgumentError, UnknownNameError
from flaxzoo.preprocess import Preprocess

PREPROCESS = Preprocess((12, 12, 3), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
# Those that need to be told what to do.
BARE = ("affine", "color_jitter")
PRESETS = ("cifar", "color", "keras_tutorial", "light", "mixup_cutmix", "standard", "strong")


def add_one(key, batch):
    return batch._replace(inputs=batch.inputs + 1)


def names():
    return [name for name in augment.list() if name not in BARE]


@pytest.fixture(scope="module")
def results(quick_jit, images):
    """Every preset on one batch: with one key, the same again, and another."""
    batch = Batch(images, np.arange(8, dtype=np.int32) % 3, np.ones(8, np.float32))
    found = {}
    for name in PRESETS:
        op = as_augmentation(name, PREPROCESS, num_classes=3)
        call = quick_jit(op)
        found[name] = [call(jax.random.PRNGKey(seed), batch) for seed in (0, 0, 1)]
    return found


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_keeps_shape_and_dtype_and_depends_on_the_key_alone(results, images, name):
    first, again, other = results[name]
    assert first.inputs.shape == images.shape
    assert first.inputs.dtype == jnp.float32
    assert bool(jnp.isfinite(first.inputs).all())
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)
    assert (np.asarray(first.inputs) != other.inputs).any()
    np.testing.assert_array_equal(first.weights, 1)
    soft = as_augmentation(name).soft_targets
    assert first.targets.shape == ((8, 3) if soft else (8,))


@pytest.mark.parametrize("name", names())
def test_equal_ones_are_equal_and_hash_alike(name):
    one, two = as_augmentation(name, PREPROCESS), as_augmentation(name, PREPROCESS)
    assert one == two
    assert hash(one) == hash(two)
    assert augment.info(name).summary
    assert name in repr(augment.info(name))


def test_images_of_one_batch_differ(run, images):
    same = np.repeat(images[:1], 8, 0)
    found = run(Affine(rotation=30, shift_x=0.2), same)
    assert len(np.unique(found.reshape(8, -1), axis=0)) == 8


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_dtypes_are_computed_in_float32(run, images, dtype):
    op = Affine(rotation=20, fill="nearest") | ColorJitter(0.3, 0.3) | RandomErasing(p=1)
    narrow = jnp.asarray(images, dtype)
    found = run(op, narrow)
    assert found.dtype == dtype
    want = run(op, narrow.astype(jnp.float32)).astype(dtype)
    np.testing.assert_allclose(found.astype(np.float32), want.astype(np.float32), atol=4e-3)


def test_float64(quick_jit, images):
    op = as_augmentation(["randaugment", Affine(rotation=10)])
    with jax.enable_x64(True):
        for dtype in (np.float64, np.float32):
            found = quick_jit(op.images)(jax.random.PRNGKey(0), images.astype(dtype))
            assert found.dtype == dtype


def test_vmap_over_keys(run, quick_jit, images):
    op = Flip() | Affine(shift_x=0.3)
    keys = jnp.stack([jax.random.PRNGKey(seed) for seed in range(3)])
    many = quick_jit(jax.vmap(op.images, in_axes=(0, None)))(keys, images)
    for seed, found in enumerate(many):
        np.testing.assert_allclose(found, run(op, images, seed), atol=1e-6)


def test_typed_raw_and_integer_keys(run, images):
    want = run(Flip(), images, 3)
    np.testing.assert_array_equal(Flip().images(3, images), want)
    np.testing.assert_array_equal(Flip().images(jax.random.key(3), images), want)


def test_one_after_the_other(images):
    double = dataclasses.replace(ColorJitter(), brightness=(2, 2))
    batch = Batch(images, None, None)
    result = (double | Flip(p=1) | add_one)(0, batch)
    want = np.minimum(images * 2, 1)[:, :, ::-1] + 1
    np.testing.assert_allclose(result.inputs, want, rtol=1e-6)
    result = (add_one | Flip(p=1))(0, batch)
    np.testing.assert_array_equal(result.inputs, images[:, :, ::-1] + 1)
    np.testing.assert_array_equal(Compose((add_one,)).images(0, images), images + 1)


def test_chains_are_flat_and_equal_to_lists():
    chain = Flip() | Affine(rotation=5) | RandomErasing()
    assert chain == Compose((Flip(), Compose((Affine(rotation=5), RandomErasing()))))
    assert chain == as_augmentation(["flip", Affine(rotation=5), "random_erasing"])
    assert repr(chain) == ("Compose(ops=(Flip(), Affine(rotation=(-5.0, 5.0)), RandomErasing()))")


def test_preprocessing_reaches_every_part():
    op = as_augmentation(["flip", ["color", add_one]], PREPROCESS)
    parts = [part for part in op.ops if part is not add_one]
    assert len(parts) == 4
    assert all(part.mean == PREPROCESS.mean and part.std == PREPROCESS.std for part in parts)
    assert as_augmentation("color", None) == augment.get("color")


def test_images_among_other_inputs(quick_jit, images):
    inputs = {"image": images, "age": np.arange(8)}
    batch = Batch(inputs, np.arange(8), None)
    flip = Flip(p=1)
    both = quick_jit(lambda batch: (flip(0, batch), (flip | Affine(shift_x=(0.5, 0.5)))(0, batch)))
    result, joined = both(batch)
    np.testing.assert_array_equal(result.inputs["image"], images[:, :, ::-1])
    np.testing.assert_array_equal(result.inputs["age"], np.arange(8))
    assert (joined.inputs["image"][:, :, :6] == 0).all()
    with pytest.raises(ShapeError, match="Flip looks for images under.*the inputs have age"):
        Flip()(0, batch._replace(inputs={"age": np.arange(8)}))


def test_what_as_augmentation_takes():
    assert as_augmentation(None) is None
    assert as_augmentation(add_one) is add_one
    assert as_augmentation("horizontal_flip") == Flip()
    assert as_augmentation("mixup", num_classes=4).num_classes == 4
    with pytest.raises(UnknownNameError, match="unknown augmentation 'rotatoin'.*'rotation'"):
        as_augmentation("rotatoin")
    with pytest.raises(UnknownNameError, match=r"flaxzoo.augment.list\(\)"):
        as_augmentation("nothing like it")
    with pytest.raises(UnknownArgumentError, match="'rotation' does not take 'angle'"):
        augment.get("rotation", angle=3)
    for bad in (3, Flip, {"flip": 1}):
        with pytest.raises(TypeError, match="an augmentation is a name"):
            as_augmentation(bad)
    assert as_augmentation([]) is None
    for name in BARE:
        with pytest.raises(ValueError, match=f"{name}.*changes nothing unless it is told"):
            as_augmentation(name)

    class Unhashable:
        __hash__ = None

        def __call__(self, key, batch):
            return batch

    with pytest.raises(TypeError, match="Unhashable is not hashable"):
        as_augmentation(Unhashable())


def test_one_of_your_own(run, images):
    @dataclasses.dataclass(frozen=True)
    class Invert(augment.ImageAugmentation):
        def example(self, key, image):
            return self.unit(lambda x: 1 - x, image)

    found = run(Invert(p=0.5), np.repeat(images, 50, 0))
    changed = np.isclose(found, 1 - np.repeat(images, 50, 0), atol=1e-6).all((1, 2, 3))
    assert 150 < changed.sum() < 250
    inside = Invert().normalized_by(PREPROCESS)
    black = -np.float32(PREPROCESS.mean) / np.float32(PREPROCESS.std)
    white = run(inside, np.broadcast_to(black, (1, 4, 4, 3)))
    np.testing.assert_allclose(
        white[0, 0, 0], (1 - np.float32(PREPROCESS.mean)) / np.float32(PREPROCESS.std), rtol=1e-5
    )


def test_registering():
    name = "a preset of this test"
    augment.register(name)(lambda p=0.5: Flip(p=p))
    try:
        assert as_augmentation(name) == Flip()
        assert augment.get(name, p=1.0) == Flip(p=1)
        with pytest.raises(ValueError, match="registered already"):
            augment.register(name)(Flip)
    finally:
        del augment.REGISTRY._entries[name]


def test_images_alone_go_elsewhere():
    with pytest.raises(TypeError, match=r"Flip takes a Batch\(.*\.images\(key, images\)"):
        Flip()(0, np.zeros((2, 4, 4, 3), np.float32))
