import re

import pytest

from flaxzoo._checks import check_choice


def test_one_of_a_few_names():
    check_choice("stem", "patch", ("patch", "overlap"))
    message = "stem must be one of 'patch', 'overlap', got 'pach'. Did you mean 'patch'?"
    with pytest.raises(ValueError, match=re.escape(message)):
        check_choice("stem", "pach", ("patch", "overlap"))
    message = "block must be one of 'basic' or a class, got None."
    with pytest.raises(ValueError, match=re.escape(message)):
        check_choice("block", None, ("basic",), " or a class")
