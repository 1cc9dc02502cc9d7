"""Trainers: what every method shares, on two streams of images."""

import lazy_loader

_PUBLIC = {
    "batch_statistics": ["BatchStatisticsConfig", "BatchStatisticsTrainer"],
    "chunks": ["Chunk", "Disposal"],
    "config": ["DISPOSAL", "RETENTION", "UnlearningConfig", "WholeBatchConfig"],
    "multitask_training": [
        "MultiTaskTrainer",
        "MultiTaskTrainingConfig",
        "measure_tasks",
        "predict_tasks",
        "with_task_heads",
    ],
    "option_fields": ["check_options", "option", "refused"],
    "probes": ["ProbeConfig", "ProbedTrainer"],
    "projection": ["ProjectingTrainer", "ProtectionOptions"],
    "request": ["ScenarioKind", "Request"],
    "saving": ["SavingTrainer"],
    "stopping": ["StopRule", "StopWhenForgotten"],
    "streams": ["Chunking", "PairedStreams", "labels_of"],
    "trainer": ["UnlearningTrainer"],
}
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs=_PUBLIC)
