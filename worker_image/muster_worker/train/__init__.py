"""Training of recipes: what an author of a recipe imports. Importing it does not import torch.

>>> from muster_worker.train import Config, Recipe, setting
"""

from muster_worker.train.config import Config, setting
from muster_worker.train.errors import ConfigurationError, StorageError, TrainingError
from muster_worker.train.language_model import LanguageModel
from muster_worker.train.recipe import Recipe

__all__ = ["Config", "ConfigurationError", "LanguageModel", "Recipe", "StorageError", "TrainingError", "setting"]
