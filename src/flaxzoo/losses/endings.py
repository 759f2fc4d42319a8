"""Losses that compute a softmax or a sigmoid themselves, and models that end in one already."""

from __future__ import annotations

from flaxzoo.losses.loss import Loss

# The option that says whether the predictions are logits, or None for a loss that always takes
# them, and then the loss of the same meaning that has the option.
_SOFTMAX = {
    "softmax_cross_entropy": (None, "crossentropy"),
    "softmax_cross_entropy_with_integer_labels": (None, "crossentropy"),
    "safe_softmax_cross_entropy": (None, "crossentropy"),
    "poly_loss_cross_entropy": (None, "crossentropy"),
    "crossentropy": ("from_logits", "crossentropy"),
    "dice_loss": ("apply_softmax", "dice_loss"),
    "multiclass_generalized_dice_loss": ("apply_softmax", "multiclass_generalized_dice_loss"),
}
_SIGMOID = {
    "sigmoid_binary_cross_entropy": (None, "binary_crossentropy"),
    "sigmoid_focal_loss": (None, "binary_crossentropy"),
    "binary_crossentropy": ("from_logits", "binary_crossentropy"),
    "binary_dice_loss": ("apply_sigmoid", "binary_dice_loss"),
}


def twice(loss: Loss, ending: str | None) -> str:
    """A sentence for a model that ends in what the loss does once more; nothing for any other.

    Args:
      loss: the loss that the model is trained with.
      ending: ``"softmax"``, ``"log_softmax"``, ``"sigmoid"`` or None.
    """
    losses = _SIGMOID if ending == "sigmoid" else _SOFTMAX
    if ending is None or not loss.registered or loss.name not in losses:
        return ""
    option, name = losses[loss.name]
    if option is not None and not dict(loss.options)[option]:
        return ""
    said = f"the model ends in {ending}, and loss {loss.name!r} takes logits: "
    if ending == "log_softmax":
        return (
            f"{said}it takes the logarithm of the softmax itself, once more without effect. Leave "
            "log_softmax out of the model; probabilities, of a softmax, would go with "
            "loss=flaxzoo.losses.get('crossentropy', from_logits=False)"
        )
    return (
        f"{said}it trains on a {ending} of probabilities, whose gradients nearly vanish. Leave "
        f"{ending} out of the model, or pass "
        f"loss=flaxzoo.losses.get({name!r}, {option or 'from_logits'}=False)"
    )
