"""The files that a model is exported to: what writes and reads each, and the example that uses it."""

from __future__ import annotations

import io
import logging
import string
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tune_swa.config.network_names import TIMM
from tune_swa.text import first_line
from tune_swa.training.networks import load_named
from tune_swa.training.plugin_networks import write_plugin_call

ABOUT = "model.json"
EXAMPLE = "classify.py"


@dataclass(frozen=True)
class Format:
    """A file format, with what writes and reads it."""

    name: str
    file: str
    write: Callable[[nn.Module, str, Tensor, Path], None]
    """Gets the model in eval mode, the text of `model.json`, images [2, 3, H, W], and the path."""
    read: Callable[[Path, nn.Module], nn.Module]
    """Gets the path and a model of the same networks in eval mode, into which weights are loaded; gives a
    model in eval mode on the CPU."""
    imports: str
    """Lines of `classify.py`, before those that import the network."""
    load: str
    """Expression of `classify.py`: the file's weights, or of a program the model itself."""
    program: bool = False
    """Whether it holds the network as well as its weights."""


def _write_state_dict(model: nn.Module, about: str, images: Tensor, path: Path) -> None:
    torch.save(model.state_dict(), path)


def read_state_dict(path: Path, model: nn.Module) -> nn.Module:
    """Load a state_dict that torch.save has written, and return the model."""
    load_named(model, torch.load(path, map_location="cpu", weights_only=True))
    return model


def _write_safetensors(model: nn.Module, about: str, images: Tensor, path: Path) -> None:
    from safetensors.torch import save_file

    # the format has no place for values, so its own convention is text under free names
    # nor for tensors that share their memory, or are transposed
    tensors = {
        name: tensor.clone(memory_format=torch.contiguous_format)
        for name, tensor in model.state_dict().items()
    }
    save_file(tensors, path, metadata={"format": "pt", ABOUT: about})


def _read_safetensors(path: Path, model: nn.Module) -> nn.Module:
    from safetensors.torch import load_file

    load_named(model, load_file(path))
    return model


def _write_program(model: nn.Module, about: str, images: Tensor, path: Path | io.BytesIO) -> None:
    # from two images, as torch takes a dimension of one for a constant
    program = torch.export.export(model, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, path, extra_files={ABOUT: about})


def _read_program(path: Path, model: nn.Module) -> nn.Module:
    program: nn.Module = torch.export.load(path).module()
    return program


_CLASSIFY = string.Template("""\
\"\"\"Classify images: python classify.py IMAGE...\"\"\"

import json
import sys
from pathlib import Path

import numpy as np
${library}import torch
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

_PROGRAM = "model = {load}\n"

_LOAD = "{name}.load_state_dict({load})\n"

_LOAD_WITH_VERSIONS = """\
state = {name}.state_dict()  # torchvision's {arch} wants the versions in it, too
state.update({load})
{name}.load_state_dict(state)
"""

_NETWORK = """\
model = {network}.eval()
{loading}"""

_NETWORKS = """\
networks = torch.nn.ModuleList({network} for _ in range(about["members"]))
{loading}

def model(images):
    # softmax gives the mean probability back: that of its logarithm
    return torch.stack([network(images).softmax(dim=1) for network in networks]).mean(dim=0).log()


"""

FORMATS = {
    f.name: f
    for f in (
        Format(
            "state_dict",
            "model.pt",
            _write_state_dict,
            read_state_dict,
            "",
            'torch.load(here / "model.pt", weights_only=True)',
        ),
        Format(
            "safetensors",
            "model.safetensors",
            _write_safetensors,
            _read_safetensors,
            "from safetensors.torch import load_file\n",
            'load_file(here / "model.safetensors")',
        ),
        Format(
            "torch.export",
            "model.pt2",
            _write_program,
            _read_program,
            "",
            'torch.export.load(here / "model.pt2").module()',
            program=True,
        ),
    )
}
"""Writers by the name that `--format` takes."""


def explain_untraceable(model: nn.Module, image_size: int) -> str | None:
    """Say why torch.export cannot write a model, as that of a plugin's code; None: it can."""
    try:
        with _silence_compiler():
            _write_program(model, "", torch.zeros(2, 3, image_size, image_size), io.BytesIO())
    except Exception as error:  # whatever its compiler raises
        return first_line(error, 200)
    return None


@contextmanager
def _silence_compiler() -> Iterator[None]:
    """Keep what torch's compiler says of a program that it gives up: pages of its graph."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)


def write_example(chosen: Format, members: int, about: Mapping[str, Any]) -> str:
    """Return the text of `classify.py`.

    Args:
        chosen: the format that it reads.
        members: number of networks.
        about: what `best_model.json` says of them.
    """
    arch = about["arch"]
    lines = _PROGRAM if chosen.program else _NETWORK if members == 1 else _NETWORKS
    loading = (_LOAD_WITH_VERSIONS if arch.startswith("mnasnet") else _LOAD).format(
        name="model" if members == 1 else "networks.eval()", load=chosen.load, arch=arch
    )
    library, imports, call = _write_call(arch, has_arguments="arch_arguments" in about)
    own = write_plugin_call(arch)
    plugin = ""
    if own is not None:
        library, imports, call = "", "", own
        plugin = "from tune_swa.training.plugin_networks import build_plugin_network\n"
    if chosen.program:
        library = imports = plugin = ""
    return _CLASSIFY.substitute(
        library=library,
        imports=f"{chosen.imports}{imports}from torchvision.transforms import functional\n{plugin}",
        load=lines.format(load=chosen.load, network=call, loading=loading),
    )


def _write_call(arch: str, *, has_arguments: bool) -> tuple[str, str, str]:
    """Return an import of a library, one of a network, and the expression that builds the network."""
    given = 'num_classes=about["num_classes"]' + (', **about["arch_arguments"]' if has_arguments else "")
    if arch.startswith(TIMM):
        return "import timm\n", "", f'timm.create_model("{arch.removeprefix(TIMM)}", {given})'
    return "", f"from torchvision.models import {arch}\n", f"{arch}({given})"
