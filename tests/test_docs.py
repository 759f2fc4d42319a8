"""The README and the docs pages: what they name, and where they lead. tests/examples runs them."""

import re
import types
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def is_defined_in(item, module):
    name = getattr(item, "__name__", "_")
    return getattr(item, "__module__", None) == module.__name__ and not name.startswith("_")


def test_every_public_name_is_in_the_docs():
    import flaxzoo as fz

    text = "\n".join(page.read_text("utf-8") for page in PAGES)
    names = []
    for name in fz.__all__:
        names.append(name)
        value = getattr(fz, name)
        if isinstance(value, types.ModuleType):
            public = getattr(value, "__all__", None) or [
                key for key, item in vars(value).items() if is_defined_in(item, value)
            ]
            names += [f"{name}.{key}" for key in public]
    # Type aliases, and the instances behind each module's functions.
    private = re.compile(r"REGISTRY|\w+(Like|Fn)|__version__")
    names = [name for name in names if not private.fullmatch(name.split(".")[-1])]
    assert len(names) > 100
    missing = [name for name in names if not re.search(rf"\b{name.split('.')[-1]}\b", text)]
    assert not missing


def test_relative_links_resolve():
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
