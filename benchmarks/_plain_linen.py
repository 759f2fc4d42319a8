"""The networks of the benchmarks as one writes them with ``flax.linen`` alone.

No layer of flaxzoo is used: ``nn.Conv``, ``nn.BatchNorm``, ``nn.max_pool``, ``nn.RNN``. The
submodules have our names, so that both can start from the same parameters and be compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

_LAYERS = {"resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3), "resnext50_32x4d": (3, 4, 6, 3)}


class ResNet(nn.Module):
    """ResNet or ResNeXt for images ``[B, H, W, 3]``, with torchvision's strides and paddings.

    Attributes:
      layers: blocks in each of the four stages.
      bottleneck: whether a block is 1 x 1, 3 x 3, 1 x 1, or two of 3 x 3.
      groups: of the 3 x 3 convolution of a bottleneck.
      group_width: its channels in each group, in the first stage.
      num_classes: width of the output.
      dtype: of the computation.
    """

    layers: Sequence[int]
    bottleneck: bool = True
    groups: int = 1
    group_width: int = 64
    num_classes: int = 1000
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Logits ``[B, num_classes]``."""
        conv = partial(nn.Conv, use_bias=False, dtype=self.dtype)
        norm = partial(
            nn.BatchNorm,
            use_running_average=not train,
            momentum=0.9,
            epsilon=1e-5,
            dtype=self.dtype,
        )
        x = conv(64, (7, 7), (2, 2), padding=3, name="conv1")(x)
        x = nn.relu(norm(name="bn1")(x))
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        for i, blocks in enumerate(self.layers):
            for j in range(blocks):
                x = Block(
                    features=64 * 2**i,
                    stride=2 if i and not j else 1,
                    bottleneck=self.bottleneck,
                    groups=self.groups,
                    group_width=self.group_width,
                    conv=conv,
                    norm=norm,
                    name=f"layer{i + 1}_{j}",
                )(x)
        return nn.Dense(self.num_classes, dtype=self.dtype, name="fc")(x.mean((1, 2)))


class Block(nn.Module):
    """A residual block; its attributes are those of ``ResNet``."""

    features: int
    stride: int
    bottleneck: bool
    groups: int
    group_width: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / stride, W / stride, outputs]``."""
        strides = (self.stride, self.stride)
        if self.bottleneck:
            outputs = 4 * self.features
            width = self.features * self.group_width // 64 * self.groups
            y = self.conv(width, (1, 1), name="conv1")(x)
            y = nn.relu(self.norm(name="bn1")(y))
            middle = partial(self.conv, feature_group_count=self.groups)
            y = middle(width, (3, 3), strides, padding=1, name="conv2")(y)
            y = nn.relu(self.norm(name="bn2")(y))
            y = self.norm(name="bn3")(self.conv(outputs, (1, 1), name="conv3")(y))
        else:
            outputs = self.features
            y = self.conv(outputs, (3, 3), strides, padding=1, name="conv1")(x)
            y = nn.relu(self.norm(name="bn1")(y))
            y = self.conv(outputs, (3, 3), padding=1, name="conv2")(y)
            y = self.norm(name="bn2")(y)
        if x.shape != y.shape:
            x = self.conv(outputs, (1, 1), strides, name="downsample_0")(x)
            x = self.norm(name="downsample_1")(x)
        return nn.relu(x + y)


class CNN(nn.Module):
    """The network of Flax's MNIST example, for images ``[B, 28, 28, 1]``."""

    num_classes: int = 10
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Logits ``[B, num_classes]``."""
        del train
        dense = partial(nn.Dense, dtype=self.dtype)
        for i, width in enumerate((32, 64)):
            x = nn.relu(nn.Conv(width, (3, 3), dtype=self.dtype, name=f"conv_{i}")(x))
            x = nn.avg_pool(x, (2, 2), strides=(2, 2))
        x = nn.relu(dense(256, name="dense_0")(x.reshape(len(x), -1)))
        return dense(self.num_classes, name="fc")(x)


class MLP(nn.Module):
    """Two hidden layers, for vectors ``[B, F]``."""

    num_classes: int = 10
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Logits ``[B, num_classes]``."""
        del train
        dense = partial(nn.Dense, dtype=self.dtype)
        for i, width in enumerate((256, 128)):
            x = nn.relu(dense(width, name=f"dense_{i}")(x))
        return dense(self.num_classes, name="fc")(x)


class TextLSTM(nn.Module):
    """An embedding, one LSTM and a linear layer on its last output, for token ids ``[B, T]``."""

    vocab_size: int
    embedding_dim: int
    hidden_size: int
    num_classes: int = 2

    @nn.compact
    def __call__(self, ids: jax.Array, *, train: bool = False) -> jax.Array:
        """Logits ``[B, num_classes]``."""
        del train
        x = nn.Embed(self.vocab_size, self.embedding_dim, name="embedding")(ids)
        x = nn.RNN(nn.OptimizedLSTMCell(self.hidden_size, name="cell"))(x)
        return nn.Dense(self.num_classes, name="fc")(x[:, -1])


def resnet(name: str, dtype: Any = jnp.float32) -> ResNet:
    """``"resnet18"``, ``"resnet50"`` or ``"resnext50_32x4d"``."""
    groups = {"groups": 32, "group_width": 4} if "x4d" in name else {}
    return ResNet(_LAYERS[name], bottleneck=name != "resnet18", dtype=dtype, **groups)


def train_step(
    apply: Callable[..., Any], optimizer: optax.GradientTransformation, **training: Any
) -> Callable[..., Any]:
    """The jitted step that one writes by hand; its state is donated.

    Args:
      apply: of a Linen module.
      optimizer: any of optax.
      **training: arguments of ``apply`` while training.

    Returns:
      ``(state, inputs, labels)`` to the new state and ``(loss, accuracy)``, where the state is
      ``(params, batch_stats, opt_state)`` with an empty ``batch_stats`` for models without.
    """

    def step(state: Any, inputs: Any, labels: Any) -> Any:
        params, statistics, opt_state = state

        def objective(params: Any) -> Any:
            variables = {"params": params, "batch_stats": statistics}
            logits, updated = apply(variables, inputs, mutable=["batch_stats"], **training)
            loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
            return loss, (logits, updated.get("batch_stats", {}))

        (loss, (logits, updated)), grads = jax.value_and_grad(objective, has_aux=True)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        accuracy = (logits.argmax(-1) == labels).mean()
        return (optax.apply_updates(params, updates), updated, opt_state), (loss, accuracy)

    return jax.jit(step, donate_argnums=0)


def from_flaxzoo(variables: dict[str, Any]) -> dict[str, Any]:
    """Our variables of a classifier as those of the networks of this module.

    The two groups ``backbone`` and ``head`` become one; the LSTM's four gates are split.
    """
    merged = {
        name: {**groups.get("backbone", {}), **groups.get("head", {})}
        for name, groups in variables.items()
    }
    layer = merged["params"].pop("l0", None)
    if layer is not None:
        merged["params"]["cell"] = as_flax_cell(layer)
    return merged


def as_flax_cell(layer: Any) -> dict[str, dict[str, jax.Array]]:
    """Parameters of an OptimizedLSTMCell that computes what our layer computes."""
    cell = {}
    kernels = [jnp.split(layer[key], 4, axis=-1) for key in ("kernel_ih", "kernel_hh", "bias")]
    for gate, kernel_ih, kernel_hh, bias in zip("ifgo", *kernels, strict=True):
        cell[f"i{gate}"] = {"kernel": kernel_ih}
        cell[f"h{gate}"] = {"kernel": kernel_hh, "bias": bias}
    return cell
