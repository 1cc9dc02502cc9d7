"""Default learning rates and passes by model size: large pre-trained models need smaller steps, and fewer of them.

The rates of the built-in ViT (0.3 M parameters) hold up to 2 M. Beyond that they fall with the size to the power 0.6,
to one significant digit: training (1e-3), adaptation (5e-4) and disposal of a whole task (2e-3) come to 1e-4, 5e-5 and
2e-4 for a ViT-B of 86 M parameters, where full fine-tuning by AdamW is known to work, and to 2e-4, 1e-4 and 5e-4 for a
ViT-S of 22 M. 1e-5 is the least.
"""

SMALL = 2_000_000
"""Parameters up to which the small model's numbers hold."""
VIT_B = 86_000_000
TRAIN, ADAPT, DISPOSE, UNLEARN = 1e-3, 5e-4, 2e-3, 5e-4
"""The small model's rates: for training and retraining, adaptation to the target, disposal of a whole task, and of a
part of one or of some of several."""
_LEAST = 1e-5
_STEPS = 500
_PASSES = 3


def rate(small: float, parameters: int) -> float:
    """Scale a rate that suits the small model to a model's size.

    Args:
        small: the small model's, > 0.
        parameters: of the model, >= 0.

    Returns:
        The same up to 2 M parameters; else a smaller one, at least 1e-5.

    Example:
        >>> rate(ADAPT, 300_000), rate(ADAPT, VIT_B), rate(TRAIN, VIT_B)
        (0.0005, 5e-05, 0.0001)
    """
    if parameters <= SMALL:
        return small
    return min(small, max(_LEAST, float(f"{small * (SMALL / parameters) ** 0.6:.0e}")))


def passes(small: float, parameters: int, steps_a_pass: int) -> float:
    """Bound the passes over the data that suit the small model, by a model's size.

    A large model comes pre-trained, and each pass costs: 500 steps are enough for small data (as in BiT's rule, arXiv
    1912.11370), and three passes for large data.

    Args:
        small: the small model's, >= 0.
        parameters: of the model.
        steps_a_pass: optimizer steps that one pass takes, >= 1.

    Returns:
        The same up to 2 M parameters; else at most as many as make 500 steps, or three if that is more.

    Example:
        >>> passes(200, 300_000, 1), passes(200, VIT_B, 1), passes(200, VIT_B, 50), passes(16, VIT_B, 900)
        (200, 200, 10, 3)
    """
    return small if parameters <= SMALL else min(small, max(_PASSES, -(-_STEPS // steps_a_pass)))
