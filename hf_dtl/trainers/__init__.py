"""Trainers: what every method shares, on two streams of images."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "config": ["UnlearningConfig"],
        "multitask_training": [
            "MultiTaskTrainer",
            "MultiTaskTrainingConfig",
            "measure_tasks",
            "predict_tasks",
            "with_task_heads",
        ],
        "request": ["Request"],
        "trainer": ["UnlearningTrainer"],
    },
)
