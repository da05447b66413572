"""Export the model that a search hands over, and check every file that is written."""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tune_swa.averaging.posterior import Posterior
from tune_swa.config import TrainSpec
from tune_swa.data.batches import ImageBatches
from tune_swa.data.dataset import Dataset
from tune_swa.data.splits import Indices
from tune_swa.errors import RequestError, SearchFailed
from tune_swa.experiment.events import DamagedError
from tune_swa.experiment.model_description import read_description
from tune_swa.text import first_line
from tune_swa.training.export_formats import ABOUT, EXAMPLE, FORMATS, read_state_dict, write_example
from tune_swa.training.export_numerics import choose_numerics, list_differences, resolve_on_cpu
from tune_swa.training.fast_attention import has_fast_path, leave_fast_path
from tune_swa.training.mean_probability import build_networks, list_networks
from tune_swa.training.metrics import predict_images
from tune_swa.training.numerics import Numerics
from tune_swa.training.plugin_networks import list_plugin_files

POSTERIOR = "posterior.safetensors"
WRITTEN_BY_SEARCH = ("best_model.pt", "best_soup.pt", "best_swap.pt")
"""Weights that a resumed search writes again."""


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
        return read_state_dict(weights, build_networks(about, 1)), about
    except OSError as error:
        raise RequestError(f"{error.filename or weights}: cannot be read ({error.strerror})") from None
    except RequestError:  # the library that has the network is missing
        raise
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
    posterior: Posterior | None = None,
) -> Report:
    """Write a model in each format, read every file again, and compare its predictions.

    A file appears in `output` only when its outputs on the CPU are those of `model`, bit for bit, and,
    where this machine computes as the one that recorded it, its accuracy is the recorded one (on a GPU,
    but for `MAY_CHANGE_SIDES` of the images). A GPU that cannot do that, or fails at it, is no obstacle:
    the CPU takes over, and the report names the difference.

    Args:
        model: in eval mode, on the CPU.
        about: the content of `best_model.json`, or the same of another model, whose `file` says what it was
            read from. Accuracies that it has none of are not compared.
        train: settings of its run: batch size and number formats of the evaluation.
        formats: names of `FORMATS`.
        output: an existing folder.
        data: the images of the search; None: they are not at hand, and drawn ones are used to compare
            the files with `model`.
        posterior: what the networks are drawn from, for a file of its own.

    Raises:
        SearchFailed: a file does not give what the model gave. Nothing is written.
        OSError: the disk refused. Nothing is written.
    """
    numerics, why_not = choose_numerics(about["numerics"], train, about["preprocessing"]["image_size"])
    job = _Job(model, about, train, formats, output, data, posterior)
    if numerics.device == "cuda":
        try:
            return _export_compared(job, numerics, None)
        except RuntimeError as error:  # no memory free, no kernels for this GPU, a GPU that fails
            why_not = first_line(error)
            numerics = resolve_on_cpu(about["numerics"], train, about["preprocessing"]["image_size"])
    return _export_compared(job, numerics, why_not)


@dataclass(frozen=True)
class _Job:
    """The arguments of `export_model`."""

    model: nn.Module
    about: Mapping[str, Any]
    train: TrainSpec
    formats: Sequence[str]
    output: Path
    data: Dataset | None
    posterior: Posterior | None

    @property
    def source(self) -> str:
        """The file that the model was read from."""
        usual = "best_soup.pt" if "recipe" in self.about else "best_model.pt"
        return str(self.about.get("file", usual))

    def list_recorded(self) -> dict[str, float]:
        """Accuracies by part."""
        parts = ("validation", "test")
        return {part: self.about[part]["accuracy"] for part in parts if self.about[part] is not None}


def _export_compared(job: _Job, numerics: Numerics, why_not: str | None) -> Report:
    """What `export_model` does, with the numerics given; `why_not`: why these are not a GPU's."""
    about, train, networks = job.about, job.train, list_networks(job.model)
    size = about["preprocessing"]["image_size"]
    differences = list_differences(about, numerics, why_not)
    if train.arithmetic and about["kind"] == "baseline":  # an average is evaluated in fp32
        differences.append(f"arithmetic was of {train.arithmetic.bits} bits, is fp32")
    expected, outcomes = job.list_recorded(), []
    prefix = ".model-"
    with (
        use_threads(numerics.threads),
        tempfile.TemporaryDirectory(prefix=prefix, dir=job.output) as scratch,
    ):
        folder = Path(scratch)
        reference = _Evaluator(job.data, size, numerics, train.eval_batch_size)
        # two copies, as tensors are saved in the memory format that they are in
        outputs = reference.compute_outputs(copy.deepcopy(job.model))
        plain = copy.deepcopy(job.model).to(memory_format=torch.contiguous_format)
        described = _format_description(job)
        (folder / ABOUT).write_text(described, encoding="utf-8")
        example = write_example(FORMATS[job.formats[0]], len(networks), about)
        (folder / EXAMPLE).write_text(example, encoding="utf-8")
        for name, text in list_plugin_files(about["arch"]).items():
            (folder / name).write_text(text, encoding="utf-8")
        for chosen in (FORMATS[name] for name in job.formats):
            path = folder / chosen.file
            chosen.write(plain, described, torch.zeros(2, 3, size, size), path)
            again = chosen.read(path, build_networks(about, len(networks)))
            if any(
                not torch.equal(a, b) for a, b in zip(outputs, reference.compute_outputs(again), strict=True)
            ):
                raise SearchFailed(
                    f"{chosen.file}: read again, it does not give what {job.source} gives, so nothing was "
                    "written"
                )
            accuracy = reference.measure_accuracy(again)
            if not differences:
                others = chosen.program and has_fast_path(job.model)
                reference.check_recorded(accuracy, expected, job.source, other_kernels=others)
            outcomes.append(Outcome(chosen.name, job.output / chosen.file, path.stat().st_size, accuracy))
        if job.posterior is not None:
            _write_posterior(job.posterior, networks[0], described, folder / POSTERIOR)
        mode = (folder / ABOUT).stat().st_mode
        for file in sorted(folder.iterdir()):
            file.chmod(mode)  # safetensors lets only the owner read it
            file.replace(job.output / file.name)
    return Report(tuple(outcomes), expected, tuple(differences))


def _write_posterior(posterior: Posterior, network: nn.Module, about: str, path: Path) -> None:
    """Write a posterior, and read it again.

    Raises:
        SearchFailed: it is another one when it is read.
    """
    from safetensors.torch import load_file, save_file

    tensors = posterior.name_tensors([name for name, _ in network.named_parameters()])
    save_file(tensors, path, metadata={"format": "pt", ABOUT: about})
    again = load_file(path)
    if any(not torch.equal(tensor, again[name]) for name, tensor in tensors.items()):
        raise SearchFailed(f"{path.name}: read again, it holds other numbers, so nothing was written")


MAY_CHANGE_SIDES = 0.002
"""Share of the images, one at least, whose class may be another when a GPU evaluates again, or a program
whose attention torch computes otherwise: other kernels add in another order, and an image on the border
between two classes changes sides."""


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
        with torch.no_grad(), self._on_cpu.autocast(), leave_fast_path():
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

    def check_recorded(
        self,
        found: Mapping[str, float],
        recorded: Mapping[str, float],
        source: str,
        *,
        other_kernels: bool = False,
    ) -> None:
        """Compare accuracies that have every reason to be equal.

        Args:
            found: by part.
            recorded: by part.
            source: file of the weights.
            other_kernels: whether the model adds in another order than in the search.

        Raises:
            SearchFailed: they are not, so the model is another one.
        """
        for part in recorded.keys() & found.keys():
            assert self._data is not None
            images = len(self._list_parts(self._data)[part])
            may_differ = other_kernels or self._numerics.device == "cuda"
            allowed = max(1, MAY_CHANGE_SIDES * images) if may_differ else 0
            if round(abs(found[part] - recorded[part]) * images) > allowed:
                remedy = "restore it from a copy"
                if source in WRITTEN_BY_SEARCH:
                    remedy = "write it again with the search's command and --resume"
                raise SearchFailed(
                    f"{source}: {100 * found[part]:.4f} % on the {part} images, recorded were "
                    f"{100 * recorded[part]:.4f} %, on a machine like this one; nothing was written. The "
                    f"file is not what the search has written: {remedy}"
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
def use_threads(count: int) -> Iterator[None]:
    """Have torch compute with so many threads on the CPU: results depend on it."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _format_description(job: _Job) -> str:
    about = job.about
    size, members = about["preprocessing"]["image_size"], len(list_networks(job.model))
    what = "logits, in the order of class_names"
    if members > 1:
        what = (
            "logarithms of the members' mean probability, in the order of class_names; softmax gives that "
            "probability"
        )
    description = {
        "files": {name: FORMATS[name].file for name in job.formats},
        "input": {"shape": ["batch", 3, size, size], "type": "float32"},
        "output": {"shape": ["batch", about["num_classes"]], "what": what},
        **{key: value for key, value in about.items() if key != "file"},
        **({"members": members} if members > 1 else {}),
    }
    if job.posterior is not None:
        draw = {"draw": job.posterior.formula, **job.posterior.numbers}
        description["posterior"] = {"file": POSTERIOR, **draw}
    return json.dumps(description, indent=2, ensure_ascii=False) + "\n"
