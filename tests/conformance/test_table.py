"""That every family of the package is in the table."""

import pytest
from conformance.families import FAMILIES, every, get, only

from flaxzoo.models.registry import families


@pytest.mark.family(*families())
def test_every_family_has_a_row():
    missing = set(families()) - set(FAMILIES)
    assert not missing, (
        f"{', '.join(sorted(missing))}: add a row with a tiny configuration to "
        "tests/conformance/families.py"
    )
    assert not set(FAMILIES) - set(families())


@only(every)
def test_a_row_is_of_its_family(family):
    row = FAMILIES[family]
    assert row.architecture.family == f"flaxzoo.models.{family}"


@only(every)
def test_a_row_is_tiny(family):
    model = get(family)
    assert model.summary().parameters < 50_000
    assert model.module == get(family).module
    assert hash(model.module) == hash(get(family).module)
