import re

import pytest

from flaxzoo.classes import class_ids, class_names
from flaxzoo.errors import UnknownNameError


@pytest.mark.parametrize(("name", "count"), [("imagenet1k", 1000), ("imagenet12k", 11821)])
def test_tables(name, count):
    names, ids = class_names(name), class_ids(name)
    assert len(names) == len(ids) == count
    assert len({n.casefold() for n in names}) == count
    assert len(set(ids)) == count
    assert all(re.fullmatch(r"n\d{8}", i) for i in ids)
    assert all(n == n.strip() and 1 < len(n) <= 80 and n.isprintable() for n in names)


def test_well_known_classes():
    names = class_names("imagenet1k")
    assert names[0] == "tench"
    assert names[281] == "tabby"
    assert names[134] == "crane (bird)"
    assert names[517] == "crane (machine)"
    assert names[999] == "toilet tissue"
    assert class_ids("imagenet1k")[0] == "n01440764"


def test_the_large_table_calls_a_thing_the_same_where_it_can():
    small = dict(zip(class_ids("imagenet1k"), class_names("imagenet1k"), strict=True))
    large = dict(zip(class_ids("imagenet12k"), class_names("imagenet12k"), strict=True))
    shared = small.keys() & large.keys()
    assert len(shared) == 993
    for i in shared:
        assert small[i].partition(" (")[0] == large[i].partition(" (")[0]


def test_unknown_tables():
    with pytest.raises(UnknownNameError, match="'imagenet-1k'.* Did you mean 'imagenet1k'"):
        class_names("imagenet-1k")
    with pytest.raises(KeyError, match="There are: imagenet1k, imagenet12k"):
        class_ids("cifar")
