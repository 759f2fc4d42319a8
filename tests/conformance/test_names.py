"""The variables of every name, by their shapes alone, against files that a script writes."""

import importlib.util
import json
from pathlib import Path

import pytest
from conformance.families import every, only

from flaxzoo.models import catalog

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("make_shapes", ROOT / "scripts/make_shapes.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@only(every)
def test_every_name_has_the_variables_that_it_had(family, script):
    path = script.SHAPES / f"{family}.json"
    text = path.read_text("utf-8") if path.exists() else "{}"
    lines = script.build(family)
    expected = json.loads(text)
    differ = [name for name in (*expected, *lines) if expected.get(name) != lines.get(name)]
    assert not differ, (
        f"{', '.join(dict.fromkeys(differ))}: the variables or outputs are others than "
        f"tests/conformance/shapes/{family}.json says. If they should be, write it anew with "
        f"python scripts/make_shapes.py {family}"
    )
    assert text == script.to_text(lines)
    # The catalogue counts parameters by itself.
    for name, line in lines.items():
        known = catalog.known(name)
        if known.get("input_shape") == line["input_shape"]:
            assert known["parameters"] == line["parameters"], name
