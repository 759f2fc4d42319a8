"""One network by each library, a stage at a time: what startup.py and memory.py run.

Each candidate does what its users write. Nothing is imported before ``imports`` is called, so that
a fresh process can time every stage, the imports included. ``load`` reads a safetensors file under
timm's names where the library has a way to; plain Linen has none and draws its parameters. It is a
ResNet-50 but for the classes named otherwise.
"""

from __future__ import annotations

import time
from typing import Any

CLASSES = 1000
LEARNING_RATE = 1e-3


class Flaxzoo:
    """flaxzoo, through its public functions."""

    name = "resnet50"
    remat = False

    def imports(self) -> None:
        import jax

        import flaxzoo

        self.jax, self.fz = jax, flaxzoo
        # The package loads its modules when they are first used.
        self.get = flaxzoo.models.get

    def build(self) -> None:
        self.model = self.get(self.name, remat=self.remat)

    def load(self, file: str | None) -> None:
        if file is None:
            self.model = self.model.init(rng=0)
        else:
            self.model = self.get(self.name, pretrained=file, remat=self.remat)

    def logits(self, images: Any) -> Any:
        return self.jax.block_until_ready(self.model(images))

    def begin(self) -> None:
        """Makes the training state."""
        self.state = self.fz.create_train_state(
            self.model, optimizer="adam", learning_rate=LEARNING_RATE
        )

    def step(self, images: Any, labels: Any) -> None:
        result = self.fz.train_step(self.state, (images, labels))
        self.state, _ = self.jax.block_until_ready(result)

    def lower(self, images: Any, labels: Any) -> Any:
        """The training step with a donated state, traced and lowered, and its arguments."""
        from flaxzoo.data.batch import as_batch
        from flaxzoo.training.step import update

        arguments = (self.state, as_batch((images, labels)))
        return self.jax.jit(update, donate_argnums=0).lower(*arguments), arguments


class FlaxzooRemat(Flaxzoo):
    """The same with blocks that are recomputed in the backward pass."""

    remat = True


class _Linen:
    """A step by hand around a Linen module, as its documentation writes it."""

    def imports(self) -> None:
        import _plain_linen
        import jax
        import optax

        self.plain, self.jax, self.optax = _plain_linen, jax, optax

    def module_and_modes(self) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        """The module, and its arguments for inference and for training."""
        raise NotImplementedError

    def build(self) -> None:
        self.module, self.inference, self.training = self.module_and_modes()

    def load(self, file: str) -> None:
        jax, shape = self.jax, (1, 224, 224, 3)
        init = jax.jit(lambda key: self.module.init(key, jax.numpy.zeros(shape), **self.inference))
        self.variables = jax.block_until_ready(init(jax.random.key(0)))

    def logits(self, images: Any) -> Any:
        forward = self.jax.jit(lambda v, x: self.module.apply(v, x, **self.inference))
        return self.jax.block_until_ready(forward(self.variables, images))

    def begin(self) -> None:
        tx = self.optax.adam(LEARNING_RATE)
        params, statistics = self.variables["params"], self.variables["batch_stats"]
        self.state = (params, statistics, self.jax.jit(tx.init)(params))
        self.jitted = self.plain.train_step(self.module.apply, tx, **self.training)

    def step(self, images: Any, labels: Any) -> None:
        self.state, _ = self.jax.block_until_ready(self.jitted(self.state, images, labels))

    def lower(self, images: Any, labels: Any) -> Any:
        arguments = (self.state, images, labels)
        return self.jitted.lower(*arguments), arguments


class PlainLinen(_Linen):
    """``nn.Conv``, ``nn.BatchNorm`` and ``nn.max_pool``, and nothing else."""

    def module_and_modes(self) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        return self.plain.resnet("resnet50"), {"train": False}, {"train": True}


class JaxResnet(_Linen):
    """jax-resnet, which takes a torchvision state dict."""

    def imports(self) -> None:
        super().imports()
        import jax_resnet

        self.jax_resnet = jax_resnet

    def module_and_modes(self) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        # Its modules train where the statistics are mutable.
        return self.jax_resnet.ResNet50(n_classes=CLASSES), {}, {}

    def load(self, file: str) -> None:
        from flax.core import unfreeze
        from safetensors.torch import load_file

        _, variables = self.jax_resnet.pretrained_resnet(50, load_file(file))
        # It returns a FrozenDict, but apply does not: a step would be compiled twice.
        self.variables = self.jax.device_put(unfreeze(variables))


class Timm:
    """timm on torch, eager, channels last."""

    name = "resnet50"

    def imports(self) -> None:
        from flaxzoo.verify import import_timm

        self.timm = import_timm()
        import torch

        self.torch = torch

    def build(self) -> None:
        self.model = self.timm.create_model(self.name)

    def load(self, file: str | None) -> None:
        if file is not None:
            from safetensors.torch import load_file

            self.model.load_state_dict(load_file(file))

    def logits(self, images: Any) -> Any:
        self.model.eval()
        with self.torch.inference_mode():
            return self.model(self.as_images(images)).numpy()

    def as_images(self, images: Any) -> Any:
        images = self.torch.from_numpy(images).permute(0, 3, 1, 2)
        return images.to(memory_format=self.torch.channels_last)

    def begin(self) -> None:
        self.model.to(memory_format=self.torch.channels_last).train()
        self.optimizer = self.torch.optim.Adam(self.model.parameters(), lr=LEARNING_RATE)

    def step(self, images: Any, labels: Any) -> None:
        torch = self.torch
        logits = self.model(self.as_images(images))
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels).long())
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        loss.item()


class FlaxzooVit(Flaxzoo):
    """flaxzoo's ViT-S/16."""

    name = "vit_small_patch16_224"


class FlaxzooVitRemat(FlaxzooVit):
    """The same with blocks that are recomputed in the backward pass."""

    remat = True


class TimmVit(Timm):
    """timm's ViT-S/16."""

    name = "vit_small_patch16_224"


VITS: dict[str, Any] = {
    "flaxzoo": FlaxzooVit,
    "flaxzoo, remat=True": FlaxzooVitRemat,
    "timm": TimmVit,
}
CANDIDATES: dict[str, Any] = {
    "flaxzoo": Flaxzoo,
    "flaxzoo, remat=True": FlaxzooRemat,
    "plain Linen": PlainLinen,
    "jax-resnet": JaxResnet,
    "timm": Timm,
}


def compiled(candidate: Any, images: Any, labels: Any) -> tuple[Any, Any, dict[str, float]]:
    """The compiled training step, its arguments, and the seconds of tracing and compiling."""
    start = time.perf_counter()
    lowered, arguments = candidate.lower(images, labels)
    middle = time.perf_counter()
    program = lowered.compile()
    seconds = {"trace and lower": middle - start, "compile": time.perf_counter() - middle}
    return program, arguments, seconds
