"""Print a shell's completion script for these commands, their options and files.

  gracile completion bash > ~/.local/share/bash-completion/completions/gracile
  gracile completion zsh > ~/.zfunc/_gracile    with fpath=(~/.zfunc $fpath) in ~/.zshrc
  gracile completion tcsh > ~/.gracile.tcsh     and source it in ~/.tcshrc

A new shell has it; print it again after an update.
"""

from __future__ import annotations

import argparse

from gracile.commands import Answer


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=["bash", "zsh", "tcsh"], help="your shell")


def run(args: argparse.Namespace) -> Answer:
    import shtab

    from gracile.commands.table import full_parser

    script = shtab.complete(full_parser(), shell=args.shell)
    return Answer(script, {"shell": args.shell, "script": script})
