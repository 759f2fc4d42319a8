"""The package as a whole: what importing it does, and what an absent extra says."""

import json
import subprocess
import sys

import pytest

import flaxzoo as fz
from flaxzoo._extras import require
from flaxzoo.errors import MissingExtraError


def test_import_loads_nothing_before_it_is_used():
    code = (
        "import json, sys, flaxzoo\n"
        "print(json.dumps(sorted(m for m in sys.modules if m.startswith('flaxzoo')\n"
        "                        or m in ('jax', 'flax', 'optax', 'torch', 'orbax'))))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(out.stdout) == ["flaxzoo", "flaxzoo._lazy", "flaxzoo._version"]


def test_using_one_part_does_not_load_the_others():
    code = (
        "import sys, flaxzoo as fz\n"
        "fz.models.get('cnn')\n"
        "heavy = ('flaxmodels', 'jax_resnet', 'torch', 'matplotlib', 'sklearn', 'tensorboardX',\n"
        "         'orbax.checkpoint', 'clu', 'flaxzoo.training.trainer', 'flaxzoo.losses')\n"
        "print([m for m in heavy if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_every_public_name_resolves():
    for name in fz.__all__:
        assert getattr(fz, name) is not None
    assert set(fz.__all__) <= set(dir(fz))


@pytest.mark.slow
def test_first_use_from_several_threads():
    """JAX is imported by one of them, and all get the same objects."""
    code = """if True:
        import random, sys, threading
        import flaxzoo as fz
        sys.setswitchinterval(1e-5)
        seen, start = [], threading.Barrier(8)
        def use(i):
            names = random.Random(i).sample(fz.__all__, len(fz.__all__))
            start.wait()
            seen.append({name: id(getattr(fz, name)) for name in names})
        threads = [threading.Thread(target=use, args=(i,)) for i in range(8)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        assert len(seen) == 8 and all(one == seen[0] for one in seen)
    """
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_unknown_attribute():
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        fz.nope  # noqa: B018


def test_absent_extra_names_what_to_type():
    with pytest.raises(ImportError, match=r'pip install "flaxzoo\[plots\]"') as caught:
        require("no_such_module_xyz.part", extra="plots", purpose="drawing")
    assert isinstance(caught.value, MissingExtraError)
    assert "drawing needs no_such_module_xyz" in str(caught.value)
