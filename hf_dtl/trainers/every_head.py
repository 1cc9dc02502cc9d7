"""A trainer whose result is a model of several tasks: every head is saved."""

import os
from typing import Any


class SavesEveryHead:
    """What trainers of a `MultiHeadClassifier` share that keep all its heads; it stands before a `Trainer`."""

    args: Any
    accelerator: Any
    model: Any
    processing_class: Any

    def save_model(self, output_dir: str | os.PathLike | None = None, _internal_call: bool = False) -> None:
        """Write backbone and every head, as `MultiHeadClassifier.load` reads them, and the processor."""
        if _internal_call:
            super().save_model(output_dir, _internal_call=True)  # type: ignore[misc]
        elif self.args.should_save:
            output_dir = output_dir or self.args.output_dir
            self.accelerator.unwrap_model(self.model).save(output_dir)
            if self.processing_class is not None:
                self.processing_class.save_pretrained(output_dir)
