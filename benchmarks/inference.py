"""A forward pass in inference mode against other libraries.

The works and the candidates are those of `train_step.py`. flaxzoo is called as `model(x)`, Keras
through `predict_on_batch`; the Linen models of others get a jitted `apply`; torch runs under
`inference_mode`, eager and channels last. Every call is waited for. Before anything is timed the
logits of all that start from the same weights are compared.
"""

from __future__ import annotations

from _steps import main

if __name__ == "__main__":
    main("inference", __doc__)
