"""How an architecture's parameters relate to those of its reference checkpoints."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

# A leaf of the weights, the shape that the model wants, its backbone, and the height and width of
# the images that the weights (None: not known) and the model are for.
Resize = Callable[[Any, tuple[int, ...], Any, tuple[int, int] | None, tuple[int, int]], Any]


@dataclasses.dataclass(frozen=True)
class Reference:
    """What a family adds to the rule of ``flaxzoo.weights.names``.

    Attributes:
      stem: paths in the backbone that its first convolution may have; whichever exists has its
        kernel adapted to the number of input channels.
      classifier: the reference's name of ``head/fc``, the layer that another number of classes
        exchanges (that of a distilled head's ``fc_dist`` stands in ``head``).
      head: from the paths of other modules in ``head`` to the reference's names, such as
        ``("norm", "head.norm")``.
      renamed: pairs of a regular expression and the reference's name, for parts of a path in the
        backbone that the rule does not give: one submodule (``ln_1`` is no index in a list) or
        several joined by ``/``. The name may hold groups, as ``re.Match.expand`` takes them.
      layouts: pairs of a glob over our paths, such as ``"*/c_attn/kernel"``, and the name of the
        layout that the reference keeps the leaf in; see ``flaxzoo.weights.layouts``.
      leaves: pairs of a glob over our paths and the reference's name of the leaf, where it is not
        the rule's: ``("*/act/scale", "scale")``.
      convert: called with the reference's tensors by name and the backbone, returns those of
        today's names: for files that are older than the reference's code.
      ignored: globs of reference names that no leaf of ours takes.
      resized: pairs of a glob over our paths and a function that fits the leaf to images of
        another size: position embeddings, tables of relative positions. The size of the images that
        the weights are for comes in the model's patches, if theirs are of another size.
      patches: the path in the backbone of the convolution whose kernel sees a patch, and the
        function that fits this to another ``patch_size``, such as
        ``flaxzoo.layers.patch_embed.resample_kernel``; None where it can't be fitted.
      gain: how large the random kernels are in comparisons with the reference
        (``flaxzoo.weights.synthetic``).
      scales: pairs of a glob over the reference's names and a number that these tensors are
        multiplied by there.
      options: keywords, as pairs, with which the reference makes what its published weights want,
        where that is not what it makes by default.
      former_classifiers: names of ``classifier`` in the files that ``convert`` takes: before the
        model is built they say how many classes there are.
      fused: globs of the reference's names of tensors that only the form of inference has
        (``flaxzoo.Model.reparameterize``).
      stem_pixels: how many pixels the first convolution sees as one, all channels of each together.
      auxiliary: paths in the backbone of the last layers of auxiliary classifiers, such as
        ``"AuxLogits/fc"`` (``flaxzoo.layers.auxiliary``): weights may lack these modules, and the
        layers are exchanged with the classifier.
      package: whose network of the name it is, ``"timm"`` or ``"torchvision"``. Of torchvision's
        the feature maps are what the submodules of their names compute.
    """

    stem: tuple[str, ...] = ()
    classifier: str = "fc"
    head: tuple[tuple[str, str], ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()
    layouts: tuple[tuple[str, str], ...] = ()
    leaves: tuple[tuple[str, str], ...] = ()
    convert: Callable[[Mapping[str, Any], Any], Mapping[str, Any]] | None = None
    ignored: tuple[str, ...] = ("*.num_batches_tracked",)
    resized: tuple[tuple[str, Resize], ...] = ()
    patches: tuple[str, Callable[[Any, tuple[int, int]], Any]] | None = None
    gain: float = 2.0
    scales: tuple[tuple[str, float], ...] = ()
    options: tuple[tuple[str, Any], ...] = ()
    former_classifiers: tuple[str, ...] = ()
    fused: tuple[str, ...] = ()
    stem_pixels: int = 1
    auxiliary: tuple[str, ...] = ()
    package: str = "timm"

    @property
    def random(self) -> dict[str, Any]:
        """The keywords of random tensors for comparisons (``flaxzoo.weights.synthetic``)."""
        return {"gain": self.gain, "scales": self.scales}

    def head_name(self, path: str) -> str | None:
        """The reference's name of a module below ``head``; None if it is not one of its own."""
        for ours, name in (("fc", self.classifier), *self.head):
            if path == ours or path.startswith(f"{ours}/"):
                return (name + path[len(ours) :]).replace("/", ".")
        return None
