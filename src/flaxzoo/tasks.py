"""What a model is for, and what follows from it: the one table of tasks."""

from __future__ import annotations

import dataclasses

from flaxzoo.errors import UnknownNameError, did_you_mean


@dataclasses.dataclass(frozen=True)
class Task:
    """What follows from a task.

    Attributes:
      name: ``ModelSpec.task``.
      loss: name of the loss that training takes where none is given.
      metrics: names of the metrics that are measured where neither they nor a loss are given.
      ranked: whether ``predict`` ranks classes, instead of returning the outputs.
      images: whether ``predict`` makes inputs of pictures.
      reconstructs: whether the inputs are the targets, too.
      predicts: whether the outputs are predictions. Where they are not, training asks for a loss,
        but for modules that the zoo did not build: their outputs are taken for logits.
    """

    name: str
    loss: str = "softmax_cross_entropy_with_integer_labels"
    metrics: tuple[str, ...] = ()
    ranked: bool = False
    images: bool = True
    reconstructs: bool = False
    predicts: bool = True


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("classification", metrics=("accuracy",), ranked=True),
        Task("reconstruction", loss="mean_squared_error", images=False, reconstructs=True),
        Task("features", predicts=False),
    )
}


def get_task(name: str) -> Task:
    """The task of a name.

    Raises:
      UnknownNameError: (a KeyError) there is no such task; it lists those there are.
    """
    if name not in TASKS:
        hint = did_you_mean(name, TASKS) if isinstance(name, str) else ""
        raise UnknownNameError(f"unknown task {name!r}.{hint} Tasks: {', '.join(TASKS)}")
    return TASKS[name]
