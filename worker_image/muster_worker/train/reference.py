"""From the text `module:Class` to a recipe, with errors that say which half is wrong."""

from __future__ import annotations

import importlib
import inspect
import json
from typing import TYPE_CHECKING, Any

from muster_worker.train.config import parse_config
from muster_worker.train.errors import ConfigurationError
from muster_worker.train.recipe import Recipe

if TYPE_CHECKING:
    from types import ModuleType

FIELD = "spec.recipe.name"


def load_recipe(reference: str, config: str) -> Recipe:
    """The recipe `reference` names, configured by the JSON object `config`; raises ConfigurationError."""
    recipe_type = recipe_class(reference)
    try:
        values = json.loads(config or "{}")
    except json.JSONDecodeError as error:
        raise ConfigurationError(
            f"spec.recipe.config: found text that is no JSON ({error}), wanted an object"
        ) from error
    if not isinstance(values, dict):
        raise ConfigurationError(f'spec.recipe.config: found {config}, wanted an object such as {{"epochs": 10}}')
    return recipe_type(parse_config(recipe_type.config_type, values))


def recipe_class(reference: str) -> type[Recipe]:
    """The class `module:Class` names; imports the module. Raises ConfigurationError."""
    module_name, colon, class_name = reference.partition(":")
    if not (module_name and colon and class_name.isidentifier()):
        raise ConfigurationError(
            f"{FIELD}: found {reference!r}, wanted module:Class such as muster_worker.recipes.digits:Digits"
        )
    module = _imported(module_name, reference)
    found: Any = getattr(module, class_name, None)
    if found is None:
        raise ConfigurationError(f"{FIELD}: module {module_name!r} has no {class_name!r}, wanted {_recipes_of(module)}")
    if not (inspect.isclass(found) and issubclass(found, Recipe)):
        raise ConfigurationError(
            f"{FIELD}: {reference} is no recipe, wanted a class that inherits from muster_worker.train.Recipe"
        )
    missing = sorted(getattr(found, "__abstractmethods__", ()))
    if missing:
        raise ConfigurationError(f"{FIELD}: {reference} lacks the methods {', '.join(missing)}")
    return found


def _imported(module_name: str, reference: str) -> ModuleType:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name + ".").startswith(error.name + "."):
            raise ConfigurationError(
                f"{FIELD}: {module_name!r} needs the module {error.name!r}, which is not in the image"
            ) from error
        raise ConfigurationError(
            f"{FIELD}: no module {error.name!r} for {reference!r}: it must be in the image, "
            "or in the ConfigMap that spec.source.configMap names"
        ) from error


def _recipes_of(module: ModuleType) -> str:
    names = [
        name
        for name, value in vars(module).items()
        if inspect.isclass(value) and issubclass(value, Recipe) and value.__module__ == module.__name__
    ]
    return (
        f"one of its recipes: {', '.join(names)}" if names else "a class that inherits from muster_worker.train.Recipe"
    )
