"""Train a dense network and its sparse twin, from a recipe or on your own data.

  gracile run digits                         a recipe that ships with gracile
  gracile run my-recipe.toml                 your own
  gracile run --data photos/                 a folder of images by class, parquet, CSV or .npz
  gracile run --data photos/ --model net.py:make   with a network of your own
  gracile run --data photos/ --model net.py:make --weights w.safetensors --target-macs 0.5
                                             a trained network made lean, at a small rate
  gracile run digits --dry-run               say what would be trained, how large and how long
  gracile run --resume --out runs/digits-1   go on after Ctrl-C or a crash

Every run leaves a folder with the resolved recipe, metrics, environment, checkpoints, plots and a
log. In Python: gracile.run.
"""

from __future__ import annotations

import argparse

from gracile.commands import Answer, options

TARGETS = {
    "macs": "this share of multiply-adds stays after physical removal",
    "params": "this share of parameters stays after physical removal",
    "sparsity": "this share of all parameters is zero",
    "latency": "this share of the latency stays, as measured on this machine in onnxruntime",
    "file_size": "this share of the file's bytes stays",
}
# Of `gracile.models.MODELS`, which would bring torch along; the tests hold it to that.
MODELS = "cnn, lenet, mlp, mobilenet, vgg16, vit, enresnet or resnet18, resnet20, resnet38, resnet56"
CHANGES = ("data", *options.READING, "model", "weights", "epochs", "batch_size", "lr", "device")


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "recipe",
        nargs="?",
        help="a shipped recipe's name, or a TOML file (default: classify, with --weights fine-tune)",
    )
    options.data(parser, "your data")
    add("--model", help=f"{MODELS}, or FILE.py:FUNCTION, a function that returns yours")
    add("--weights", metavar="FILE", help="a safetensors file that the network begins from, such as your trained one's")
    add("--epochs", type=int, help="passes over the training data")
    add("--batch-size", type=int, help="samples per step")
    add("--lr", type=float, help="learning rate")
    add("--seeds", help="comma-separated seeds, such as 0,1,2")
    for budget, meaning in TARGETS.items():
        add(
            f"--target-{budget.replace('_', '-')}", type=float, metavar="SHARE",
            help=f"steer lam so that {meaning}, in the arms that can be steered to it",
        )  # fmt: skip
    add(
        "--set", action="append", default=[], metavar="KEY=VALUE",
        help="any setting, such as --set arms.rgsm.options.lam=0.05; repeatable",
    )  # fmt: skip
    add("--device", help="cpu, cuda or auto")
    options.size(parser)
    options.where(parser)


def run(args: argparse.Namespace) -> Answer:
    changes = {name: value for name in CHANGES if (value := getattr(args, name)) is not None}
    target = {budget: value for budget in TARGETS if (value := getattr(args, f"target_{budget}")) is not None}
    if args.size != "full":
        changes["size"] = args.size
    if args.seeds is not None:
        changes["seeds"] = options.numbers("--seeds", args.seeds, least=0)
    if target:
        changes["target"] = target
    if args.set:
        changes["settings"] = options.key_values("--set", args.set, "training.lr=0.05")
    return options.run_recipe(args, args.recipe, changes)
