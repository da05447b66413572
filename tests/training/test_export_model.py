"""The exported model: the recorded accuracy in a process that has never heard of this package."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from helpers.trained_model import EVERY, Handed, train_model
from tune_swa.config import ArithmeticSpec
from tune_swa.errors import RequestError, SearchFailed
from tune_swa.training import model_export
from tune_swa.training.metrics import predict_images
from tune_swa.training.model_export import FORMATS, load_handed_over

# what a user of an exported file might write; the package itself cannot be imported
STRANGER = """
import sys
sys.modules["tune_swa"] = None
import contextlib, json, pathlib
import numpy as np, torch
from torchvision.models import resnet18

folder, images_file = map(pathlib.Path, sys.argv[1:])
about = json.loads((folder / "model.json").read_text())
torch.set_num_threads(about["numerics"]["threads"])
images = np.load(images_file)
want = about["preprocessing"]
mean, std = (torch.tensor(want[k]).view(1, 3, 1, 1) for k in ("mean", "std"))
format = torch.channels_last if about["numerics"]["channels_last"] else torch.contiguous_format
half = about["numerics"]["precision"] == "bf16"
found = {}
for name, file in about["files"].items():
    if name == "torch.export":
        extra = {"model.json": ""}
        model = torch.export.load(folder / file, extra_files=extra).module()
        assert json.loads(extra["model.json"]) == about
    else:
        model = resnet18(num_classes=about["num_classes"]).eval()
        if name == "safetensors":
            import safetensors
            from safetensors.torch import load_file
            model.load_state_dict(load_file(folder / file))
            with safetensors.safe_open(folder / file, "pt") as opened:
                assert json.loads(opened.metadata()["model.json"]) == about
        else:
            model.load_state_dict(torch.load(folder / file, weights_only=True))
    model = model.to(memory_format=format)
    found[name] = {}
    for part in ("validation", "test"):
        pixels = torch.from_numpy(images[part]).permute(0, 3, 1, 2).float() / 255
        batches = ((pixels - mean) / std).contiguous(memory_format=format).split(512)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=half):
            logits = torch.cat([model(batch) for batch in batches])
        right = logits.argmax(1).numpy() == images[part + "_labels"]
        found[name][part] = int(right.sum()) / len(right)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def handed() -> Handed:
    return train_model()


def stranger(*words: object, code: str | None = None) -> str:
    program = [sys.executable, "-c", code] if code else [sys.executable]
    # neither the working folder nor an installed package may help
    done = subprocess.run(
        [*program, *map(str, words)], capture_output=True, text=True, cwd="/", timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(("precision", "channels_last"), [("fp32", False), ("fp32", True), ("bf16", True)])
def test_a_process_without_the_package_gets_the_recorded_accuracy(
    precision: str, channels_last: bool, tmp_path: Path
) -> None:
    handed = train_model(precision, channels_last)
    report = handed.export(tmp_path / "export")
    recorded = {part: handed.about[part]["accuracy"] for part in ("validation", "test")}
    assert 1 / 3 < recorded["test"] < 1
    assert report.recorded == recorded
    assert report.differences == ()
    assert [outcome.accuracy for outcome in report.outcomes] == [recorded] * 3
    data = handed.data
    np.savez(
        tmp_path / "images.npz",
        validation=data.images[data.val], validation_labels=data.labels[data.val],
        test=data.images[data.test], test_labels=data.labels[data.test],
    )  # fmt: skip
    found = json.loads(stranger(tmp_path / "export", tmp_path / "images.npz", code=STRANGER))
    assert found == dict.fromkeys(EVERY, recorded)


@pytest.mark.parametrize("name", EVERY)
def test_the_example_classifies_files(name: str, handed: Handed, tmp_path: Path) -> None:
    """As the model does that was trained: resized, turned and normalised in the same way."""
    handed.export(tmp_path / "export", (name,))
    chosen = handed.data.test[:6]
    files = []
    for row in chosen:
        pixels = handed.data.images[row]
        turned = Image.fromarray(np.ascontiguousarray(np.rot90(pixels)))  # the camera lay on its side
        exif = turned.getexif()
        exif[0x0112] = 6
        files.append(tmp_path / f"{row}.png")
        turned.save(files[-1], exif=exif)
    out = stranger(tmp_path / "export" / "classify.py", *files).splitlines()
    only = dataclasses.replace(handed.data, test=chosen)
    from tune_swa.data.batches import ImageBatches
    from tune_swa.training.numerics import Numerics

    numerics = Numerics(**handed.about["numerics"])
    batches = ImageBatches(only, chosen, "cpu", channels_last=False).iterate_ordered(6)
    said = predict_images(handed.model, batches, numerics.autocast())
    expected = [
        f"{file}: {'abc'[int(c)]} ({100 * float(p):.1f} %)"
        for file, c, p in zip(files, said.predicted, said.confidence, strict=True)
    ]
    assert out == expected


@pytest.mark.parametrize("name", EVERY)
def test_the_example_of_several_networks_gives_their_mean_probability(
    name: str, handed: Handed, tmp_path: Path
) -> None:
    from tune_swa.data.pixels import open_rgb
    from tune_swa.training.mean_probability import load_networks

    first = handed.model.state_dict()
    second = {**first, "fc.weight": first["fc.weight"].flip(0)}
    about = {**handed.about, "validation": None, "test": None}
    model = load_networks([first, second], handed.about)
    report = handed.export(tmp_path / "export", (name,), model=model, about=about)
    assert report.recorded == {}
    drawn = np.random.default_rng(1).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(drawn).save(tmp_path / "new.png")
    pixels = np.asarray(open_rgb(str(tmp_path / "new.png"), exif_rotation=True).image).copy()
    want = handed.about["preprocessing"]
    mean, std = (torch.tensor(want[key]).view(3, 1, 1) for key in ("mean", "std"))
    images = ((torch.from_numpy(pixels).permute(2, 0, 1).float() / 255 - mean) / std)[None]
    with torch.no_grad():
        alone = [load_networks([state], handed.about)(images).softmax(dim=1) for state in (first, second)]
        torch.testing.assert_close(model(images).softmax(dim=1), torch.stack(alone).mean(dim=0))
    probability, index = torch.stack(alone).mean(dim=0)[0].max(dim=0)
    assert float(probability) < max(float(p.max()) for p in alone)  # the two differ
    out = stranger(tmp_path / "export" / "classify.py", tmp_path / "new.png")
    assert out == f"{tmp_path / 'new.png'}: {'abc'[int(index)]} ({100 * float(probability):.1f} %)\n"


def test_16_bits_become_the_pixels_that_the_search_sees(handed: Handed, tmp_path: Path) -> None:
    from tune_swa.data.pixels import open_rgb

    handed.export(tmp_path / "export")
    drawn = np.random.default_rng(1).integers(20_000, 45_000, (16, 16), dtype=np.uint16)
    deep = Image.fromarray(drawn)
    exif = deep.getexif()
    exif[0x0112] = 6
    deep.save(tmp_path / "deep.png", exif=exif)
    seen = open_rgb(str(tmp_path / "deep.png"), exif_rotation=True).image
    assert 80 < np.asarray(seen).mean() < 175
    seen.save(tmp_path / "seen.png")
    out = stranger(tmp_path / "export" / "classify.py", tmp_path / "deep.png", tmp_path / "seen.png")
    deep_says, seen_says = (line.partition(": ")[2] for line in out.splitlines())
    assert deep_says == seen_says


def recipe_of_the_documentation() -> str:
    """The program of docs/own-images.md that classifies a file."""
    text = (Path(__file__).parent.parent.parent / "docs" / "own-images.md").read_text()
    [program] = [p for p in re.findall(r"```python\n(.*?)```", text, re.S) if "best_model.pt" in p]
    return program


@pytest.mark.parametrize("bits", [8, 16])
def test_the_documented_recipe_says_what_the_example_says(bits: int, handed: Handed, tmp_path: Path) -> None:
    folder = tmp_path / "results" / "mine"
    folder.mkdir(parents=True)
    torch.save(handed.model.state_dict(), folder / "best_model.pt")
    (folder / "best_model.json").write_text(json.dumps(handed.about))
    drawn = np.random.default_rng(2).integers(80, 175, (24, 40), dtype=np.uint16)
    file = tmp_path / "new.png"
    Image.fromarray((drawn << 8) if bits == 16 else drawn.astype(np.uint8)).save(file)
    handed.export(tmp_path / "export")
    example = stranger(tmp_path / "export" / "classify.py", file).partition(": ")[2].split(" (")
    program = recipe_of_the_documentation().replace("new.jpg", str(file))
    program = program.replace("results/mine", str(folder))
    said = stranger(code=program).split()
    assert said[0] == example[0]
    assert float(said[1]) == pytest.approx(float(example[1].split()[0]), abs=1)


def test_a_crop_is_taken_as_the_search_took_it(handed: Handed, tmp_path: Path) -> None:
    from tune_swa.data.decoding import resize_image

    handed.export(tmp_path / "export")
    big = Image.fromarray(np.random.default_rng(1).integers(0, 255, (40, 64, 3), dtype=np.uint8))
    big.save(tmp_path / "big.png")
    resize_image(big, 16, "crop").save(tmp_path / "small.png")
    out = stranger(tmp_path / "export" / "classify.py", tmp_path / "big.png", tmp_path / "small.png")
    big_says, small_says = (line.partition(": ")[2] for line in out.splitlines())
    assert big_says == small_says


def test_on_another_machine_the_accuracy_is_compared_but_may_differ(handed: Handed, tmp_path: Path) -> None:
    about = copy.deepcopy(handed.about)
    about["hardware"]["processor"] = "an abacus"
    about["versions"]["torch"] = "2.9.1"
    about["validation"]["accuracy"] -= 1 / 60
    report = handed.export(tmp_path, about=about)
    assert [d.partition(", ")[0] for d in report.differences] == [
        "torch was 2.9.1",
        "processor was an abacus",
    ]
    assert report.outcomes[0].accuracy["validation"] == handed.about["validation"]["accuracy"]


def test_a_live_model_that_was_evaluated_in_low_precision_may_differ(handed: Handed, tmp_path: Path) -> None:
    """Its recorded accuracy is of rounded activations; an average's is not, so that has to be met."""
    about = copy.deepcopy(handed.about)
    about["validation"]["accuracy"] -= 1 / 60
    low = dataclasses.replace(
        handed, train=handed.train.model_copy(update={"arithmetic": ArithmeticSpec(bits=8)})
    )
    report = low.export(tmp_path, about={**about, "kind": "baseline"})
    assert report.differences == ("arithmetic was of 8 bits, is fp32",)
    with pytest.raises(SearchFailed, match="recorded were"):
        low.export(tmp_path, about=about)


def test_a_model_that_is_not_the_recorded_one_is_not_exported(handed: Handed, tmp_path: Path) -> None:
    other = copy.deepcopy(handed.model)
    with torch.no_grad():
        other.fc.weight.neg_()
    with pytest.raises(SearchFailed, match="recorded were .* nothing was written"):
        handed.export(tmp_path, model=other)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_says_something_else_is_not_kept(
    handed: Handed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(model: nn.Module, about: str, images: torch.Tensor, path: Path) -> None:
        torch.save({n: t.half() if t.is_floating_point() else t for n, t in model.state_dict().items()}, path)

    spoiled = dataclasses.replace(FORMATS["state_dict"], write=half)
    monkeypatch.setitem(model_export.FORMATS, "state_dict", spoiled)
    (tmp_path / "model.safetensors").write_text("an earlier one")
    with pytest.raises(
        SearchFailed, match=r"model.pt: read again, it does not give what best_model.pt gives"
    ):
        handed.export(tmp_path, ("safetensors", "state_dict"))
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("model.safetensors", "an earlier one")]


def test_without_images_the_files_are_compared_with_the_model(handed: Handed, tmp_path: Path) -> None:
    report = handed.export(tmp_path, data=None)
    assert [outcome.accuracy for outcome in report.outcomes] == [{}] * 3
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "classify.py", "model.json", "model.pt", "model.pt2", "model.safetensors",
    ]  # fmt: skip
    for name in ("model.pt", "model.safetensors", "model.pt2"):
        assert (tmp_path / name).stat().st_mode == (tmp_path / "model.json").stat().st_mode


@pytest.fixture
def folder(handed: Handed, tmp_path: Path) -> Path:
    torch.save(handed.model.state_dict(), tmp_path / "best_model.pt")
    (tmp_path / "best_model.json").write_text(json.dumps(handed.about))
    return tmp_path


def test_what_a_search_handed_over_is_read(folder: Path, handed: Handed) -> None:
    model, about = load_handed_over(folder)
    assert about == handed.about
    assert not model.training
    images = torch.rand(4, 3, 16, 16)
    assert torch.equal(model(images), handed.model(images))


def _remove(folder: Path, name: str) -> None:
    (folder / name).unlink()


def _cut(folder: Path, name: str) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])


def _lists(folder: Path, name: str) -> None:
    (folder / name).write_text("[1, 2]")


def _other_classes(folder: Path, name: str) -> None:
    about = json.loads((folder / name).read_text())
    names = [*about["class_names"], "one", "more"]
    (folder / name).write_text(json.dumps({**about, "num_classes": len(names), "class_names": names}))


def _incomplete(folder: Path, name: str) -> None:
    about = json.loads((folder / name).read_text())
    del about["hardware"]
    (folder / name).write_text(json.dumps(about))


def _folder(folder: Path, name: str) -> None:
    (folder / name).unlink()
    shutil.copytree(folder, folder / name)


@pytest.mark.parametrize(
    ("spoil", "name", "message"),
    [
        (_remove, "best_model.pt", r"best_model.pt: is not there. It is written when a search ends"),
        (_remove, "best_model.json", r"best_model.json: is not there"),
        (_cut, "best_model.pt", r"best_model.pt: is damaged. Write it again"),
        (_cut, "best_model.json", r"best_model.json: is damaged \(it is no text in JSON\). Write it again"),
        (_lists, "best_model.json", r"best_model.json: is damaged"),
        (_incomplete, "best_model.json", r"best_model.json: is damaged"),
        (_other_classes, "best_model.json", r"best_model.pt: is damaged"),
        (_folder, "best_model.pt", r"best_model.pt: is not there"),
    ],
)
def test_what_cannot_be_read_is_told(
    spoil: Callable[[Path, str], None], name: str, message: str, folder: Path
) -> None:
    spoil(folder, name)
    with pytest.raises(RequestError, match=message):
        load_handed_over(folder)


def test_the_command_line_offers_every_format() -> None:
    from tune_swa.cli.export import MODEL_FORMATS

    assert EVERY == MODEL_FORMATS


@pytest.mark.parametrize("members", [1, 2])
def test_networks_that_want_the_versions_of_their_layers_get_them(
    members: int, handed: Handed, tmp_path: Path
) -> None:
    """torchvision's mnasnets load no plain dictionary, which is what a safetensors file gives."""
    from tune_swa.training.mean_probability import load_networks
    from tune_swa.training.model import build_model

    weights = [build_model(3, seed, arch="mnasnet0_5").state_dict() for seed in range(members)]
    about = {**handed.about, "arch": "mnasnet0_5", "validation": None, "test": None, "members": members}
    model = load_networks([dict(state) for state in weights], about)
    handed.export(tmp_path / "export", ("safetensors",), model=model, about=about)
    Image.new("RGB", (16, 16)).save(tmp_path / "new.png")
    assert "new.png: " in stranger(tmp_path / "export" / "classify.py", tmp_path / "new.png")
