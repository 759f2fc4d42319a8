"""Every library's training step and inference, as its users write them.

A ``Candidate`` runs in a process of its own (``_workers.py``); nothing of its library is imported
before its function is called. The ones for torch and Keras are in ``_peers_torch.py`` and
``_peers_keras.py``.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
from _works import (
    FLOAT32,
    LEARNING_RATE,
    RESNETS,
    WORKS,
    flaxzoo_model,
    read_weights,
    weights_file,
)

OURS = "flaxzoo"
# Training steps of one call of ``fz.train_steps``.
AT_ONCE = 8


@dataclasses.dataclass(frozen=True)
class Candidate:
    """What a worker calls and times.

    Attributes:
      call: dispatches a training step or several, or computes one inference; its result is for
        the other two. Training steps follow each other unwaited for, as in a loop.
      wait: returns when what a call started is done.
      value: the loss of a training step, or the logits.
      device: what it runs on.
      same_weights: whether it started from our weights, so that ``value`` must be ours.
      gflop: of one step, where known; 0 else.
      steps: in one call.
    """

    call: Callable[[], Any]
    wait: Callable[[Any], Any]
    value: Callable[[Any], Any]
    device: str
    same_weights: bool = True
    gflop: float = 0.0
    steps: int = 1


def flaxzoo(work: str, kind: str, weights: str, dtype: str = FLOAT32) -> Candidate:
    """Our own, through the public functions; its state is donated, as the others' are."""
    del weights
    return _flaxzoo(work, kind, dtype, 1)


def flaxzoo_several(work: str, kind: str, weights: str, dtype: str = FLOAT32) -> Candidate:
    """Our own with several steps in one call, on the same batch each."""
    del weights
    return dataclasses.replace(_flaxzoo(work, kind, dtype, AT_ONCE), same_weights=False)


def _flaxzoo(work: str, kind: str, dtype: str, steps: int) -> Candidate:
    import jax

    import flaxzoo as fz

    model = flaxzoo_model(work, dtype)
    batch = WORKS[work].data()
    if steps > 1:
        batch = jax.tree.map(lambda x: np.stack([x] * steps), batch)
    batch = jax.device_put(batch)
    # Each gradient takes as many operations as the forward pass does.
    gflop = model.summary().flops / 1e9 * WORKS[work].batch * (3 if kind == "train" else 1)
    if kind == "inference":
        return _jax_candidate(
            lambda: jax.block_until_ready(model(batch[0])), np.asarray, gflop=gflop
        )
    state = fz.create_train_state(model, optimizer="adam", learning_rate=LEARNING_RATE, donate=True)
    step = fz.train_step if steps == 1 else fz.train_steps

    def call() -> Any:
        nonlocal state
        state, metrics = step(state, batch)
        return metrics

    def wait(metrics: Any) -> None:
        jax.block_until_ready((state, metrics))

    def value(metrics: Any) -> float:
        return metrics.compute()["loss"]

    candidate = _jax_candidate(call, value, gflop=gflop)
    return dataclasses.replace(candidate, wait=wait, steps=steps)


def plain_linen(work: str, kind: str, weights: str, dtype: str = FLOAT32) -> Candidate:
    """The network written with ``flax.linen`` alone."""
    import _plain_linen as linen

    found = WORKS[work]
    if work in RESNETS:
        module: Any = linen.resnet(work, dtype)
    elif work == "lstm":
        module = linen.TextLSTM(**found.config)
    else:
        module = {"cnn": linen.CNN, "mlp": linen.MLP}[work](dtype=dtype)
    variables = linen.from_flaxzoo(read_weights(weights, work))
    return _linen_candidate(work, kind, module, variables, {"train": False}, {"train": True})


def jax_resnet(work: str, kind: str, weights: str) -> Candidate:
    """jax-resnet, with timm's weights by its own conversion."""
    import jax_resnet as library
    from safetensors.numpy import load_file

    # It takes torch's tensors, of which it uses one method.
    state_dict = {
        name: SimpleNamespace(numpy=lambda value=value: value)
        for name, value in load_file(weights_file(weights, work, "timm")).items()
    }
    size = int("".join(c for c in work.partition("_")[0] if c.isdigit()))
    pretrained = {
        "resnext50_32x4d": library.pretrained_resnext,
        "resnest50d": library.pretrained_resnest,
    }.get(work, library.pretrained_resnet)
    module, variables = pretrained(size, state_dict=state_dict)
    # Its modules train where the statistics are mutable.
    return _linen_candidate(work, kind, module(), variables, {}, {})


def flaxmodels(work: str, kind: str, weights: str) -> Candidate:
    """flaxmodels, from weights of its own: it reads no others."""
    del weights
    import flaxmodels as library
    import jax
    import jax.numpy as jnp

    make = {"resnet18": library.ResNet18, "resnet50": library.ResNet50}[work]
    module = make(output="logits", pretrained=None, normalize=False)
    images = jnp.zeros((1, *WORKS[work].shape))
    variables = jax.jit(lambda key: module.init(key, images, train=False))(jax.random.key(0))
    candidate = _linen_candidate(work, kind, module, variables, {"train": False}, {"train": True})
    return dataclasses.replace(candidate, same_weights=False)


def jaxnn(work: str, kind: str, weights: str) -> Candidate:
    """Its networks in Flax NNX, with our weights under its names.

    Its GELU is the approximation by tanh, so that logits are some 1e-4 from everybody else's.
    """
    import jax
    import optax
    from flax import nnx
    from jax.experimental import checkify

    from flaxzoo._trees import flatten
    from flaxzoo.verify import import_timm

    # Its import needs torchvision, which is of another torch where that is a CPU's build.
    import_timm()
    import jaxnn as library

    network = library.create_model(work, num_classes=WORKS[work].classes)
    values = {
        path.replace("backbone/", "").replace("head/fc", "head").replace("/", "."): leaf
        for path, leaf in flatten(read_weights(weights, work)["params"]).items()
    }
    for path, param in nnx.to_flat_state(nnx.state(network, nnx.Param)):
        name = ".".join(map(str, path)).replace("blocks.layers.", "blocks_")
        param.set_value(jax.numpy.asarray(values.pop(name)))
    if values:
        raise ValueError(f"jaxnn has no {', '.join(values)}")
    inputs, labels = jax.device_put(WORKS[work].data())
    graph, params, rest = nnx.split(network, nnx.Param, ...)

    # Its checks of shapes stand within what is compiled, and are refused there as they are.
    @jax.jit
    @checkify.checkify
    def infer(params: Any, x: Any) -> Any:
        return nnx.merge(graph, params, rest)(x, deterministic=True)

    if kind == "inference":
        candidate = _jax_candidate(
            lambda: jax.block_until_ready(infer(params, inputs)[1]), np.asarray
        )
        return dataclasses.replace(candidate, same_weights=False)
    optimizer = optax.adam(LEARNING_RATE)

    @functools.partial(jax.jit, donate_argnums=0)
    @checkify.checkify
    def step(state: Any, x: Any, y: Any) -> Any:
        def loss_of(params: Any) -> Any:
            # Nothing drops by default, so that no random state has to be carried.
            logits = nnx.merge(graph, params, rest)(x, deterministic=True)
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

        loss, gradients = jax.value_and_grad(loss_of)(state[0])
        updates, moments = optimizer.update(gradients, state[1])
        return (optax.apply_updates(state[0], updates), moments), loss

    state = (params, jax.jit(optimizer.init)(params))

    def call() -> Any:
        nonlocal state
        _, (state, loss) = step(state, inputs, labels)
        return loss

    return dataclasses.replace(
        _jax_candidate(call, float),
        wait=lambda loss: jax.block_until_ready((state, loss)),
        same_weights=False,
    )


def _linen_candidate(
    work: str, kind: str, module: Any, variables: Any, inference: Any, training: Any
) -> Candidate:
    import jax
    import optax
    from _plain_linen import train_step

    variables = jax.device_put({name: dict(tree) for name, tree in variables.items()})
    inputs, labels = jax.device_put(WORKS[work].data())
    if kind == "inference":
        forward = jax.jit(lambda variables, x: module.apply(variables, x, **inference))
        return _jax_candidate(lambda: jax.block_until_ready(forward(variables, inputs)), np.asarray)
    optimizer = optax.adam(LEARNING_RATE)
    step = train_step(module.apply, optimizer, **training)
    params = variables["params"]
    state = (params, variables.get("batch_stats", {}), jax.jit(optimizer.init)(params))

    def call() -> Any:
        nonlocal state
        state, metrics = step(state, inputs, labels)
        return metrics

    def wait(metrics: Any) -> None:
        jax.block_until_ready((state, metrics))

    return dataclasses.replace(_jax_candidate(call, lambda m: float(m[0])), wait=wait)


def _jax_candidate(call: Any, value: Any, gflop: float = 0.0) -> Candidate:
    import jax

    device = jax.devices()[0].device_kind
    return Candidate(call, jax.block_until_ready, value, device, gflop=gflop)
