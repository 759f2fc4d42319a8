"""What is done along the channels: dealing them out, laying maps out flat."""

import numpy as np
import pytest

from flaxzoo.layers.channels import flattened, shuffled


def test_a_shuffle_takes_one_channel_of_each_group_in_turn():
    x = np.arange(2 * 6.0).reshape(2, 6)
    assert shuffled(x, 2)[0].tolist() == [0, 3, 1, 4, 2, 5]
    assert shuffled(x, 3)[0].tolist() == [0, 2, 4, 1, 3, 5]
    np.testing.assert_array_equal(shuffled(shuffled(x, 2), 3), x)
    np.testing.assert_array_equal(shuffled(x, 1), x)
    maps = np.broadcast_to(x[:, None, None], (2, 3, 4, 6))
    np.testing.assert_array_equal(shuffled(maps, 2)[:, 1, 2], shuffled(x, 2))


def test_a_shuffle_and_a_flat_map_are_pytorch_s():
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).random((2, 3, 5, 8), np.float32)
    theirs = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
    expected = torch.nn.ChannelShuffle(4)(theirs).permute(0, 2, 3, 1)
    np.testing.assert_array_equal(shuffled(x, 4), expected)
    np.testing.assert_array_equal(flattened(x), theirs.flatten(1))
