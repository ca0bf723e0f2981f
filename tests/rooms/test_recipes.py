"""The recipes room: every key is read, every shipped recipe is sound, a run leaves what it promises."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest
import torch

from gracile.core.errors import GracileError, InputError
from gracile.data import Dataset, Splits
from gracile.models import resnet20
from gracile.recipes import load, methods, run, schema, shipped
from gracile.recipes.arms import Parts
from gracile.recipes.comparisons import check_comparisons
from gracile.recipes.kinds import KINDS, kind
from gracile.recipes.kinds.train import Settings
from gracile.recipes.runner import started_recipe
from gracile.recipes.settings import ModelSettings, build_network, named_network

TINY = """
title = "tiny"
kind = "train"
[settings]
seeds = [0, 1]
data = { name = "digits", train_limit = 200, test_limit = 100 }
model = { name = "mlp", options = { widths = [16] } }
training = { epochs = 4, lr = 0.05, batch_size = 16 }
[settings.arms.dense]
[settings.arms.rvsm]
method = "rvsm"
options = { penalty = "l0", lam = 1e-3, beta = 0.1 }
[[accept]]
claim = "it learns"
value = "dense.accuracy"
at_least = 30.0
[[accept]]
claim = "it does wonders"
value = "dense.accuracy"
at_least = 101.0
"""


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    file = tmp_path / "tiny.toml"
    file.write_text(TINY)
    return file


def test_the_shipped_recipes_are_found():
    found = shipped()
    assert {"digits", "classify", "table-4.1"} <= set(found)
    on_disk = {path for path in schema.PAPERS.parent.rglob("*.toml") if path.name != "published.toml"}
    assert set(found.values()) == on_disk


def test_recipes_and_sizes_exist_wherever_they_are_named():
    """The command's own help and the page for contributors named a size that the recipe did not have."""
    root = Path(__file__).parents[2]
    pages = [root / "README.md", root / "CONTRIBUTING.md", root / "docs" / "claims.toml", *(root / "docs").glob("*.md")]
    sources = [path for kind_ in ("*.py", "*.toml") for path in (root / "src" / "gracile").rglob(kind_)]
    said = re.compile(r"(?:gracile (?:run|reproduce) |`)(?!gracile|python)([a-z][a-z0-9.-]+)(?= |`)([^\n`]*)")
    named = {
        (path.name, name, size[1] if (size := re.search(r"--size (\w+)", rest)) else None)
        for path in [*pages, *sources]
        for name, rest in said.findall(path.read_text(encoding="utf-8"))
        if name in shipped() or "--size" in rest
    }
    assert len({name for _, name, _ in named}) > 40
    unknown = [
        one for one in named if one[1] not in shipped() or (one[2] and one[2] not in {"full", *load(one[1]).sizes})
    ]
    assert not unknown


@pytest.mark.parametrize("name", sorted(shipped()))
def test_every_shipped_recipe_is_sound_at_every_size(name: str):
    recipe = load(name)
    for size in ("full", *recipe.sizes):
        sized = schema.resized(recipe, size)
        schema.parse(kind(recipe.kind).Settings, sized.settings, name)
    for criterion in recipe.accept:
        assert criterion.at_least is not None or criterion.at_most is not None
        assert set(criterion.sizes) <= {"full", *recipe.sizes}
    if recipe.published:
        assert schema.published(recipe.published)


@pytest.mark.parametrize("name", sorted(name for name in shipped() if load(name).kind == "train"))
def test_every_size_compares_and_judges_arms_it_trains(name: str):
    recipe = load(name)
    for size in ("full", *recipe.sizes):
        settings = Settings(**schema.resized(recipe, size).settings)
        trained, compared = settings.trained(), settings.comparisons()
        check_comparisons(compared, list(trained))
        for criterion in recipe.accept:
            if size in criterion.sizes:
                assert criterion.value.partition(".")[0] in {*trained, *compared}


def test_every_arm_of_every_size_can_be_built():
    """Sizes lay options over options, which together may contradict each other. A small network stands for all."""
    network, example = resnet20(width=16, image_size=16), torch.zeros(2, 3, 16, 16)
    built = set()
    for name in (name for name in shipped() if load(name).kind == "train"):
        recipe = load(name)
        for size in ("full", *recipe.sizes):
            for arm in Settings(**schema.resized(recipe, size).settings).trained().values():
                if arm.method is None or arm.method in methods.LEARNING_RULES:
                    continue
                steered = arm.target.model_dump(exclude_none=True) if arm.target else {}
                for one in ({}, *arm.tries):
                    options, target = arm.options | one.get("options", {}), steered | one.get("target", {})
                    key = json.dumps([arm.method, options, target], sort_keys=True)
                    # Layers that are named are those of the arm's own network.
                    if key in built or "layers" in options:
                        continue
                    built.add(key)
                    try:
                        found = network if arm.found else None
                        method = methods.build(arm.method, network, example, options, steps=1000, found=found)
                        if target:
                            methods.steer(method, example, 1000, target)
                    except GracileError as error:
                        raise AssertionError(f"{name} {size} {key}") from error
    assert len(built) > 50


@pytest.mark.parametrize("name", sorted(name for name, path in shipped().items() if path.is_relative_to(schema.PAPERS)))
def test_every_published_recipe_has_a_source_and_a_smoke_size(name: str):
    recipe = load(name)
    assert recipe.source
    assert "smoke" in recipe.sizes


def test_the_published_tables_are_complete_rows():
    tables = tomllib.loads((schema.PAPERS / "published.toml").read_text())
    assert len(tables) > 10
    rows = {name: schema.published(name) for name in tables}
    assert all(len(row) >= 2 for found in rows.values() for row in found)
    assert [name for name, found in rows.items() if not found] == ["figure_6_4"]


@pytest.mark.parametrize("name", sorted(KINDS))
def test_every_kind_can_be_imported(name: str):
    module = kind(name)
    needed = {"train", "outcome"} if issubclass(module.Settings, Parts) else {"execute"}
    assert all(callable(getattr(module, name)) for name in needed)
    assert issubclass(module.Settings, schema.Strict)


def test_a_run_leaves_everything_that_is_needed_to_trust_it(tiny: Path, tmp_path: Path):
    finished = run(load(str(tiny)), tmp_path / "out")
    folder = tmp_path / "out"
    for name in ("recipe.toml", "environment.json", "status.json", "log.txt", "result.json", "table.md", "data.json"):
        assert (folder / name).stat().st_size > 0, name
    for part in ("dense-seed0", "dense-seed1", "rvsm-seed0", "rvsm-seed1"):
        for name in ("metrics.jsonl", "checkpoint.safetensors", "model.safetensors", "answers.json"):
            assert (folder / part / name).exists(), (part, name)
    # What such a run draws stands in its page.
    assert finished.outcome.plots == {}
    assert (folder / "report.html").read_text().count('<svg viewBox="0 0 360 ') >= 8
    environment = json.loads((folder / "environment.json").read_text())
    assert {"versions", "commit", "device", "threads"} <= set(environment)
    assert json.loads((folder / "status.json").read_text())["status"] == "done"
    assert [met for _, met in finished.verdicts] == [True, False]
    row = finished.outcome.rows[1]
    assert row["arm"] == "rvsm"
    assert "±" in row["accuracy %"]
    resolved = tomllib.loads((folder / "recipe.toml").read_text())
    assert resolved["settings"]["training"]["momentum"] == 0.9


def test_both_arms_start_from_the_same_weights(tiny: Path, tmp_path: Path):
    # With lam = 0 the split twin is the dense network, step for step.
    text = TINY.replace("lam = 1e-3", "lam = 0.0").replace("seeds = [0, 1]", "seeds = [0]")
    tiny.write_text(text)
    run(load(str(tiny)), tmp_path / "out")
    files = [tmp_path / "out" / arm / "model.safetensors" for arm in ("dense", "rvsm")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_recipe_may_say_how_often_checkpoints_are_written(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from gracile.recipes.kinds import train

    asked = []

    def watched(*args, **given):
        asked.append(given["checkpoint_seconds"])
        return fit(*args, **given)

    fit = train.fit
    monkeypatch.setattr(train, "fit", watched)
    tiny.write_text(
        TINY.replace("batch_size = 16", "batch_size = 16, checkpoint_seconds = 0.5").replace("[0, 1]", "[0]")
    )
    run(load(str(tiny)), tmp_path / "out")
    assert asked == [0.5, 0.5]


def test_a_folder_that_holds_a_run_is_not_written_over(tiny: Path, tmp_path: Path):
    recipe = load(str(tiny))
    run(recipe, tmp_path / "out")
    with pytest.raises(InputError, match=r"already holds a run.*--resume"):
        run(recipe, tmp_path / "out")


def test_a_run_is_not_resumed_with_other_settings(tiny: Path, tmp_path: Path):
    run(load(str(tiny)), tmp_path / "out")
    tiny.write_text(TINY.replace("lr = 0.05", "lr = 0.06"))
    with pytest.raises(InputError, match="another recipe or other settings"):
        run(load(str(tiny)), tmp_path / "out", resume=True)


def test_a_run_is_resumed_when_only_words_have_changed_and_not_with_another_criterion(tiny: Path, tmp_path: Path):
    criterion = '[[accept]]\nclaim = "it learns"\nvalue = "dense.accuracy"\nat_least = 0.1\nsizes = ["full", "cpu"]\n'
    tiny.write_text(TINY + criterion)
    run(load(str(tiny)), tmp_path / "out")
    elsewhere = criterion.replace('["full", "cpu"]', '["cpu"]').replace("0.1", "0.9")
    reworded = criterion.replace(', "cpu"', "").replace("it learns", "it learns something")
    tiny.write_text('notes = "said later"\n' + TINY + reworded + elsewhere)
    finished = run(load(str(tiny)), tmp_path / "out", resume=True)
    assert "said later" in json.loads((tmp_path / "out" / "result.json").read_text("utf-8"))["notes"]
    assert started_recipe(tmp_path / "out").notes == "said later"
    assert [one.at_least for one, _ in finished.verdicts] == [30.0, 101.0, 0.1]
    tiny.write_text(TINY + criterion.replace("0.1", "0.05"))
    with pytest.raises(InputError, match="another recipe or other settings"):
        run(load(str(tiny)), tmp_path / "out", resume=True)


@pytest.mark.parametrize(("old", "new", "message"), [
    ('kind = "train"', 'kind = "train"\nsizse = 1', r"Unknown key 'sizse'.*Did you mean 'size'"),
    ("epochs = 4", "epoch = 4", r"Unknown key 'training.epoch'.*Did you mean 'epochs'"),
    ("epochs = 4, ", "", r"key 'training.epochs' is missing"),
    ("epochs = 4", 'epochs = "two"', r"'training.epochs'.*'two'.*integer"),
    ('kind = "train"', 'kind = "trian"', r"no kind of recipe named 'trian'.*Did you mean 'train'"),
    ('method = "rvsm"', 'method = "rvms"', r"no method named 'rvms'.*Did you mean 'rvsm'"),
    ("beta = 0.1", "betta = 0.1", r"no option 'betta'.*Did you mean 'beta'"),
    ('name = "mlp"', 'name = "mpl"', r"no model named 'mpl'.*Did you mean 'mlp'"),
    ("widths = [16]", "width = [16]", r"no setting 'width'.*Did you mean 'widths'"),
    ('name = "mlp", options = { widths = [16] }', 'name = "lenet"', r"too small for lenet"),
    ('penalty = "l0"', 'penalty = "group_l0"', r"acts on groups.*RGSM"),
    ("lr = 0.05", 'lr = 0.05, schedule = "linear"', r"training.schedule"),
    ("lr = 0.05", "lr = 0.05, milestones = [1.0]", r"milestones or warmup are given"),
    ("lr = 0.05", 'lr = 0.05, optimizer = "sdg"', r"no optimiser named 'sdg'.*Did you mean 'sgd'"),
    ("seeds = [0, 1]", "seeds = []", r"no arm or no seed"),
    ("seeds = [0, 1]", 'device = "cuda:77"', r"device 'cuda:77' is not there"),
])  # fmt: skip
def test_a_wrong_recipe_is_refused_in_one_sentence(tiny: Path, tmp_path: Path, old: str, new: str, message: str):
    assert old in TINY
    tiny.write_text(TINY.replace(old, new))
    with pytest.raises(InputError, match=message):
        run(load(str(tiny)), tmp_path / "out")


def test_a_recipe_that_is_not_there_names_the_nearest():
    with pytest.raises(InputError, match="Did you mean 'digits'"):
        load("digit")


def test_a_file_that_is_not_toml_is_named(tmp_path: Path):
    (tmp_path / "bad.toml").write_text("title = ")
    with pytest.raises(InputError, match="not valid TOML"):
        load(str(tmp_path / "bad.toml"))


def test_an_unknown_size_lists_those_there_are():
    with pytest.raises(InputError, match="full, laptop, smoke"):
        schema.resized(load("table-4.1"), "huge")


def test_a_size_may_be_like_one_above_it():
    sizes = {
        "small": {"training": {"epochs": 3, "lr": 1.0}, "leave_out": ["a"]},
        "other": {"like": "small", "training": {"lr": 2.0}, "leave_out": []},
    }
    recipe = schema.Recipe(name="r", title="", kind="train", settings={"training": {"epochs": 9}}, sizes=sizes)
    assert schema.resized(recipe, "other").settings == {"training": {"epochs": 3, "lr": 2.0}, "leave_out": []}
    for like, says in (("smal", "no size above it. Did you mean 'small'"), ("other", "no size above it")):
        wrong = recipe.model_copy(update={"sizes": {**sizes, "other": {"like": like}}})
        with pytest.raises(InputError, match=says):
            schema.resized(wrong, "other")


ROWS = [{"n": 50, "share": 0.5, "sizes": ["full"]}, {"n": 30, "share": 0.3, "sizes": ["cpu"]}]


def test_what_is_said_for_each_of_several_rows_is_written_out_row_by_row():
    found = schema.spelled_out(
        {
            "settings": {"arms": {"dense": {}, "a_{n}": {"macs": "{share}"}, "b_{n}": {"found": "a_{n}"}, "last": {}}},
            "accept": [{"claim": "{n} %", "sizes": "{sizes}"}, {"claim": "always"}],
            "leave_out": ["x", "a_{n}"],
        },
        ROWS,
        "here",
    )
    arms = found["settings"]["arms"]
    assert list(arms) == ["dense", "a_50", "b_50", "a_30", "b_30", "last"]
    assert (arms["a_30"], arms["b_50"]) == ({"macs": 0.3}, {"found": "a_50"})
    assert found["accept"] == [
        {"claim": "50 %", "sizes": ["full"]}, {"claim": "30 %", "sizes": ["cpu"]}, {"claim": "always"},
    ]  # fmt: skip
    assert found["leave_out"] == ["x", "a_50", "a_30"]


@pytest.mark.parametrize(
    ("values", "rows", "says"),
    [
        ({}, [], "no list of tables of the same names"),
        ({}, [{"n": 1}, {"m": 1}], "no list of tables of the same names"),
        ({}, 3, "no list of tables of the same names"),
        ({"a_{m}": 1}, ROWS, "'{m}' in here is no name that 'each' has"),
        ({"a": "{share}"}, ROWS, "'{share}' in here stands neither in a list nor under a key"),
        ({"a_{n}": 1}, [{"n": 1}, {"n": 1}], "write 'a_1' twice"),
    ],
)
def test_rows_that_make_no_sense_are_refused(values, rows, says: str):
    with pytest.raises(InputError, match=says):
        schema.spelled_out(values, rows, "here")


def test_arms_are_left_out_by_patterns_and_the_best_opponent_is_of_those_that_are_left():
    recipe = load("opponents")
    vit = Settings(**schema.resized(recipe, "vit").settings)
    assert vit.comparisons()["over_best_30"].others == ["l1_30", "gradual_30", "lasso_30", "admm_30"]
    smoke = Settings(**schema.resized(recipe, "smoke").settings)
    assert list(smoke.comparisons()) == [
        "over_best_30", "over_l1_30", "over_slimming_30", "over_random_30", "over_scratch_30",
    ]  # fmt: skip
    assert "over_slimming_30" not in vit.comparisons(), "it has no slimming"
    assert [name for name in smoke.trained() if not name.endswith("_30")] == ["dense"]
    with pytest.raises(InputError, match="no arm named"):
        smoke.model_copy(update={"leave_out": ["*_31"]}).trained()


def test_a_criterion_over_a_missing_value_is_not_met():
    criterion = schema.Accept(claim="x", value="a.b", at_least=1.0)
    assert not criterion.met({})
    assert not criterion.met({"a.b": float("nan")})
    assert criterion.met({"a.b": 1.0})


@pytest.mark.parametrize(
    ("value", "error", "met"),
    [(1.3, 0.1, True), (1.1, 0.1, None), (0.9, 0.1, None), (0.7, 0.1, False), (5.0, None, None), (1.0, 0.0, True)],
)
def test_a_criterion_with_a_margin_is_undecided_within_it_and_from_a_single_seed(value, error, met):
    criterion = schema.Accept(claim="x", value="a.b", at_least=1.0, errors=2.0)
    mirrored = schema.Accept(claim="x", value="a.b", at_most=-1.0, errors=2.0)
    known = {} if error is None else {"a.b.error": error}
    assert criterion.met({"a.b": value, **known}) is met
    assert mirrored.met({"a.b": -value, **known}) is met


@pytest.mark.parametrize(
    ("shape", "name"),
    [
        ((3, 32, 32), "resnet20"),
        ((1, 28, 28), "lenet"),
        ((3, 12, 12), "lenet"),
        ((1, 8, 8), "cnn"),
        ((1, 2, 8), "mlp"),
        ((5,), "mlp"),
    ],
)
def test_the_network_left_to_gracile_takes_the_data(shape: tuple[int, ...], name: str):
    """`gracile run --data digits` refused its own choice: a LeNet, for images of 8x8 pixels."""
    kind = torch.uint8 if len(shape) == 3 else torch.float32
    data = Dataset((255 * torch.rand(4, *shape)).to(kind), torch.tensor([0, 1, 0, 1]), ("a", "b"), "drawn")
    splits = Splits(data, data, data)
    assert named_network(ModelSettings(), splits)[0] == name
    assert build_network(ModelSettings(), splits, 0)(data.inputs.float()).shape == (4, 2)
