"""Images as patches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flaxzoo.errors import ShapeError
from flaxzoo.layers.conv import Conv, as_pair
from flaxzoo.layers.initializers import FanIn, HeNormal, plain_bias, zeros
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.norm import call_norm, make_norm
from flaxzoo.layers.pos_embed import resize_weights


class PatchEmbed(Layer):
    """Images to a grid of tokens, by one convolution ``proj`` whose windows do not overlap.

    Dosovitskiy et al. 2020, https://arxiv.org/abs/2010.11929. Parameters are named as timm's
    ``PatchEmbed``.

    Attributes:
      features: the width of a token.
      patch_size: the height and width of a patch, or one number for both.
      use_bias: whether the convolution has a bias.
      norm: the normalisation of the tokens, a submodule ``norm``, by name or module
        (``flaxzoo.layers.norm``); None for none.
      norm_epsilon: the epsilon of this normalisation; None for its own.
      pad: whether images are filled up with zeros, below and at the right, to whole patches.
      kernel_init: the initialiser of the kernel ``[height, width, C, features]``, by default that
        of PyTorch's convolutions.
      bias_init: that of the bias, likewise.
    """

    features: int
    patch_size: int | Sequence[int] = 16
    use_bias: bool = True
    norm: Any = None
    norm_epsilon: float | None = None
    pad: bool = False
    kernel_init: Any = FanIn()
    bias_init: Any = plain_bias

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / height, W / width, features]``.

        Args:
          x: images.
          train: whether a BatchNorm uses the batch's statistics.

        Raises:
          ShapeError: the images are not of rank 4, or not of whole patches and ``pad`` is false.
        """
        size = as_pair("patch_size", self.patch_size)
        inits = {"kernel_init": self.kernel_init, "bias_init": self.bias_init}
        options = {"use_bias": self.use_bias, **inits, **self.dtypes}
        x = self._whole(x, size)
        x = Conv(self.features, size, stride=size, padding=0, name="proj", **options)(x)
        if self.norm is None:
            return x
        norm = make_norm(self.norm, "norm", epsilon=self.norm_epsilon, **self.dtypes)
        return call_norm(norm, x, train=train)

    @nn.nowrap
    def _whole(self, x: jax.Array, size: tuple[int, int]) -> jax.Array:
        """Returns the images, of whole patches."""
        if x.ndim != 4:
            raise ShapeError(f"images must have shape [B, H, W, C], got {list(x.shape)}")
        missing = [-length % n for length, n in zip(x.shape[1:3], size, strict=True)]
        if self.pad:
            return jnp.pad(x, ((0, 0), (0, missing[0]), (0, missing[1]), (0, 0)))
        if any(missing) or 0 in x.shape[1:3]:
            raise ShapeError(
                f"height and width of images must be multiples of those of patches, {size[0]} and "
                f"{size[1]}, got {list(x.shape)}; pad=True fills them up with zeros"
            )
        return x


class OverlapPatchEmbed(Layer):
    """Images or maps to smaller maps, by one convolution ``proj`` whose windows overlap.

    Parameters are named as those of timm's ``PatchEmbed`` in ``hiera`` and ``mvitv2`` and
    ``OverlapPatchEmbed`` in ``pvt_v2``.

    Attributes:
      features: the channels of the map.
      kernel_size: the height and width of the convolution's kernel.
      stride: by how much the map is smaller than what it is of.
      norm: the normalisation of the map, a submodule ``norm``, by name or module
        (``flaxzoo.layers.norm``); None for none.
      norm_epsilon: the epsilon of this normalisation; None for its own.
      kernel_init: the initialiser of the kernel ``[height, width, C, features]``.
      bias_init: that of the bias.
    """

    features: int
    kernel_size: int = 3
    stride: int = 2
    norm: Any = None
    norm_epsilon: float | None = None
    kernel_init: Any = HeNormal()
    bias_init: Any = zeros

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, ceil(H / stride), ceil(W / stride), features]``.

        Args:
          x: images or maps; the size is that of an odd kernel.
          train: whether a BatchNorm uses the batch's statistics.
        """
        inits = {"kernel_init": self.kernel_init, "bias_init": self.bias_init}
        options: dict[str, Any] = {"use_bias": True, **inits, **self.dtypes}
        x = Conv(self.features, self.kernel_size, self.stride, name="proj", **options)(x)
        if self.norm is None:
            return x
        norm = make_norm(self.norm, "norm", epsilon=self.norm_epsilon, **self.dtypes)
        return call_norm(norm, x, train=train)


def check_image_size(x: jax.Array, input_shape: Sequence[int], instead: str = "") -> None:
    """Raises ShapeError for images of another height or width than a network is for.

    Args:
      x: images ``[B, H, W, C]``.
      input_shape: ``[H, W, C]`` of the network's.
      instead: what else to do, for the message.
    """
    if tuple(x.shape[1:3]) != tuple(input_shape[:2]):
        raise ShapeError(
            f"images must be of {input_shape[0]} x {input_shape[1]}, got {list(x.shape)}: give "
            f"get() their input_shape={instead}"
        )


def resample_kernel(
    kernel: np.ndarray, size: Sequence[int], *, method: str = "bicubic"
) -> np.ndarray:
    """Returns the kernel of a patch embedding for patches of another size.

    Beyer et al. 2022 (FlexiViT, section 3.4), https://arxiv.org/abs/2212.08013: a patch that is
    enlarged and embedded by the new kernel gives the token that it gave, and one that is made
    smaller gives as near a token as there is. The old kernel is multiplied by the pseudo-inverse of
    the resize, which along both axes is the product of those along each. ``resample_patch_embed``
    of timm is the same.

    Args:
      kernel: ``[height, width, C, features]``.
      size: the height and width wanted.
      method: of the resize: ``"bicubic"`` or ``"bilinear"``; see
        ``flaxzoo.layers.pos_embed.resample_positions``.

    Returns:
      ``[*size, C, features]`` of the same dtype, computed in float32.

    Raises:
      ValueError: there is no such ``method``.
    """
    weights = resize_weights(method)
    old, new = tuple(kernel.shape[:2]), tuple(size)
    if old == new:
        return kernel
    down, right = (_pseudo_inverse(weights(m, n)) for m, n in zip(old, new, strict=True))
    wide = np.einsum("vx,hvio->hxio", right, kernel.astype(np.float32))
    return np.einsum("hy,hxio->yxio", down, wide).astype(kernel.dtype)


def _pseudo_inverse(matrix: np.ndarray) -> np.ndarray:
    # Single precision, in which the weights of a resize are known, decides what is zero.
    limit = max(matrix.shape) * np.finfo(np.float32).eps
    return np.linalg.pinv(matrix.astype(np.float64), rcond=float(limit)).astype(np.float32)


class PatchDropout(nn.Dropout):
    """Leaves some of the patches out while training, the same number of each example.

    Li et al. 2022 (FLIP), https://arxiv.org/abs/2212.00794. It is a ``flax.linen.Dropout``, whose
    ``rate``, ``deterministic`` and key ``"dropout"`` it has; but dropped tokens are gone, and
    nothing is scaled.

    Attributes:
      prefix_tokens: how many tokens at the beginning always stay.
      ordered: whether the patches that stay keep their order.
    """

    prefix_tokens: int = 1
    ordered: bool = False

    @nn.compact
    def __call__(
        self, inputs: jax.Array, deterministic: bool | None = None, rng: jax.Array | None = None
    ) -> jax.Array:
        """Drops tokens from ``[B, N, C]``.

        Args:
          inputs: tokens.
          deterministic: whether all stay, as in inference.
          rng: a key; None takes the one of the collection.

        Returns:
          ``[B, K, C]``, where ``1 - rate`` of the patches, at least one, are kept.
        """
        deterministic = nn.merge_param("deterministic", self.deterministic, deterministic)
        if self.rate == 0 or deterministic:
            return inputs
        if rng is None:
            rng = self.make_rng(self.rng_collection)
        prefix, patches = inputs[:, : self.prefix_tokens], inputs[:, self.prefix_tokens :]
        count = max(1, int(patches.shape[1] * (1 - self.rate)))
        order = jnp.argsort(jax.random.uniform(rng, patches.shape[:2]), axis=1)[:, :count]
        if self.ordered:
            order = jnp.sort(order, axis=1)
        kept = jnp.take_along_axis(patches, order[..., None], axis=1)
        return jnp.concatenate([prefix, kept], axis=1)
