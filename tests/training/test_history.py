import pytest

import flaxzoo as fz


def test_it_reads_like_kerass():
    history = fz.History()
    history.append(0, {"loss": 2.0})
    history.append(1, {"loss": 1.0, "val_loss": 1.5})
    assert history.history == {"loss": [2.0, 1.0], "val_loss": [None, 1.5]}
    assert dict(history) == dict(history.items()) == history.history
    assert list(history.keys()) == list(history) == ["loss", "val_loss"]
    assert list(history.values()) == [[2.0, 1.0], [None, 1.5]]
    assert history.epoch == [0, 1]
    with pytest.raises(AttributeError, match=r"a History has no attribute 'params'. Here: trainer"):
        history.params  # noqa: B018
