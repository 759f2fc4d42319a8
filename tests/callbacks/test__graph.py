"""The graph of a model, as TensorBoard reads it."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

import flaxzoo as fz
from flaxzoo.callbacks._graph import function_graph, model_graph, to_graph_def
from flaxzoo.layers import lowering

graph_pb2 = pytest.importorskip("tensorboard.compat.proto.graph_pb2")


def drawn(nodes):
    """The nodes by name after the way through a file; every edge must lead somewhere."""
    graph = graph_pb2.GraphDef.FromString(to_graph_def(nodes).SerializeToString())
    by_name = {node.name: node for node in graph.node}
    assert len(by_name) == len(graph.node)
    for node in graph.node:
        for source in node.input:
            name, _, output = source.partition(":")
            shapes = by_name[name].attr["_output_shapes"].list.shape
            assert int(output or 0) < len(shapes), source
    return by_name


def of_module(module, *shape, name="float32"):
    sample = jax.ShapeDtypeStruct(shape, name)
    variables = jax.eval_shape(module.init, jax.random.key(0), sample)
    return drawn(model_graph(module, variables, sample))


def shape(node, output=0):
    return [dim.size for dim in node.attr["_output_shapes"].list.shape[output].dim]


def top(graph, prefix=""):
    depth = prefix.count("/")
    inside = (name.split("/") for name in graph if name.startswith(prefix))
    return {parts[depth] for parts in inside}


def test_a_small_network():
    model = fz.models.get("cnn", num_classes=10, input_shape=(8, 8, 1), features=(4,), hidden=(6,))
    graph = drawn(model_graph(model.module, model.shapes(), model.spec.sample()))
    assert top(graph) == {"inputs", "backbone", "head", "outputs"}
    conv = graph["backbone/conv_0/conv"]
    assert list(conv.input) == ["inputs", "backbone/conv_0/kernel"]
    assert conv.op == "conv"
    assert shape(conv) == [1, 8, 8, 4]
    assert conv.attr["dtype"].s == b"float32"
    assert shape(graph["backbone/conv_0/kernel"]) == [3, 3, 1, 4]
    assert graph["backbone/conv_0/kernel"].op == "parameter"
    # A function with a name and one operation is a node of that name.
    assert graph["backbone/relu"].op == "max"
    assert graph["backbone/relu"].attr["operand_1"].s == b"0.0"
    assert graph["head/fc/matmul"].op == "matmul"
    assert list(graph["head/fc/matmul"].input)[1] == "head/fc/kernel"
    assert list(graph["outputs"].input) == ["head/fc/add"]
    assert shape(graph["head/fc/add"]) == [1, 10]


def test_a_resnet_is_read_from_its_stages():
    model = fz.models.get("resnet18")
    graph = drawn(model_graph(model.module, model.shapes(), model.spec.sample()))
    assert top(graph) == {"inputs", "backbone", "head", "outputs"}
    blocks = {f"layer{stage}_{block}" for stage in range(1, 5) for block in range(2)}
    stem = {"conv1", "bn1", "relu", "reduce_window_max"}
    assert top(graph, "backbone/") == stem | blocks
    assert top(graph, "backbone/layer2_0/") >= {"conv1", "bn1", "conv2", "bn2", "downsample_0"}
    assert shape(graph["backbone/reduce_window_max"]) == [1, 56, 56, 64]
    # What the two branches of a block give is added.
    assert [source.split("/")[2] for source in graph["backbone/layer2_0/add"].input] == [
        "bn2",
        "downsample_1",
    ]


@pytest.mark.parametrize("how", ["auto", "xla"])
def test_operations_are_named_for_what_they_compute(how):
    model = fz.models.get("cnn", num_classes=2, input_shape=(8, 8, 1), features=(2,), hidden=(3,))
    with lowering.use(how):
        graph = drawn(model_graph(model.module, model.shapes(), model.spec.sample()))
    computed = {name: node.op for name, node in graph.items() if node.op in ("conv", "matmul")}
    assert computed == {
        "backbone/conv_0/conv": "conv",
        "backbone/dense_0/matmul": "matmul",
        "head/fc/matmul": "matmul",
    }
    assert not any("flaxzoo" in node.op for node in graph.values())


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return nn.Dense(3, name="dense")(x), None


class Stack(nn.Module):
    """Blocks under ``scan``, ``remat`` and a function with a gradient of its own."""

    @nn.compact
    def __call__(self, x):
        scanned = nn.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=4)
        x, _ = scanned(name="blocks")(x, None)
        x = nn.remat(nn.Dense)(3, name="again")(x)
        return jax.nn.relu(x) + custom(x)


@jax.custom_vjp
def custom(x):
    return jnp.sin(x) * 2


custom.defvjp(lambda x: (custom(x), x), lambda x, g: (g,))


def test_scans_remats_and_custom_gradients_are_laid_open():
    graph = of_module(Stack(), 2, 3)
    assert top(graph) >= {"inputs", "blocks", "again", "relu", "sin", "outputs"}
    assert list(graph["blocks/dense/matmul"].input) == ["inputs", "blocks/dense/kernel"]
    # All four kernels are one parameter.
    assert shape(graph["blocks/dense/kernel"]) == [4, 3, 3]
    assert graph["again/matmul"].op == "matmul"


def test_the_body_of_a_scan_without_modules_is_a_box_that_says_how_often():
    def function(x):
        return jax.lax.scan(lambda c, x: (c * x, jnp.sin(c)), x[0], x)

    graph = drawn(function_graph(function, jnp.ones(3)))
    assert top(graph, "scan_3_steps/") == {"mul", "sin"}
    assert "scan_3_steps/mul" in graph["outputs/0"].input


def test_loops_and_branches():
    def function(x, flag):
        y = jax.lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, c[1] * 2), (0, x))[1]
        a, b = jax.lax.cond(flag, lambda y: (jnp.sin(y), y), lambda y: (jnp.exp(y), -y), y)
        return {"sum": a + b, "table": y @ jnp.asarray([[1.0], [2.0]])}

    graph = drawn(function_graph(function, jnp.ones((1, 2)), True))
    assert {"inputs/0", "inputs/1", "outputs/sum", "outputs/table"} <= set(graph)
    assert graph["while/mul"].op == "mul"
    # The first operand says which of the others it is.
    assert list(graph["cond/select"].input)[1:] == ["cond/branch_0/exp", "cond/branch_1"]
    assert graph["cond/branch_1"].op == "sin"
    assert list(graph["cond/select_1"].input)[1:] == ["cond/branch_0/neg", "while/mul"]
    # Tables that a function holds are constants, which TensorBoard draws beside what uses them.
    assert [graph[name].op for name in graph["matmul"].input] == ["mul", "Const"]


def test_several_inputs_and_names_that_files_cannot_hold():
    graph = drawn(function_graph(lambda tree: tree["a b"] + tree["c"][0], {"a b": 1.0, "c": [2.0]}))
    assert list(graph["add"].input) == ["inputs/a_b", "inputs/c/0"]


def test_results_that_are_inputs_or_numbers_and_inputs_without_use():
    graph = drawn(function_graph(lambda x, y: (x, 3.0), 1.0, 2.0))
    assert list(graph["outputs/0"].input) == ["inputs/0"]
    assert graph["outputs/1"].attr["operand_0"].s == b"3.0"
    assert "inputs/1" in graph


def test_a_module_that_stands_twice_in_its_own_path():
    class Inner(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(2, name="same")(x)

    class Outer(nn.Module):
        @nn.compact
        def __call__(self, x):
            return Inner(name="same")(x)

    graph = of_module(Outer(), 1, 2)
    assert list(graph["same/same/matmul"].input) == ["inputs", "same/same/kernel"]
