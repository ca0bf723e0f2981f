"""Names in a user's own file: found, run once, and refused in words."""

from __future__ import annotations

import logging
import math
import sys
from pathlib import Path

import pytest

from gracile.core.errors import InputError
from gracile.core.user_code import imported, is_reference, known_of, load_name, made
from gracile.deploy import from_file


def write(folder: Path, text: str, name: str = "mine.py") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def test_a_function_of_a_file_is_found(tmp_path: Path) -> None:
    make = load_name(write(tmp_path, "def make():\n    return 7\n") + ":make")
    assert callable(make)
    assert make() == 7


def test_running_code_is_said_and_done_once_for_two_names_of_a_file(tmp_path: Path, caplog) -> None:
    file = write(tmp_path, "class A: ...\nclass B(A): ...\n")
    with caplog.at_level(logging.INFO, "gracile"):
        a, b = load_name(f"{file}:A"), load_name(f"{file}:B")
    assert isinstance(a, type)
    assert isinstance(b, type)
    assert issubclass(b, a)
    assert [record.getMessage() for record in caplog.records] == [f"running the code of {file}"]


def test_a_file_that_changed_is_run_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a second and at the same length too, where Python takes the bytecode it keeps for current."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    assert load_name(write(tmp_path, "value = 1\n") + ":value") == 1
    assert load_name(write(tmp_path, "value = 2\n") + ":value") == 2
    assert not (tmp_path / "__pycache__").exists()


def test_two_files_of_the_same_name_are_two_modules(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    one, two = write(tmp_path, "class A: ...\n"), write(tmp_path / "other", "class A: ...\n")
    assert load_name(f"{one}:A") is not load_name(f"{two}:A")


def test_a_module_beside_the_file_can_be_imported_from_it(tmp_path: Path) -> None:
    write(tmp_path, "value = 3\n", "beside_the_users_file.py")
    assert load_name(write(tmp_path, "from beside_the_users_file import value\n") + ":value") == 3


@pytest.mark.parametrize(("text", "name", "message"), [
    ("def make(): ...\n", "mke", "defines no 'mke'. Did you mean 'make'"),
    ("from math import pi\n", "make", "Define make in it"),
    ("import nowhere_at_all\n", "make", "line 1: ModuleNotFoundError"),
    ("\ndef broken(:\n", "broken", "SyntaxError: invalid syntax (mine.py, line 2)"),
    ("import sys\nsys.exit(3)\n", "make", "line 2: SystemExit"),
])  # fmt: skip
def test_what_a_file_cannot_give_is_said_in_words(tmp_path: Path, text: str, name: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        load_name(f"{write(tmp_path, text)}:{name}")
    assert message in str(caught.value)


@pytest.mark.parametrize("text", ["net.py", "net.py:", "net:make", "net.py:a b", "resnet20", "nowhere.py:make"])
def test_what_is_no_reference_or_no_file_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        load_name(text)


def test_references_are_told_from_names() -> None:
    assert is_reference("a/net.py:make")
    assert not is_reference("resnet20")
    assert not is_reference("net.py")


def test_a_function_of_a_module_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert imported("math:sqrt") is math.sqrt
    write(tmp_path, "def make():\n    return 7\n", "a_module_of_mine.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    make = imported("a_module_of_mine:make")
    assert callable(make)
    assert make() == 7
    for name in ("math:sqrrt", "a_module_that_is_not_there:make"):
        with pytest.raises(InputError, match="cannot be imported"):
            imported(name)


def test_a_network_of_the_users_own_is_given_what_it_asks_for(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        "from torch import nn\n\ndef make(num_classes, in_features, bias=True):\n"
        "    return nn.Linear(in_features, num_classes, bias=bias)\n\ndef wrong():\n    return 7\n",
    )
    assert known_of((1, 8, 9), 2) == {"num_classes": 2, "in_channels": 1, "image_size": (8, 9)}
    model = made(f"{file}:make", known_of((5,), 3), {"bias": False})
    assert [tuple(one.shape) for one in model.parameters()] == [(3, 5)]
    with pytest.raises(InputError, match=r"wrong returned int\. Return a torch"):
        made(f"{file}:wrong", {})
    with pytest.raises(
        InputError, match=r"make failed: TypeError.*called without arguments.*such as num_classes, a default"
    ):
        made(f"{file}:make", {})
    with pytest.raises(
        InputError, match=r"with what it takes of num_classes, in_channels, image_size, the pair \(height, width\)"
    ):
        made(f"{file}:make", known_of((1, 8, 9), 2))


def test_a_shape_fixes_what_it_can_of_a_network_without_data(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        "from torch import nn\n\ndef make(in_channels, image_size, num_classes=3):\n    height, width = image_size\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * height * width, num_classes))\n",
    )
    assert from_file(f"{file}:make", shape=(2, 8, 9)).model[1].in_features == 144
    assert known_of((16, 8)) == {}
