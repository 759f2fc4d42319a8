"""Networks without norms: kernels and variances, how blocks begin, examples by themselves."""

import jax
import numpy as np
import optax
import pytest

import flaxzoo as fz
from flaxzoo.activations import as_activation
from flaxzoo.models.nfnet import GAMMAS, NFBlock, NFNet, ScaledStdConv

pytestmark = pytest.mark.family("nfnet")

TINY = {
    "layers": (1, 2),
    "widths": (16, 24),
    "stem_width": 16,
    "group_size": 4,
    "head_width": 16,
}


def test_kernels_keep_the_variance():
    x = np.random.default_rng(0).standard_normal((2, 16, 16, 32)).astype(np.float32)
    module = ScaledStdConv(64, 3, padding="VALID", gamma=2.0)
    out, variables = module.init_with_output(jax.random.key(0), x)
    assert out.var() == pytest.approx(4, rel=0.1)
    # Kernels of mean zero see no constant, and their own size says nothing.
    same = module.apply(variables, np.ones_like(x))
    np.testing.assert_allclose(same, 0, atol=1e-4)
    larger = {**variables["params"], "kernel": 7 * variables["params"]["kernel"]}
    np.testing.assert_allclose(module.apply({"params": larger}, x), out, rtol=0.01, atol=1e-2)


@pytest.mark.parametrize("name", sorted(set(GAMMAS) - {"log_softmax"}))
def test_scales_of_activations(name):
    x = np.random.default_rng(0).standard_normal(200_000).astype(np.float32)
    y = np.asarray(as_activation(name)(x))
    assert GAMMAS[name] ** 2 * y.var() == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize("skip_init", [True, False])
def test_blocks_begin_as_their_shortcuts(skip_init):
    x = np.random.default_rng(0).standard_normal((1, 3, 4, 8)).astype(np.float32)
    module = NFBlock(features=8, skip_init=skip_init)
    out, variables = module.init_with_output(jax.random.key(0), x)
    np.testing.assert_array_equal(out, x)
    params = variables["params"]
    assert ("skipinit_gain" in params) == skip_init
    assert params["conv3"]["gain"].any() == skip_init


def test_inputs_are_divided_by_the_deviation_that_branches_gave_them():
    parts = list(NFNet(layers=(3, 2), widths=(16, 24), alpha=0.5).parts())
    found = [part.run.keywords["beta"] for part in parts if part.name.startswith("stages")]
    # The first block of a stage begins anew, but sees what the stage before gave.
    assert [beta**-2 for beta in found] == pytest.approx([1, 1.25, 1.5, 1.75, 1.25])


def test_an_example_depends_on_no_other_in_training():
    model = fz.models.get("nfnet_l0", input_shape=(32, 32, 3), num_classes=2, **TINY).init(rng=0)
    assert model.variables.keys() == {"params"}
    images = np.random.default_rng(0).random((3, 32, 32, 3), np.float32)
    together = model.module.apply(model.variables, images, train=True)
    alone = model.module.apply(model.variables, images[:1], train=True)
    np.testing.assert_allclose(together[:1], alone, rtol=1e-5, atol=1e-6)


def test_what_the_authors_do_not_decay():
    shapes = fz.models.get("nfnet_l0", num_classes=2, **TINY).shapes()["params"]
    mask = fz.optimizers.decay_masks.PatternMask(("!*/gain",))(shapes)
    decayed = {path.rpartition("/")[2] for path, on in fz._trees.flatten(mask).items() if on}
    assert decayed == {"kernel"}


def test_gradients_are_clipped_by_unit():
    params = {"kernel": np.ones((3, 3, 2, 4), np.float32)}
    clip = optax.adaptive_grad_clip(0.01)
    updates, _ = clip.update(params, clip.init(params), params)
    # Of each output's kernel, whose norm is that of its gradient here.
    np.testing.assert_allclose(updates["kernel"], 0.01, rtol=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layers": (1, 2)}, "must be of one length"),
        ({"stem": "deep"}, "stem must be"),
        ({"activation": "mish"}, "activation must be"),
        ({"gate": "gc"}, "gate must be"),
        ({"alpha": 0}, "alpha must be"),
        ({"output_stride": 4}, "output_stride must be 8, 16 or 32, got 4"),
        ({"padding": "VALID"}, "padding must be"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        NFNet(**fields)
