"""The licences of pretrained weights: one table of what each allows.

The names are those of the Hub's model cards, which the catalogue repeats as timm states them.
"""

from __future__ import annotations

import dataclasses
import fnmatch

from flaxzoo._checks import as_choice


class LicenceWarning(UserWarning):
    """The weights that were asked for may not be used for everything."""


@dataclasses.dataclass(frozen=True)
class Licence:
    """What a licence allows.

    Attributes:
      name: as the catalogue writes it.
      commercial: whether the weights may be used commercially; False also where nobody has said.
      terms: what it means for a user, in one phrase.
      url: of its text.
    """

    name: str
    commercial: bool
    terms: str
    url: str = ""


LICENCES: dict[str, Licence] = {
    licence.name: licence
    for licence in (
        Licence(
            "apache-2.0",
            True,
            "any use; keep the notice",
            "https://www.apache.org/licenses/LICENSE-2.0",
        ),
        Licence(
            "bsd-3-clause",
            True,
            "any use; keep the notice, do not advertise with the authors' names",
            "https://opensource.org/license/bsd-3-clause",
        ),
        Licence("mit", True, "any use; keep the notice", "https://opensource.org/license/mit"),
        Licence(
            "cc-by-4.0",
            True,
            "any use; name the authors and say what you changed",
            "https://creativecommons.org/licenses/by/4.0/",
        ),
        Licence(
            "cc-by-nc-4.0",
            False,
            "no commercial use; name the authors",
            "https://creativecommons.org/licenses/by-nc/4.0/",
        ),
        Licence(
            "dinov3-license",
            True,
            "commercial use within Meta's terms; pass them on with the weights",
            "https://ai.meta.com/resources/models-and-libraries/dinov3-license/",
        ),
        Licence(
            "gemma",
            True,
            "commercial use within Google's terms, which forbid some uses; pass them on with the "
            "weights",
            "https://ai.google.dev/gemma/terms",
        ),
        Licence(
            "sapiens2-license",
            False,
            "Meta's own terms; read them before any use, and pass them on with the weights",
            "https://github.com/facebookresearch/sapiens2/blob/main/LICENSE.md",
        ),
        Licence(
            "seer-license",
            False,
            "Meta's own terms; read them before any use, and pass them on with the weights",
            "https://github.com/facebookresearch/vissl/blob/main/projects/SEER/MODEL_LICENSE.md",
        ),
        Licence(
            "fair-noncommercial-research-license",
            False,
            "noncommercial research only, within Meta's terms; pass them on with the weights",
            "https://huggingface.co/facebook/fair-noncommercial-research-license/blob/main/LICENSE",
        ),
        Licence(
            "apple-ascl",
            True,
            "any use; keep the notice, do not advertise with Apple's name; no patents are licensed",
        ),
        Licence(
            "nvidia-open-model-license",
            True,
            "commercial use within NVIDIA's terms; keep the notice",
            "https://www.nvidia.com/en-us/agreements/enterprise-software/nvidia-open-model-license/",
        ),
        Licence(
            "fastvit-license",
            False,
            "Apple's own terms; read them before any use, and pass them on with the weights",
            "https://github.com/apple/ml-fastvit/blob/main/LICENSE",
        ),
        Licence(
            "mobileone-license",
            False,
            "Apple's own terms; read them before any use, and pass them on with the weights",
            "https://github.com/apple/ml-mobileone/blob/main/LICENSE",
        ),
        Licence(
            "cvnets-license",
            False,
            "Apple's own terms; read them before any use, and pass them on with the weights",
            "https://github.com/apple/ml-cvnets/blob/main/LICENSE",
        ),
        Licence("apple-amlr", False, "for research alone; read the model card"),
        Licence("other", False, "terms of their own; read the model card"),
        Licence("unknown", False, "nobody has said; ask the authors before you rely on them"),
    )
}

_KINDS = ("commercial", "restricted")


def licence_of(name: str) -> Licence:
    """What is known of a licence; one that is not in the table restricts, to be safe."""
    return LICENCES.get(name) or Licence(name, False, "terms of their own; read the model card")


def has_licence(name: str, wanted: str) -> bool:
    """Whether a licence is of a kind or of a name.

    Args:
      name: the licence of some weights.
      wanted: ``"commercial"`` for all that allow commercial use, ``"restricted"`` for all others,
        or a glob over the names, such as ``"cc-*"``.

    Raises:
      ValueError: ``wanted`` is neither, and no licence in the table has such a name.
    """
    if wanted == "commercial":
        return licence_of(name).commercial
    if wanted == "restricted":
        return not licence_of(name).commercial
    if not isinstance(wanted, str) or not fnmatch.filter(LICENCES, wanted):
        as_choice("licence", wanted, (*_KINDS, *LICENCES))
    return fnmatch.fnmatchcase(name, wanted)
