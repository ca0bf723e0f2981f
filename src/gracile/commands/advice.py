"""Advice of the library, which speaks of arguments, in words that can be typed on the command line."""

from __future__ import annotations

import argparse
import re

# Options of a method, which a recipe's arm holds.
OF_AN_ARM = ("keep_last", "layers", "grouping", "by_cost")
# Arguments whose option has another name.
RENAMED = {"root": "data_root"}
# Not what ends a dotted key, as in --set training.lr=0.05.
ARGUMENT = re.compile(r"(?<![\w.])([a-z][a-z_0-9]*)=([\w./\[\]{}'\"-]*[\w\]}'\"]|)")


def typed(text: str, parser: argparse.ArgumentParser) -> str:
    """The same advice with options in place of arguments, as far as the command has them.

    Args:
        text: such as "Pass image_size=28".
        parser: of the command.

    Returns:
        such as "Pass --image-size 28".
    """
    options = {
        action.dest: next(name for name in action.option_strings if name.startswith("--"))
        for action in parser._actions
        if action.option_strings
    }
    switches = {name for action in parser._actions if action.nargs == 0 for name in action.option_strings}

    def option(found: re.Match[str]) -> str:
        name, value = found[1], found[2]
        known = options.get(RENAMED.get(name, name))
        if known is not None:
            return f"{known} {value}" if value and known not in switches else known
        if name in OF_AN_ARM and "set" in options:
            return f"--set arms.ARM.options.{name}={value.lower() if value in ('True', 'False') else value}"
        return found[0]

    return ARGUMENT.sub(option, text)
