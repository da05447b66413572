"""Archives of weights that arrived damaged, and the advice on those that are programs."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tune_swa.config import ModelSpec
from tune_swa.errors import RequestError
from tune_swa.training.model import resolve_weights

DIRECTORY = b"PK\x01\x02"
"""How an entry of an archive's list of contents begins."""


def refuse(path: Path) -> str:
    with pytest.raises(RequestError) as caught:
        resolve_weights(ModelSpec(weights=str(path)))
    return str(caught.value)


@pytest.mark.parametrize("damage", ["entries", "bytes missing", "version"])
def test_a_damaged_list_of_contents_is_named(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save({"conv1.weight": torch.zeros(3000)}, path)
    whole = path.read_bytes()
    at = whole.index(DIRECTORY)
    path.write_bytes(
        {
            "entries": whole.replace(DIRECTORY, b"\0\0\0\0"),
            "bytes missing": whole[:200] + whole[5000:],
            "version": whole[: at + 6] + b"\xff\x00" + whole[at + 8 :],
        }[damage]
    )
    assert f"{path}" in (message := refuse(path))
    assert "its list of contents is damaged). Copy or download it again" in message


@pytest.mark.parametrize("name", ['14" screens.pt', "it's\\new.pt"])
def test_the_advice_on_torchscript_works(name: str, tmp_path: Path) -> None:
    """Followed as it is written, whatever the file's name."""
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "s.pt")
    (tmp_path / "s.pt").rename(tmp_path / name)
    advice = refuse(tmp_path / name).rpartition("write its weights with: ")[2]
    program, *arguments = shlex.split(advice.removesuffix("."))
    assert program == "python"
    subprocess.run([sys.executable, *arguments], cwd=tmp_path, check=True)
    assert set(torch.load(tmp_path / "weights.pt")) == {"weight", "bias"}
