"""The other attacks together: their answers are averaged, with votes that are given on validation images."""

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

from torch import Tensor

from hf_dtl.audit.answer_store import Answers
from hf_dtl.audit.attacks.attack import Attack, TrainedAttack, Unit
from hf_dtl.audit.attacks.choice import share_right
from hf_dtl.audit.attacks.context import AttackContext
from hf_dtl.audit.attacks.registry import register_attack
from hf_dtl.errors import ConfigError
from hf_dtl.functional import elect


@register_attack("committee", "The other attacks' answers averaged, with votes given on validation images.")
class Committee(Attack):
    """The other attacks' answers averaged, with votes given on validation images.

    One election for a model and a budget, on the first draws of images, which all attacks take part in; its members
    are the attacks that go on to the other draws. It trains nothing itself.

    Args:
        rounds: most votes, see `elect`.
    """

    rounds: int = 12

    of_others: ClassVar[bool] = True
    source: ClassVar[str] = "Caruana et al., Ensemble Selection from Libraries of Models, ICML 2004"

    def train(self, context: AttackContext, units: Sequence[Unit]) -> Iterator[TrainedAttack]:
        raise ConfigError(f"The attack {self.name} is made of others: run it in an audit together with them.")

    def members(self, answers: Mapping[str, Sequence[Answers]], labels: Tensor, most: int | None) -> tuple[str, ...]:
        """The elected attacks, one as often as it has votes.

        Args:
            answers: of every attack in each of the first draws.
            labels: of the validation images.
            most: most different members; None bounds nothing.
        """
        given = {name: [draw.validation for draw in draws] for name, draws in answers.items()}
        return elect(given, labels.cpu(), rounds=self.rounds, most=most)

    @staticmethod
    def reached(votes: Sequence[Answers], validation: Tensor, test: Tensor) -> tuple[float, float]:
        """Accuracy of the averaged answers on the validation and on the test images, whose labels are given."""
        summed = [sum(own.double() for own in split) for split in zip(*votes, strict=True)]
        return share_right(summed[0], validation), share_right(summed[1], test)
