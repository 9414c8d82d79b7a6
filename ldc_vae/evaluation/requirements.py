"""What an evaluation needs, asked before the training rather than after it."""

from ml_collections import config_dict

from ldc_vae.data import datasets
from ldc_vae.evaluation import classifier
from ldc_vae.evaluation import inception


def check(config: config_dict.ConfigDict, dataset: datasets.Dataset) -> None:
  """Raises if a run's evaluation cannot be done.

  Args:
    config: A validated config.
    dataset: Its data.

  Raises:
    InceptionError: `evaluate.inception` is set and its library or weights are
      missing.
    ValueError: The images are too small for the feature classifier.
  """
  if config.evaluate.inception:
    inception.require()
  if dataset.num_classes:
    classifier.create_network(dataset.image_shape, dataset.num_classes)
