"""The peak memory of a few training steps in a fresh process, as three instruments see it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from _resnet50 import LEARNING_RATE

MIB = 2**20
# Long enough for the steps' stored values to outweigh everything else.
LSTM_BATCH, LSTM_STEPS, LSTM_WIDTH = 32, 512, 256
_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def resident(field: str = "VmRSS") -> float:
    """MiB of this process in memory now, or at most so far (``"VmHWM"``).

    Elsewhere than on Linux both are the peak since the start, by ``getrusage``.
    """
    # Preferred to ru_maxrss, which on Linux a process inherits from the one that started it.
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) / 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / MIB if sys.platform == "darwin" else peak / 1024


def forget_peak() -> bool:
    """Makes what is in memory now the peak so far; False where the system has no way to."""
    try:
        _CLEAR.write_text("5")
    except OSError:
        return False
    return True


def compiled_sizes(program: Any) -> dict[str, float]:
    """MiB that XLA has planned for a compiled program: ``temporary``, and all it needs at once.

    Donated arguments and the outputs that take their place count once.
    """
    sizes = program.memory_analysis()
    if sizes is None:
        return {}
    kept = sizes.argument_size_in_bytes + sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    return {
        "temporary": sizes.temp_size_in_bytes / MIB,
        "planned": (kept + sizes.temp_size_in_bytes) / MIB,
    }


def device_peak(library: str) -> float | None:
    """MiB of an accelerator's memory at their peak; None on CPU."""
    if library == "torch":
        import torch

        return torch.cuda.max_memory_allocated() / MIB if torch.cuda.is_available() else None
    import jax

    stats = jax.devices()[0].memory_stats() or {}
    peak = stats.get("peak_bytes_in_use")
    return None if peak is None or jax.default_backend() == "cpu" else peak / MIB


class Lstm:
    """One LSTM layer over features, its outputs' mean classified; flaxzoo's."""

    remat = False

    def imports(self) -> None:
        import jax

        import flaxzoo

        self.jax, self.fz = jax, flaxzoo

    def begin(self, inputs: Any) -> None:
        model = self.fz.models.get("lstm", hidden_size=LSTM_WIDTH, pooling="mean", remat=self.remat)
        self.state = self.fz.create_train_state(
            model, inputs=inputs, optimizer="adam", learning_rate=LEARNING_RATE
        )

    def lower(self, inputs: Any, labels: Any) -> Any:
        from flaxzoo.data.batch import as_batch
        from flaxzoo.training.step import update

        arguments = (self.state, as_batch((inputs, labels)))
        return self.jax.jit(update, donate_argnums=0).lower(*arguments), arguments


class LstmRemat(Lstm):
    """The same, its steps recomputed in blocks."""

    remat = True


class LinenLstm:
    """``nn.RNN(nn.OptimizedLSTMCell)`` in a step by hand."""

    def imports(self) -> None:
        import _plain_linen
        import flax.linen
        import jax
        import optax

        self.plain, self.nn, self.jax, self.optax = _plain_linen, flax.linen, jax, optax

    def cell(self) -> Any:
        """What ``nn.RNN`` runs."""
        return self.nn.OptimizedLSTMCell(LSTM_WIDTH)

    def begin(self, inputs: Any) -> None:
        nn, jax, build, tx = self.nn, self.jax, self.cell, self.optax.adam(LEARNING_RATE)

        class Network(nn.Module):
            @nn.compact
            def __call__(self, x: Any) -> Any:
                return nn.Dense(2)(nn.RNN(build())(x).mean(1))

        network = Network()
        params = jax.jit(network.init)(jax.random.key(0), inputs)["params"]
        self.state = (params, {}, tx.init(params))
        self.jitted = self.plain.train_step(network.apply, tx)

    def lower(self, inputs: Any, labels: Any) -> Any:
        arguments = (self.state, inputs, labels)
        return self.jitted.lower(*arguments), arguments


class LinenLstmRemat(LinenLstm):
    """The same with ``nn.remat`` around the cell, as Linen's documentation has it."""

    def cell(self) -> Any:
        return self.nn.remat(self.nn.OptimizedLSTMCell)(LSTM_WIDTH)


class TorchLstm:
    """``torch.nn.LSTM`` and a linear layer."""

    def imports(self) -> None:
        import torch

        self.torch = torch

    def begin(self, inputs: Any) -> None:
        torch = self.torch
        self.lstm = torch.nn.LSTM(inputs.shape[-1], LSTM_WIDTH, batch_first=True)
        self.head = torch.nn.Linear(LSTM_WIDTH, 2)
        parameters = [*self.lstm.parameters(), *self.head.parameters()]
        self.optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE)

    def step(self, inputs: Any, labels: Any) -> None:
        torch = self.torch
        logits = self.head(self.lstm(torch.from_numpy(inputs))[0].mean(1))
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels).long())
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        loss.item()


LSTMS: dict[str, Any] = {
    "flaxzoo": Lstm,
    "flaxzoo, remat=True": LstmRemat,
    "plain Linen": LinenLstm,
    "plain Linen, nn.remat": LinenLstmRemat,
    "torch": TorchLstm,
}
