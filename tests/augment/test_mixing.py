from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxzoo.augment import CutMix, Flip, MixUp, OneOf, get
from flaxzoo.augment.mixing import partners
from flaxzoo.data.batch import Batch
from flaxzoo.errors import ShapeError

SIZE, CLASSES = 32, 32


@pytest.fixture(scope="module")
def mixed(quick_jit):
    return quick_jit(lambda op, key, batch: op(key, batch), static_argnums=0)


@pytest.fixture(scope="module")
def batch():
    """Row i is an image of the value i and of the class i, so that images tell the shares."""
    images = np.broadcast_to(
        np.arange(SIZE, dtype=np.float32)[:, None, None, None], (SIZE, 8, 6, 2)
    )
    return Batch(images, np.arange(SIZE, dtype=np.int32), np.ones(SIZE, np.float32))


def partner_of(targets):
    others = np.array(targets)
    others[np.arange(SIZE), np.arange(SIZE)] = 0
    return others.argmax(1)


def test_mixup_is_linear_in_images_and_labels_alike(mixed, batch):
    result = mixed(MixUp(1.0, CLASSES), jax.random.PRNGKey(0), batch)
    targets = np.asarray(result.targets)
    assert targets.dtype == np.float32
    np.testing.assert_allclose(targets.sum(1), 1, atol=1e-6)
    assert (np.count_nonzero(targets, axis=1) == 2).all()
    want = targets @ np.arange(SIZE)
    np.testing.assert_allclose(result.inputs[:, 3, 2, 1], want, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(result.weights, batch.weights)


def test_cutmix_labels_are_the_area_exactly(mixed, batch):
    result = mixed(CutMix(1.0, CLASSES), jax.random.PRNGKey(1), batch)
    images, targets = np.asarray(result.inputs)[..., 0], np.asarray(result.targets)
    rows = np.arange(SIZE)
    area = (images == rows[:, None, None]).mean((1, 2))
    np.testing.assert_allclose(targets[rows, rows], area, atol=1e-6)
    other = partner_of(targets)
    pasted = images != rows[:, None, None]
    assert pasted.any((1, 2)).sum() > SIZE / 2
    for row in rows[pasted.any((1, 2))]:
        assert set(images[row][pasted[row]]) == {other[row]}
        # One rectangle.
        sides = pasted[row].any(1).sum() * pasted[row].any(0).sum()
        assert pasted[row].sum() == sides


def test_padding_mixes_with_nothing(mixed, batch):
    weights = np.where(np.arange(SIZE) < 20, 1.0, 0.0).astype(np.float32)
    padded = batch._replace(weights=weights)
    for op in (MixUp(1.0, CLASSES), CutMix(1.0, CLASSES)):
        for seed in range(3):
            result = mixed(op, jax.random.PRNGKey(seed), padded)
            targets = np.asarray(result.targets)
            np.testing.assert_array_equal(result.inputs[20:], batch.inputs[20:])
            np.testing.assert_array_equal(targets[20:], np.eye(CLASSES)[20:])
            assert (targets[:20, 20:] == 0).all()
            assert (np.asarray(result.inputs)[:20] < 20).all()


def test_partners_are_one_cycle(quick_jit):
    counts = jnp.asarray([1, 0, 1, 1, 0, 1, 1, 1], bool)
    keys = jax.random.split(jax.random.PRNGKey(0), 300)
    found = np.asarray(quick_jit(jax.vmap(partners, in_axes=(0, None)))(keys, counts))
    assert (found[:, [1, 4]] == [1, 4]).all()
    for cycle in found[:20]:
        place, seen = 0, []
        for _ in range(6):
            place = int(cycle[place])
            seen.append(place)
        assert sorted(seen) == [0, 2, 3, 5, 6, 7]
    # Each of the five others is as likely: 60 expected.
    tally = np.bincount(found[:, 0], minlength=8)[[2, 3, 5, 6, 7]]
    assert abs(tally - 60).max() < 30
    assert partners(jax.random.PRNGKey(0), jnp.ones(1, bool)).tolist() == [0]
    assert partners(jax.random.PRNGKey(0), jnp.zeros(3, bool)).tolist() == [0, 1, 2]


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_shares_are_beta(mixed, alpha):
    rows = 2000
    images = np.zeros((rows, 1, 1, 1), np.float32)
    labels = np.arange(rows) % 2
    kept = []
    for seed in range(2):
        result = mixed(MixUp(alpha, 2), jax.random.PRNGKey(seed), Batch(images, labels))
        targets = np.asarray(result.targets)
        # Pairs of two classes show their share.
        own = targets[np.arange(rows), labels]
        kept.append(own[own != 1])
    kept = np.concatenate(kept)
    variance = 1 / (4 * (2 * alpha + 1))
    assert abs(kept.mean() - 0.5) < 0.05
    assert abs(kept.var() / variance - 1) < 0.1


def test_p(mixed, batch):
    same = mixed(MixUp(1.0, CLASSES, p=0), jax.random.PRNGKey(0), batch)
    np.testing.assert_array_equal(same.inputs, batch.inputs)
    np.testing.assert_array_equal(same.targets, np.eye(CLASSES))
    half = mixed(MixUp(1.0, CLASSES, p=0.5), jax.random.PRNGKey(0), batch)
    changed = (np.asarray(half.inputs) != batch.inputs).any((1, 2, 3)).sum()
    assert 6 <= changed <= 26


def test_soft_targets_and_images_alone(mixed, run, batch):
    soft = batch._replace(targets=np.eye(CLASSES, dtype=np.float16))
    key = jax.random.PRNGKey(0)
    hard = mixed(MixUp(1.0, CLASSES), key, batch)
    np.testing.assert_array_equal(mixed(MixUp(1.0), key, soft).targets, hard.targets)
    alone = mixed(MixUp(1.0), key, batch._replace(targets=None, weights=None))
    np.testing.assert_array_equal(alone.inputs, hard.inputs)
    np.testing.assert_allclose(run(MixUp(1.0), batch.inputs), hard.inputs, rtol=1e-6)


def test_bfloat16(mixed, batch):
    images = jnp.asarray(batch.inputs, jnp.bfloat16)
    result = mixed(MixUp(1.0, CLASSES), jax.random.PRNGKey(0), batch._replace(inputs=images))
    assert result.inputs.dtype == jnp.bfloat16
    assert result.targets.dtype == jnp.float32
    exact = mixed(MixUp(1.0, CLASSES), jax.random.PRNGKey(0), batch)
    np.testing.assert_allclose(
        result.inputs.astype(jnp.float32), exact.inputs, rtol=2**-8, atol=1e-3
    )


def test_one_of_draws_for_the_whole_batch(mixed, batch):
    op = get("mixup_cutmix", num_classes=CLASSES)
    assert op.soft_targets
    cut = []
    for seed in range(40):
        images = np.asarray(mixed(op, jax.random.PRNGKey(seed), batch).inputs)
        whole = images == np.round(images)
        assert whole.all() or whole.mean() < 0.2
        cut.append(whole.all())
    assert 8 <= sum(cut) <= 32
    only = OneOf((MixUp(1.0, CLASSES), Flip(p=1)), weights=(0, 1))
    result = mixed(only, jax.random.PRNGKey(0), batch)
    np.testing.assert_array_equal(result.targets, np.eye(CLASSES))
    np.testing.assert_array_equal(result.inputs, np.asarray(batch.inputs)[:, :, ::-1])


def test_the_number_of_classes_is_filled_in(batch):
    op = get("mixup_cutmix").with_num_classes(5)
    assert op == get("mixup_cutmix", num_classes=5)
    assert op.with_num_classes(9) == op
    with pytest.raises(ValueError, match=r"MixUp makes labels soft.*MixUp\(num_classes=10\)"):
        MixUp()(0, batch)


@pytest.mark.parametrize(
    "targets",
    [
        np.zeros((SIZE, 4), np.float32),
        np.zeros(SIZE, np.float32),
        np.zeros((SIZE, 8, 6), np.int32),
        np.zeros(3, np.int32),
        {"a": np.zeros(SIZE, np.int32)},
    ],
)
def test_other_targets_are_refused(batch, targets):
    with pytest.raises(ShapeError, match=r"integer labels of shape \[32\] or probab.*\[32, 32\]"):
        MixUp(1.0, CLASSES)(0, batch._replace(targets=targets))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MixUp(0), "alpha must be a finite number above 0"),
        (lambda: CutMix(num_classes=1), "num_classes must be an int of at least 2"),
        (lambda: OneOf(()), "needs at least one"),
        (lambda: OneOf((Flip(), Flip()), weights=(1,)), "weights must be 2 numbers"),
        (lambda: OneOf((Flip(), Flip()), weights=(0, 0)), "weights must be 2 numbers"),
    ],
)
def test_fields_are_checked(make, message):
    with pytest.raises(ValueError, match=message):
        make()
