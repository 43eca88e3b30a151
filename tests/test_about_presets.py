"""What `diff`, `models` and `summary --set` print: their values are computed here again, or typed
from the sources."""

import csv
import io
from dataclasses import replace

import pytest

import alexnet
from minigrad.differences import differences, table, with_values
from minigrad.models.records import LRN, Pool, diff
from minigrad.network import ledger
from minigrad.training import checkpoint

MODELS = alexnet.MODELS


def main(*words):
    return alexnet.main(list(map(str, words)))


def of(a, b):
    return {d.what: d for d in differences(MODELS[a], MODELS[b])}


def test_every_difference_has_both_sources():
    for a in ("paper", "krizhevsky2012", "caffe", "caffenet", "torchvision", "zfnet", "textbook"):
        found = of("paper", a)
        assert list(found) == [what for what, *_ in diff(alexnet.PAPER, MODELS[a])]
        for d in found.values():
            assert all(d.sources), d
        assert a == "paper" or found


def test_paper_and_caffe():
    found = of("paper", "caffe")
    assert found["norm1.k"].values == (2.0, 1.0)
    assert found["norm1.k"].sources == (
        "section 3.3",
        "caffe.proto: 1, and train_val.prototxt leaves it so",
    )
    # 100 / (k + alpha 5 100^2)^0.75
    assert found["norm1.k"].effect == "where all neighbours are 100, 100 becomes 26.1, not 23.2"
    assert found["norm2.divide_by_n"].effect.endswith("100 becomes 43.9, not 23.2")
    assert found["drop6.inverted"].effect.endswith("the next layer's input is 2 times as large")
    steps = "450,410 steps on ILSVRC-2012, not 900,821"  # 90 1,281,167 / 256, / 128
    assert found["recipe.batch_size"].effect == steps
    assert found["conv2.bias"].sources == ("section 5", "train_val.prototxt")
    assert found["recipe.lr_drops"].effect == ""
    back = of("caffe", "paper")
    assert back["norm1.k"].effect == "where all neighbours are 100, 100 becomes 43.9, not 59.5"
    assert back["drop6.inverted"].effect.endswith("is 0.5 times as large")


def test_what_a_change_of_sizes_does():
    found = of("paper", "krizhevsky2012")
    assert found["conv1.ceil"].effect == "", "227 fits exactly"
    assert found["preprocessing.size"].effect == (
        "conv1 has 54x54x96 outputs, not 55x55x96; 49,430,888 parameters, not 60,965,224 (-18.9%);"
        " 643,026,048 multiply-adds, not 724,406,816 (-11.2%)"
    )
    assert "62,378,344" not in of("paper", "textbook")["conv2.groups"].effect, "this field alone"
    one = of("textbook", "paper")["conv2.groups"].effect
    assert "223,948,800 fewer" not in one
    assert "62,071,144 parameters, not 62,378,344 (-0.5%)" in one  # 5 5 48 256 fewer
    odd = of("torchvision", "paper")
    assert odd["norm1"].values[0] is None
    assert odd["norm1"].effect == ""
    narrow = of("paper", "lenet5")
    assert narrow["preprocessing.size"].effect.startswith("alone it does not fit: pool2: a window")


def test_a_layer_is_put_in_where_the_other_has_it():
    tower, paper = MODELS["torchvision"], alexnet.PAPER
    tall = tower.changed(conv1=replace(tower.layers["conv1"], filters=96))
    with_norm = replace(paper, layers={n: x for n, x in paper.layers.items() if n != "pool2"})
    found = {d.what: d for d in differences(with_norm, paper)}
    assert "pool2 has" not in found["pool2"].effect
    assert "conv3 has 13x13x384 outputs, not 27x27x384" in found["pool2"].effect
    assert tall.layers["conv1"].filters == 96


def test_the_table_groups_what_is_alike():
    text = table(differences(alexnet.PAPER, MODELS["caffe"]), ("paper", "caffe"))
    lines = text.splitlines()
    assert lines[0] == "paper and caffe differ in 18 fields"
    at = lines.index("conv2, conv4, conv5, fc6, fc7: bias")
    assert lines[at + 1 : at + 3] == [
        "    paper  1   (section 5)",
        "    caffe  0.1   (train_val.prototxt)",
    ]
    at = lines.index("recipe: lr_drops")
    assert lines[at + 1 : at + 3] == [
        "    paper  plateau   (section 5)",
        "    caffe  (20, 40, 60, 80)   (solver.prototxt)",
    ]
    assert table([], ("a", "b")) == "a and b do not differ"


def test_a_run_is_the_source_of_what_it_changed(lenet_run, tmp_path, capsys):
    run, _ = lenet_run
    tensors, description = checkpoint.load(run / "checkpoint.safetensors")
    description["settings"]["network"]["recipe"]["lr"] = 0.5
    other = tmp_path / "other.safetensors"
    checkpoint.save(other, tensors, description)
    assert main("diff", "caffe_lenet", other) == 0
    source = MODELS["caffe_lenet"].source
    assert capsys.readouterr().out.splitlines()[1:] == [
        "recipe: lr",
        f"    {'caffe_lenet':{len(str(other)) + 2}}0.01   ({source})",
        f"    {other}  0.5   (the run {other})",
    ]


def test_diff_of_a_preset_and_a_run(lenet_run, capsys):
    run, _ = lenet_run
    assert main("diff", "caffe_lenet", run) == 0
    assert capsys.readouterr().out == f"caffe_lenet and {run} do not differ\n"
    assert main("diff", "lenet5", run) == 0
    said = capsys.readouterr().out.splitlines()
    at = said.index("conv1: filters")
    words = said[at + 1].split()
    assert words[:5] == ["lenet5", "6", "(LeNet-5", "in", "its"]
    assert main("diff", "paper", "nothing") == 2
    assert "nothing is neither a run nor a preset: choose from paper, " in capsys.readouterr().err


def test_models_lists_each_preset(capsys):
    assert main("models") == 0
    said = capsys.readouterr().out
    for name, preset in MODELS.items():
        rows = ledger(preset)
        block = said[said.index(f"{name}: {preset.source}\n") :]
        assert f"{sum(r.parameters for r in rows):,} parameters, " in block
        if preset.accuracy:
            assert f"published accuracy: {preset.accuracy}" in block
        for file in preset.pretrained.files:
            assert f"weights: {file.where}\n        {file.checksum}; {file.scores}" in block
    assert "input 28x28x1, 10 classes; 431,080 parameters, 2.29 M multiply-adds" in said


def test_fields_set_by_hand():
    new = with_values(
        alexnet.PAPER,
        ["pool1.size=2", "preprocessing.size=224", "norm2=none", "conv1.std=none",
         "pool5.mean=TRUE",
         "recipe.lr_drops=[1, 2.5]", "recipe.form=torch"],
    )  # fmt: skip
    assert new.layers["pool1"] == Pool(2, stride=2)
    assert new.preprocessing.size == 224
    assert "norm2" not in new.layers
    assert new.layers["conv1"].std is None
    assert new.layers["pool5"].mean is True
    assert (new.recipe.lr_drops, new.recipe.form) == ((1, 2.5), "torch")
    assert len(diff(alexnet.PAPER, new)) == 8


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("pool1.size", "write LAYER.FIELD=VALUE, or LAYER=none; there are conv1, relu1"),
        ("pool9.size=2", "write LAYER.FIELD=VALUE"),
        ("pool1.siz=2", "there is no field 'siz'; there are size, stride, ceil, mean"),
        ("pool1.size=two", r"--set pool1.size=two: Expected `int`, got `str`"),
        ("pool1.size=0", "size must be from 1 to"),
        ("pool1=2", "write pool1.FIELD=VALUE"),
        ("recipe=none", "write recipe.FIELD=VALUE"),
        ("relu1.x=1", "there are none"),
        ("preprocessing.size=300", "a crop of 300 does not fit"),
    ],
)
def test_a_field_that_cannot_be_set(text, words, capsys):
    assert main("summary", "paper", "--set", text) == 2
    assert words in capsys.readouterr().err


def test_summary_of_a_change(capsys, tmp_path):
    assert main("summary", "paper", "--set", "pool1.size=2", "--set", "conv1.padding=2") == 0
    said = capsys.readouterr().out
    changed = alexnet.PAPER.changed(
        pool1=Pool(2, stride=2), conv1=replace(alexnet.PAPER.layers["conv1"], padding=2)
    )
    total = f"{sum(r.parameters for r in ledger(changed)):,}"
    assert total in said.splitlines()[-3]
    assert {line.split()[0]: line.split()[1] for line in said.splitlines()}["pool1"] == "28x28x96"
    assert main("summary", "paper", "--csv", "-") == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    for row, r in zip(rows, ledger(alexnet.PAPER), strict=True):
        first = row["preset"], row["stage"], row["kind"]
        assert first == ("paper", r.stage, type(r.layer).__name__)
        assert row["output"] == "x".join(map(str, r.shape))
        counts = [r.parameters, r.multiply_adds, r.bytes_out, r.bytes_kept, r.field, r.jump]
        assert list(map(int, list(row.values())[4:])) == counts
    assert main("summary", "all", "--csv", tmp_path / "all.csv") == 0
    with open(tmp_path / "all.csv") as file:
        assert {row["preset"] for row in csv.DictReader(file)} == set(MODELS)
    assert isinstance(alexnet.PAPER.layers["norm1"], LRN)
