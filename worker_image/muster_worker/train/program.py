"""A file of torch.export, read without running Python from it.

torch reads such a file as if it had made it itself: what it cannot unpickle harmlessly it unpickles otherwise, lengths
are expressions that sympy gives to eval, and the module is source text with the names of the file in it. So torch may
unpickle nothing but tensors while it reads the file, and the file's words are looked at before.
"""

from __future__ import annotations

import json
import os
import re
import threading
import zipfile
from typing import TYPE_CHECKING, Any

import torch

from muster_worker.train.errors import StorageError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

_WEIGHTS_ONLY = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
"""torch.export.load has no argument for it. torch reads the variable with every file."""

_HAS_CODE = re.compile(r"(^|/)(aotinductor/|opaque_obj_)")
"""Names of libraries, which torch loads, and of pickles that it reads by pickle itself."""

_WORD = re.compile(r"[\w.,+<>/@ -]*")
"""Neither called nor quoted."""

_EXPRESSION = re.compile(r"(?:(?!\w*__)\w+|(?<=\d)\.(?=\d)|'\w+'|[-+*/%=<>(),&|~ ])*")
"""Calls of functions by their names, such as Mul(Integer(2), Symbol('s77', integer=True)), and no attributes."""

_UNREAD = {"metadata": dict, "guards_code": list}
"""What the module is not made of: nothing but texts, which whatever else may have such a name is not."""

_QUOTED = {"as_string", "as_strings"}
"""Arguments of operators: wherever these are written, they are quoted."""

_one_at_a_time = threading.Lock()


def load_program(path: Path) -> nn.Module:
    """The program as a module that is ready to be called; raises StorageError."""
    check_program(path)
    try:
        program = _loaded(path)
    except Exception as error:  # whatever torch finds in it
        raise StorageError(f"{path} cannot be read without running Python from it: {_said(error)}") from error
    try:
        # Without the guards that torch 2.9 has put into its forward pass, a third of a small model's time.
        module: nn.Module = program.module(check_guards=False)
    except TypeError:
        module = program.module()
    return module


def check_program(path: Path) -> None:
    """Raises StorageError where something in the file would be run, and names it."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if len({name.lower() for name in names}) < len(names):
                raise StorageError(f"{path}: found two files of one name in it, wanted what torch.export.save writes")
            for name in filter(_HAS_CODE.search, names):
                raise StorageError(f"{path}: found {name} in it, wanted no code")
            for name in names:
                if name.endswith(".json"):
                    _check_words(json.loads(archive.read(name)), "", f"{path}: found in {name}")
    except (zipfile.BadZipFile, ValueError, OSError, RecursionError) as error:
        raise StorageError(f"{path} is no file of torch.export: {error}") from error


def _check_words(found: Any, key: str, where: str) -> None:
    if isinstance(found, dict):
        for name, value in found.items():
            _check_words(name, "", where)
            if not (name in _UNREAD and _is_of_texts(value, _UNREAD[name])):
                _check_words(value, name, where)
    elif isinstance(found, list):
        for value in found:
            _check_words(value, key, where)
    elif isinstance(found, str) and key not in _QUOTED:
        if key != "expr_str" and found[:1] in ("[", "{", '"'):  # how trees of inputs and outputs are written
            _check_words(json.loads(found), key, where)
        elif not (_EXPRESSION if key == "expr_str" else _WORD).fullmatch(found):
            raise StorageError(f"{where} {key or 'a name'}: {found[:200]!r}, wanted nothing that can be run")


def _is_of_texts(value: Any, kind: type) -> bool:
    content = value.values() if isinstance(value, dict) else value
    return isinstance(value, kind) and all(isinstance(one, str) for one in content)


def _loaded(path: Path) -> torch.export.ExportedProgram:
    """Whoever reads another file by torch meanwhile is as restricted."""
    with _one_at_a_time:
        before = os.environ.get(_WEIGHTS_ONLY)
        os.environ[_WEIGHTS_ONLY] = "1"
        try:
            return torch.export.load(path)
        finally:
            del os.environ[_WEIGHTS_ONLY]
            if before is not None:
                os.environ[_WEIGHTS_ONLY] = before


def _said(error: Exception) -> str:
    """Its first line, or of an unpickler's advice the line that says what it found."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return next((line for line in lines if "GLOBAL" in line), lines[0])
