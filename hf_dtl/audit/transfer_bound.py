"""How much of the private model can be in a student that heard it through a channel, and what is claimed of it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from hf_dtl.audit import report_fields as kinds
from hf_dtl.errors import DataError
from hf_dtl.functional.channel import channel_bound, parse_channel

_OF = "of the bound of a leakage report"


@dataclass(frozen=True)
class TransferBound:
    """What the private model said while the published one was made; the bits follow from it.

    Args:
        channel: `labels`, `outputs:q`, `outputs` or `features:r`.
        images: that it spoke about.
        classes: that it had words for.
        rejection: whether it could leave out an image.
        rounds: in which it spoke.
        choices: settings that were tried, the best kept.
        base: the public weights that the student started from; None for random ones.

    Raises:
        DataError: a value is of the wrong type or out of its range.
    """

    channel: str
    images: int
    classes: int
    rejection: bool = False
    rounds: int = 1
    choices: int = 1
    base: str | None = None

    def __post_init__(self) -> None:
        kinds.check_fields(
            self, _OF, channel=kinds.TEXT, images=kinds.integer(0), classes=kinds.integer(1), rejection=kinds.FLAG,
            rounds=kinds.integer(1), choices=kinds.integer(1), base=kinds.optional(kinds.TEXT),
        )  # fmt: skip
        try:
            parse_channel(self.channel)
        except ValueError as error:
            raise DataError(f"`channel` {_OF}: {error}") from error
        object.__setattr__(self, "base", kinds.without_folders(self.base))

    @property
    def bits(self) -> float | None:
        """The most of the private model that can be in the published weights; None where nothing bounds it."""
        return self.to_dict()["bits"]

    @property
    def sentence(self) -> str:
        """The claim in words, with what it takes."""
        start = "random weights" if self.base is None else f"the public weights {self.base}"
        told = self.to_dict()
        if told["bits"] is None:
            return (
                f"No bound: these weights are a function of {start}, transfer images, and of what the private model "
                f"said of {self.images:,} images in real numbers (channel {self.channel})."
            )
        return (
            f"At most {told['bytes']:,} bytes of the private model can be in these weights, whatever the attack: they "
            f"are a function of {start}, of images, and of what that model said of {self.images:,} of them in "
            f"{told['bits']:,.0f} bits (channel {self.channel}, {self.classes} classes). This holds as far as these "
            "weights and images are independent of what was forgotten."
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON values, with `bits` and `bytes`."""
        told = asdict(self)
        found = channel_bound(**{name: value for name, value in told.items() if name != "base"})
        return told | ({"bits": None, "bytes": None} if found is None else found._asdict())

    @classmethod
    def from_dict(cls, content: Any) -> "TransferBound":
        """Read what `to_dict` gives, and check that its bits follow from the rest.

        Raises:
            DataError: it is something else.
        """
        kinds.OBJECT(content, "bound", kinds.REPORT)
        assert isinstance(content, Mapping)
        own = {name: value for name, value in content.items() if name not in ("bits", "bytes")}
        try:
            found = cls(**own)
        except TypeError as error:
            raise DataError(f"`bound` {kinds.REPORT} cannot be read: {error}.") from error
        told = {**content, "base": kinds.without_folders(content.get("base"))}
        if said := kinds.difference(told, found.to_dict()):
            raise DataError(f"`bound` {kinds.REPORT} says {said} as its images and classes give.")
        return found
