"""A check, before the training, that the evaluation after it is possible."""

from types import ModuleType

from ml_collections import config_dict

from ldc_vae.data import datasets
from ldc_vae.evaluation import classifier_net
from ldc_vae.evaluation import imagenet
from ldc_vae.evaluation import inception

# Networks that others trained, by their switch in `config.evaluate`. Each has
# `require`, `load` and `PROTOCOL`, and a distance frechet_NAME.
NETWORKS: dict[str, ModuleType] = {'inception': inception, 'imagenet': imagenet}


def chosen_networks(config: config_dict.ConfigDict) -> dict[str, ModuleType]:
  """Returns those of `NETWORKS` that a config asks for."""
  return {
    name: module for name, module in NETWORKS.items() if config.evaluate[name]
  }


def check(config: config_dict.ConfigDict, dataset: datasets.Dataset) -> None:
  """Raises a `UserError` if the evaluation of a run is not possible.

  Args:
    config: A validated config.
    dataset: The data set of the config.

  Raises:
    UserError: A network is asked for whose library or weights are missing, or
      the images are too small for the feature classifier.
  """
  for network in chosen_networks(config).values():
    network.require()
  if dataset.num_classes:
    classifier_net.create_network(dataset.image_shape, dataset.num_classes)
