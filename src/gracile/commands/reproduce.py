"""Run a published table or figure and print the published numbers beside ours.

  gracile reproduce                          what can be reproduced, by document
  gracile reproduce table-4.1                at the published size
  gracile reproduce table-4.1 --size laptop  one that two cores finish; smoke takes seconds

In Python: gracile.run.
"""

from __future__ import annotations

import argparse

from gracile.commands import Answer, options


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", help="a table or figure, such as table-4.1")
    options.size(parser)
    parser.add_argument("--smoke", action="store_const", const="smoke", dest="size", help="the same as --size smoke")
    options.where(parser)


def run(args: argparse.Namespace) -> Answer:
    if args.name is None:
        return _list()
    return options.run_recipe(args, args.name, {"size": args.size})


def _list() -> Answer:
    """What there is, by document, within 100 columns."""
    import textwrap

    from gracile.recipes import schema

    documents: dict[str, list[schema.Recipe]] = {}
    for name, path in sorted(schema.shipped().items(), key=lambda one: (one[1].parent.name, one[0])):
        if path.is_relative_to(schema.PAPERS):
            documents.setdefault(path.parent.name, []).append(schema.load(name))
    lines = []
    for document, recipes in documents.items():
        lines += ["", document.replace("_", " ")]
        for recipe in recipes:
            sizes = ", ".join(["full", *recipe.sizes])
            told = textwrap.wrap(f"{recipe.title} [{sizes}]", 78)
            lines += [f"  {recipe.name:<17} {told[0]}", *(f"{'':<20}{line}" for line in told[1:])]
    values = [
        {"name": one.name, "document": document, "title": one.title, "source": one.source, "sizes": ["full", *one.sizes]}
        for document, recipes in documents.items() for one in recipes
    ]  # fmt: skip
    return Answer("\n".join(lines[1:]), values)
