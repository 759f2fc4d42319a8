"""The operations of a model as nodes that TensorBoard's Graphs tab groups by module.

What is drawn is the jaxpr of the forward pass. Each operation is named by the path of the Linen
module that it stands in, so that the tab folds modules into boxes; parameters stand in the module
that owns them. Calls within (``jit``, ``remat``, functions with gradients of their own, loops) are
laid open: as a box where the function has a name, and in place where it has none.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.extend import core

from flaxzoo._calls import call_module
from flaxzoo._extras import require
from flaxzoo._flops import bodies
from flaxzoo._trees import by_path

# TensorBoard draws nodes of this kind as a dot beside what uses them.
_CONSTANT = "Const"

# Names of the field for what primitives compute; those of ``layers.lowering`` lose their prefix.
_OPERATIONS = {"conv_general_dilated": "conv", "dot_general": "matmul"}
_PREFIX = "flaxzoo_"

# Primitives that call a function on their operands, one for one.
_CALLS = frozenset(
    [
        "jit",
        "pjit",
        "closed_call",
        "core_call",
        "remat",
        "remat2",
        "checkpoint",
        "custom_jvp_call",
        "custom_vjp_call",
        "custom_vjp_call_jaxpr",
        "shard_map",
    ]
)

_LONGEST_ATTRIBUTE = 200


@dataclasses.dataclass(eq=False)
class Node:
    """One operation, parameter, input or output.

    Attributes:
      name: unique; the path of its module and what it does, with ``/`` between.
      op: what it computes, ``"parameter"``, ``"input"`` or ``"output"``.
      inputs: which output of which node each operand is.
      outputs: shape and dtype of each result.
      attributes: settings of the operation and operands that are numbers, as text.
    """

    name: str
    op: str
    inputs: list[tuple[Node, int]]
    outputs: Sequence[Any]
    attributes: dict[str, str] = dataclasses.field(default_factory=dict)


# An operand: an output of a node, or a number as text.
_Operand = tuple[Node, int] | str


def model_graph(module: nn.Module, variables: Any, inputs: Any) -> list[Node]:
    """The nodes of a module's forward pass in inference mode; nothing is computed.

    Args:
      module: an unbound Linen module.
      variables: its variables, as arrays or ``jax.ShapeDtypeStruct``.
      inputs: one batch of inputs, likewise.
    """

    def forward(variables: Any, inputs: Any) -> Any:
        return nn.apply(lambda m, x: call_module(m, x, train=False), module)(variables, inputs)

    # The collection is left out: parameters stand where their module stands.
    parameters = [(path.partition("/")[2], "parameter") for path in by_path(variables)]
    names = [*parameters, *_inputs(inputs)]
    return _trace(forward, (variables, inputs), names, type(module).__name__)


def function_graph(function: Callable[..., Any], *args: Any) -> list[Node]:
    """The nodes of ``function(*args)``; nothing is computed.

    Args:
      function: a traceable function.
      *args: arrays or ``jax.ShapeDtypeStruct``, or trees of them.
    """
    return _trace(function, args, _inputs(args[0] if len(args) == 1 else args))


def to_graph_def(nodes: Iterable[Node]) -> Any:
    """The nodes as TensorFlow's ``GraphDef``, the form that TensorBoard reads."""
    proto = functools.partial(require, extra="tensorboard", purpose="TensorBoard")
    graph = proto("tensorboardX.proto.graph_pb2").GraphDef()
    shape_proto = proto("tensorboardX.proto.tensor_shape_pb2").TensorShapeProto
    for node in nodes:
        drawn = graph.node.add(name=node.name, op=node.op)
        drawn.input.extend(f"{source.name}:{i}" if i else source.name for source, i in node.inputs)
        for key, value in node.attributes.items():
            drawn.attr[key].s = value.encode()
        if node.outputs:
            drawn.attr["dtype"].s = ", ".join(str(x.dtype) for x in node.outputs).encode()
        # TensorBoard writes these beside the edges.
        drawn.attr["_output_shapes"].list.shape.extend(
            shape_proto(dim=[shape_proto.Dim(size=size) for size in output.shape])
            for output in node.outputs
        )
    graph.versions.producer = 22
    return graph


def _inputs(tree: Any) -> list[tuple[str, str]]:
    return [("/".join(filter(None, ("inputs", path))), "input") for path in by_path(tree)]


def _trace(
    function: Callable[..., Any],
    args: Sequence[Any],
    names: Sequence[tuple[str, str]],
    root: str = "",
) -> list[Node]:
    closed, results = jax.make_jaxpr(function, return_shape=True)(*args)
    drawing = _Drawing(root)
    sources: list[_Operand] = [
        (drawing.add(name, op, [], [var.aval]), 0)
        for (name, op), var in zip(names, closed.jaxpr.invars, strict=True)
    ]
    ends = []
    outputs = drawing.inline(closed, sources, ())
    for (name, _), operand in zip(_inputs(results), outputs, strict=True):
        ends.append(drawing.add(name.replace("inputs", "outputs", 1), "output", [operand], []))
    return _in_use(drawing.nodes, ends)


def _in_use(nodes: Sequence[Node], ends: Sequence[Node]) -> list[Node]:
    """The nodes that the ends depend on, and all inputs."""
    used, waiting = set(ends), list(ends)
    while waiting:
        for source, _ in waiting.pop().inputs:
            if source not in used:
                used.add(source)
                waiting.append(source)
    return [node for node in nodes if node in used or node.op == "input"]


class _Drawing:
    """Nodes as they are drawn, equation by equation.

    Args:
      root: the class of the outermost module, with which the names of all places begin.
    """

    def __init__(self, root: str) -> None:
        self.nodes: list[Node] = []
        self._root = root
        self._taken: set[str] = set()

    def add(
        self,
        name: str,
        op: str,
        operands: Iterable[_Operand],
        outputs: Sequence[Any],
        attributes: dict[str, str] | None = None,
    ) -> Node:
        """Draws a node; numbers among the operands become attributes."""
        attributes, inputs = dict(attributes or {}), []
        for i, operand in enumerate(operands):
            if isinstance(operand, str):
                attributes[f"operand_{i}"] = operand
            else:
                inputs.append(operand)
        node = Node(self._unique(name), op, inputs, outputs, attributes)
        self.nodes.append(node)
        return node

    def inline(
        self,
        closed: Any,
        operands: Sequence[_Operand],
        path: tuple[str, ...],
        box: tuple[str, ...] | None = None,
    ) -> list[_Operand]:
        """Draws the equations of a jaxpr, open or closed, and returns its results.

        Those of modules stand where their module stands, the others in ``box``.
        """
        box = path if box is None else box
        jaxpr = getattr(closed, "jaxpr", closed)
        values: dict[Any, _Operand] = dict(zip(jaxpr.invars, operands, strict=True))
        for var in jaxpr.constvars:
            values[var] = (self.add(_join(box, "constant"), _CONSTANT, [], [var.aval]), 0)
        for eqn in jaxpr.eqns:
            sources = [_read(values, var) for var in eqn.invars]
            modules = self._modules(eqn, path)
            results = self._equation(eqn, sources, (*path, *modules) if modules else box)
            values.update(zip(eqn.outvars, results, strict=True))
        return [_read(values, var) for var in jaxpr.outvars]

    def _equation(
        self, eqn: Any, operands: list[_Operand], path: tuple[str, ...]
    ) -> list[_Operand]:
        name, params = eqn.primitive.name, eqn.params
        if name == f"{_PREFIX}written":
            # Where it is computed, not what.
            return operands
        if name == "cond":
            return self._cond(eqn, operands, path)
        if name == "while":
            # The condition gives no number that goes further.
            skipped = params["cond_nconsts"]
            return self._group("while", params["body_jaxpr"], operands[skipped:], path)
        if name == "scan":
            label = f"scan_{params['length']}_steps" if params["length"] > 1 else ""
            return self._group(label, params["jaxpr"], operands, path)
        body = next(iter(bodies(eqn)), None) if name in _CALLS else None
        if body is not None and len(body.invars) == len(operands):
            label = str(params.get("name") or "")
            # Names with an underscore say how something is computed, not what.
            return self._group("" if label.startswith("_") else label, body, operands, path)
        op = _operation(eqn)
        attributes = _attributes(params)
        outputs = [var.aval for var in eqn.outvars]
        node = self.add(_join(path, op), op, operands, outputs, attributes)
        return [(node, i) for i in range(len(outputs))]

    def _cond(self, eqn: Any, operands: list[_Operand], path: tuple[str, ...]) -> list[_Operand]:
        branches, platforms = eqn.params["branches"], eqn.params.get("branches_platforms")
        if platforms is not None:
            # All compute the same: the one for any platform is the plainest.
            plain = branches[platforms.index(None) if None in platforms else -1]
            return self._group("", plain, operands[1:], path)
        place = (*path, self._unique(_join(path, "cond")).rpartition("/")[2])
        results = [
            self._group(f"branch_{i}", branch, operands[1:], place)
            for i, branch in enumerate(branches)
        ]
        selects: list[_Operand] = []
        for var, *choices in zip(eqn.outvars, *results, strict=True):
            node = self.add(_join(place, "select"), "select", [operands[0], *choices], [var.aval])
            selects.append((node, 0))
        return selects

    def _group(
        self, label: str, body: Any, operands: list[_Operand], path: tuple[str, ...]
    ) -> list[_Operand]:
        """Draws a body in a box of its own; as one node of the box's name if that is all in it."""
        if not label or label in path[-1:]:
            return self.inline(body, operands, path)
        name, start = self._unique(_join(path, label)), len(self.nodes)
        results = self.inline(body, operands, path, tuple(name.split("/")))
        drawn = [node for node in self.nodes[start:] if node.op != _CONSTANT]
        if len(drawn) == 1:
            drawn[0].name = name
        return results

    def _modules(self, eqn: Any, path: tuple[str, ...]) -> list[str]:
        """The modules below ``path`` that an equation stands in."""
        stack = [part for part in str(eqn.source_info.name_stack).split("/") if part]
        if not path and stack[:1] == [self._root]:
            del stack[0]
        # A part with a dot is a method, not a module.
        return [part for part in stack if "." not in part]

    def _unique(self, name: str) -> str:
        name = re.sub(r"[^A-Za-z0-9_./-]", "_", name)
        free, number = name, 0
        while free in self._taken:
            number += 1
            free = f"{name}_{number}"
        self._taken.add(free)
        return free


def _join(path: Iterable[str], name: str) -> str:
    return "/".join((*path, name))


def _read(values: dict[Any, _Operand], var: Any) -> _Operand:
    # NumPy's text of a number; JAX has had types of its own for it, which print their names.
    return str(np.asarray(var.val)) if isinstance(var, core.Literal) else values[var]


def _operation(eqn: Any) -> str:
    name = eqn.primitive.name.removeprefix(_PREFIX)
    if eqn.primitive.name == f"{_PREFIX}conv" and eqn.invars[1].aval.ndim == 2:
        # On CPUs, products of matrices go the way of convolutions.
        name = "dot_general"
    return _OPERATIONS.get(name, name)


def _attributes(params: dict[str, Any]) -> dict[str, str]:
    """The settings that can be read: no functions, and none that say nothing."""
    texts = {
        key: str(value)
        for key, value in params.items()
        if value is not None and not callable(value) and "jaxpr" not in key
    }
    return {key: text for key, text in texts.items() if len(text) <= _LONGEST_ATTRIBUTE}
