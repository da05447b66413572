"""Export the model that a search hands over, and check every file that is written."""

from __future__ import annotations

import copy
import json
import string
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tune_swa.config import TrainSpec
from tune_swa.data.batches import ImageBatches
from tune_swa.data.dataset import Dataset
from tune_swa.data.splits import Indices
from tune_swa.errors import RequestError, SearchFailed
from tune_swa.experiment.events import DamagedError
from tune_swa.experiment.model_description import read_description
from tune_swa.text import first_line
from tune_swa.training.export_numerics import choose_numerics, list_differences, resolve_on_cpu
from tune_swa.training.metrics import predict_images
from tune_swa.training.model import build_model
from tune_swa.training.numerics import Numerics

ABOUT = "model.json"
EXAMPLE = "classify.py"


@dataclass(frozen=True)
class Format:
    """A file format, with what writes and reads it."""

    name: str
    file: str
    write: Callable[[nn.Module, str, Tensor, Path], None]
    """Gets the model in eval mode, the text of `model.json`, images [2, 3, H, W], and the path."""
    read: Callable[[Path, int], nn.Module]
    """Gets the path and the number of classes; gives a model in eval mode on the CPU."""
    imports: str
    """Lines of `classify.py`."""
    load: str
    """Lines of `classify.py` that make `model` of it."""


@dataclass(frozen=True)
class Outcome:
    """One exported file, and its accuracy on the images of the search."""

    format: str
    path: Path
    size: int
    """Bytes."""
    accuracy: dict[str, float]
    """Accuracies by part (`validation`, `test`); empty where the images are not at hand."""


@dataclass(frozen=True)
class Report:
    """An exported model, and how far it was compared with the search's record."""

    outcomes: tuple[Outcome, ...]
    recorded: dict[str, float]
    """Accuracy of the model by part, as the search recorded it."""
    differences: tuple[str, ...]
    """Differences from where the recorded accuracy was measured; if there are any, an image on the border
    between two classes may change sides."""


def _write_state_dict(model: nn.Module, about: str, images: Tensor, path: Path) -> None:
    torch.save(model.state_dict(), path)


def _read_state_dict(path: Path, classes: int) -> nn.Module:
    model = build_model(classes, seed=0)
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return model.eval()


def _write_safetensors(model: nn.Module, about: str, images: Tensor, path: Path) -> None:
    from safetensors.torch import save_file

    # the format has no place for values, so its own convention is text under free names
    save_file(dict(model.state_dict()), path, metadata={"format": "pt", ABOUT: about})


def _read_safetensors(path: Path, classes: int) -> nn.Module:
    from safetensors.torch import load_file

    model = build_model(classes, seed=0)
    model.load_state_dict(load_file(path))
    return model.eval()


def _write_program(model: nn.Module, about: str, images: Tensor, path: Path) -> None:
    # from two images, as torch takes a dimension of one for a constant
    program = torch.export.export(model, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, path, extra_files={ABOUT: about})


def _read_program(path: Path, classes: int) -> nn.Module:
    program: nn.Module = torch.export.load(path).module()
    return program


_CLASSIFY = string.Template("""\
\"\"\"Classify images: python classify.py IMAGE...\"\"\"

import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
$imports
here = Path(__file__).parent
about = json.loads((here / "model.json").read_text(encoding="utf-8"))
want = about["preprocessing"]
$load
for name in sys.argv[1:]:
    image = Image.open(name)
    image = ImageOps.exif_transpose(image) if want["exif_rotation"] else image
    if image.mode.startswith("I"):  # 16-bit greyscale, which convert() turns white: its high byte
        image = Image.fromarray((np.asarray(image) >> want.get("grey_bits", 16) - 8).astype("uint8"))
    image = image.convert("RGB")
    size = [want["image_size"]] * 2
    if want["resize"] == "crop":
        image = functional.center_crop(functional.resize(image, size[:1]), size)
    pixels = functional.to_tensor(functional.resize(image, size))
    pixels = functional.normalize(pixels, want["mean"], want["std"])
    with torch.no_grad():
        probability, index = model(pixels[None]).softmax(dim=1)[0].max(dim=0)
    print(f"{name}: {about['class_names'][index]} ({100 * probability:.1f} %)")
""")

_NETWORK = """\
model = resnet18(num_classes=about["num_classes"]).eval()
model.load_state_dict({})
"""

FORMATS = {
    f.name: f
    for f in (
        Format(
            "state_dict",
            "model.pt",
            _write_state_dict,
            _read_state_dict,
            "from torchvision.models import resnet18\nfrom torchvision.transforms import functional\n",
            _NETWORK.format('torch.load(here / "model.pt", weights_only=True)'),
        ),
        Format(
            "safetensors",
            "model.safetensors",
            _write_safetensors,
            _read_safetensors,
            "from safetensors.torch import load_file\nfrom torchvision.models import resnet18\n"
            "from torchvision.transforms import functional\n",
            _NETWORK.format('load_file(here / "model.safetensors")'),
        ),
        Format(
            "torch.export",
            "model.pt2",
            _write_program,
            _read_program,
            "from torchvision.transforms import functional\n",
            'model = torch.export.load(here / "model.pt2").module()\n',
        ),
    )
}
"""Writers by the name that `--format` takes."""


def load_handed_over(folder: Path, name: str = "best_model") -> tuple[nn.Module, dict[str, Any]]:
    """The model of an experiment's folder in eval mode, and what its description says of it.

    Args:
        folder: of the experiment.
        name: of the two files, without their suffixes.

    Raises:
        RequestError: it is not there (yet), or damaged.
    """
    weights, description = folder / f"{name}.pt", folder / f"{name}.json"
    for path in (weights, description):
        if not path.is_file():
            raise RequestError(
                f"{path}: is not there. It is written when a search ends, so let this one end (--resume)"
            )
    remedy = "Write it again: the command of the search with --resume"
    try:
        about = read_description(description)
        return _read_state_dict(weights, about["num_classes"]), about
    except OSError as error:
        raise RequestError(f"{error.filename or weights}: cannot be read ({error.strerror})") from None
    except DamagedError as error:
        raise RequestError(f"{description}: is damaged ({error}). {remedy}") from None
    except Exception:  # torch.load raises a dozen types for damaged files
        raise RequestError(f"{weights}: is damaged. {remedy}") from None


def export_model(
    model: nn.Module,
    about: Mapping[str, Any],
    train: TrainSpec,
    formats: Sequence[str],
    output: Path,
    data: Dataset | None,
) -> Report:
    """Write a model in each format, read every file again, and compare its predictions.

    A file appears in `output` only when its outputs on the CPU are those of `model`, bit for bit, and,
    where this machine computes as the one that recorded it, its accuracy is the recorded one (on a GPU,
    but for `MAY_CHANGE_SIDES` of the images). A GPU that cannot do that, or fails at it, is no obstacle:
    the CPU takes over, and the report names the difference.

    Args:
        model: in eval mode, on the CPU.
        about: the content of `best_model.json`.
        train: settings of its run: batch size and number formats of the evaluation.
        formats: names of `FORMATS`.
        output: an existing folder.
        data: the images of the search; None: they are not at hand, and drawn ones are used to compare
            the files with `model`.

    Raises:
        SearchFailed: a file does not give what the model gave. Nothing is written.
        OSError: the disk refused. Nothing is written.
    """
    numerics, why_not = choose_numerics(about["numerics"], train, about["preprocessing"]["image_size"])
    if numerics.device == "cuda":
        try:
            return _export_compared(model, about, train, formats, output, data, numerics, None)
        except RuntimeError as error:  # no memory free, no kernels for this GPU, a GPU that fails
            why_not = first_line(error)
            numerics = resolve_on_cpu(about["numerics"], train, about["preprocessing"]["image_size"])
    return _export_compared(model, about, train, formats, output, data, numerics, why_not)


def _export_compared(
    model: nn.Module,
    about: Mapping[str, Any],
    train: TrainSpec,
    formats: Sequence[str],
    output: Path,
    data: Dataset | None,
    numerics: Numerics,
    why_not: str | None,
) -> Report:
    """What `export_model` does, with the numerics given; `why_not`: why these are not a GPU's."""
    size = about["preprocessing"]["image_size"]
    differences = list_differences(about, numerics, why_not)
    if train.arithmetic and about["kind"] == "baseline":  # an average is evaluated in fp32
        differences.append(f"arithmetic was of {train.arithmetic.bits} bits, is fp32")
    expected = {"validation": about["validation"]["accuracy"]}
    if about["test"] is not None:
        expected["test"] = about["test"]["accuracy"]
    outcomes, source = [], "best_soup.pt" if "recipe" in about else "best_model.pt"
    with _use_threads(numerics.threads), tempfile.TemporaryDirectory(prefix=".model-", dir=output) as scratch:
        reference = _Evaluator(data, size, numerics, train.eval_batch_size)
        # two copies, as tensors are saved in the memory format that they are in
        outputs = reference.compute_outputs(copy.deepcopy(model))
        plain = copy.deepcopy(model).to(memory_format=torch.contiguous_format)
        described = _format_description(about, formats)
        (Path(scratch) / ABOUT).write_text(described, encoding="utf-8")
        (Path(scratch) / EXAMPLE).write_text(_format_example(FORMATS[formats[0]]), encoding="utf-8")
        for chosen in (FORMATS[name] for name in formats):
            path = Path(scratch) / chosen.file
            chosen.write(plain, described, torch.zeros(2, 3, size, size), path)
            path.chmod((Path(scratch) / ABOUT).stat().st_mode)  # safetensors lets only the owner read it
            again = chosen.read(path, about["num_classes"])
            if any(
                not torch.equal(a, b) for a, b in zip(outputs, reference.compute_outputs(again), strict=True)
            ):
                raise SearchFailed(
                    f"{chosen.file}: read again, it does not give what {source} gives, so nothing was written"
                )
            accuracy = reference.measure_accuracy(again)
            if not differences:
                reference.check_recorded(accuracy, expected, source)
            outcomes.append(Outcome(chosen.name, output / chosen.file, path.stat().st_size, accuracy))
        for file in sorted(Path(scratch).iterdir()):
            file.replace(output / file.name)
    return Report(tuple(outcomes), expected, tuple(differences))


MAY_CHANGE_SIDES = 0.002
"""Share of the images, one at least, whose class may be another when a GPU evaluates again: it may choose
other kernels, which add in another order, and an image on the border between two classes changes sides."""


class _Evaluator:
    """Evaluates models on the same images in the same batches."""

    def __init__(self, data: Dataset | None, size: int, numerics: Numerics, batch_size: int) -> None:
        self._data = data
        self._numerics = numerics
        self._batch_size = batch_size
        # a GPU may choose another kernel for an exported program than for a module, which says nothing of the
        # file: files are compared on the CPU
        self._on_cpu = (
            numerics if numerics.device == "cpu" else replace(numerics, device="cpu", precision="fp32")
        )
        drawn = torch.rand(8, 3, size, size, generator=torch.Generator().manual_seed(0))
        self._drawn = drawn.to(memory_format=numerics.memory_format)
        numerics.set_backends()

    def compute_outputs(self, model: nn.Module) -> list[Tensor]:
        """Logits of drawn images on the CPU, one at a time and together."""
        model = model.to(memory_format=self._on_cpu.memory_format)
        with torch.no_grad(), self._on_cpu.autocast():
            return [model(self._drawn), model(self._drawn[:1])]

    def measure_accuracy(self, model: nn.Module) -> dict[str, float]:
        """Evaluate on each part of the images; empty without them. Moves the model to the device."""
        if self._data is None:
            return {}
        model = model.to(self._numerics.device).to(memory_format=self._numerics.memory_format)
        found = {}
        for part, rows in self._list_parts(self._data).items():
            batches = ImageBatches(
                self._data, rows, self._numerics.device, channels_last=self._numerics.channels_last
            )
            said = predict_images(
                _Frozen(model), batches.iterate_ordered(self._batch_size), self._numerics.autocast()
            )
            found[part] = said.compute_metrics()["accuracy"]
        return found

    def check_recorded(self, found: Mapping[str, float], recorded: Mapping[str, float], source: str) -> None:
        """Compare accuracies that have every reason to be equal.

        Raises:
            SearchFailed: they are not, so the model is another one.
        """
        for part in recorded.keys() & found.keys():
            assert self._data is not None
            images = len(self._list_parts(self._data)[part])
            allowed = max(1, MAY_CHANGE_SIDES * images) if self._numerics.device == "cuda" else 0
            if round(abs(found[part] - recorded[part]) * images) > allowed:
                raise SearchFailed(
                    f"{source}: {100 * found[part]:.4f} % on the {part} images, recorded were "
                    f"{100 * recorded[part]:.4f} %, on a machine like this one; nothing was written. The "
                    "file is not what the search has written: write it again with the search's command and "
                    "--resume"
                )

    @staticmethod
    def _list_parts(data: Dataset) -> dict[str, Indices]:
        return {"validation": data.val, "test": data.test}


class _Frozen(nn.Module):
    """A model without modes: an exported program has none, and refuses to be asked."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._call = model.forward

    def forward(self, images: Tensor) -> Tensor:
        output: Tensor = self._call(images)
        return output


@contextmanager
def _use_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _format_description(about: Mapping[str, Any], formats: Sequence[str]) -> str:
    size = about["preprocessing"]["image_size"]
    rest = {key: value for key, value in about.items() if key != "file"}
    description = {
        "files": {name: FORMATS[name].file for name in formats},
        "input": {"shape": ["batch", 3, size, size], "type": "float32"},
        "output": {"shape": ["batch", about["num_classes"]], "what": "logits, in the order of class_names"},
        **rest,
    }
    return json.dumps(description, indent=2, ensure_ascii=False) + "\n"


def _format_example(chosen: Format) -> str:
    return _CLASSIFY.substitute(imports=chosen.imports, load=chosen.load)
