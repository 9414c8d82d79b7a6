"""A check, before the training, that the evaluation after it is possible."""

from ml_collections import config_dict

from ldc_vae.data import datasets
from ldc_vae.evaluation import classifier_net
from ldc_vae.evaluation import inception


def check(config: config_dict.ConfigDict, dataset: datasets.Dataset) -> None:
  """Raises a `UserError` if the evaluation of a run is not possible.

  Args:
    config: A validated config.
    dataset: The data set of the config.

  Raises:
    InceptionError: `evaluate.inception` is set, but the library or the weights
      are missing.
    UserError: The images are too small for the feature classifier.
  """
  if config.evaluate.inception:
    inception.require()
  if dataset.num_classes:
    classifier_net.create_network(dataset.image_shape, dataset.num_classes)
