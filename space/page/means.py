"""Class means of a model's features: which classes an image is like, whatever the head says."""

import copy

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hf_dtl.audit.classifiers import predict
from hf_dtl.models.heads import MultiHeadClassifier
from page.tasks import Tasks


class ClassMeans:
    """Mean feature of every source and target class in one model.

    Features are standardised by all images together and brought to length 1, so that likeness is a cosine in -1..1.

    Args:
        model: the classifier; not changed.
        tasks: images that the means are taken of, and others that test them.
    """

    def __init__(self, model: PreTrainedModel, tasks: Tasks):
        self.classes = tasks.classes
        self._heads = MultiHeadClassifier(copy.deepcopy(model), task="own").eval()
        features = predict(self._heads.features, tasks.means.pixel_values)
        self._center, self._scale = features.mean(0), features.std(0) + 1e-6
        directions = self._directions(features)
        means = torch.stack([directions[tasks.means.labels == label].mean(0) for label in range(len(tasks.classes))])
        self._means = torch.nn.functional.normalize(means, dim=1)
        nearest = self.likeness(tasks.tests.pixel_values).argmax(1)
        source = tasks.tests.labels < tasks.sources
        self.known = (nearest == tasks.tests.labels)[source].float().mean().item()
        """Share of test images of the source classes whose nearest class mean is their own, in 0..1."""

    def _directions(self, features: Tensor) -> Tensor:
        return torch.nn.functional.normalize((features - self._center) / self._scale, dim=1)

    def likeness(self, pixel_values: Tensor) -> Tensor:
        """Cosines (images, classes) between the features of images and the class means."""
        return self._directions(predict(self._heads.features, pixel_values)) @ self._means.T
