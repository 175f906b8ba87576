"""Checkpoints: whole, of the right optimizer, and no more of them than asked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from realm.errors import ArtefactError, MismatchError
from realm.training.optim import BertAdam, parameter_groups
from realm.training.state import latest_checkpoint, list_checkpoints, read_facts, restore, save_checkpoint


class Part(nn.Module):
    """A network that saves itself."""

    def __init__(self, size: int = 3) -> None:
        super().__init__()
        self.layer = nn.Linear(size, 2)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        return {"part": list(self.parameters())}

    def save_pretrained(self, folder: Path) -> None:
        folder.mkdir()
        save_file({name: value.contiguous() for name, value in self.state_dict().items()}, folder / "part.safetensors")


def trained(size: int = 3, role: str = "part", steps: int = 2) -> tuple[Part, BertAdam]:
    part = Part(size)
    optimizer = BertAdam(parameter_groups({role: list(part.parameters())}, {role: 0.1}, 0.01), lr=0.0)
    for _ in range(steps):
        part.layer(torch.randn(4, size)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return part, optimizer


def parameters_of(optimizer: BertAdam) -> list[nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def save(root: Path, step: int = 5, **settings: int) -> tuple[Path, BertAdam]:
    part, optimizer = trained()
    return save_checkpoint(root, step, {"part": part}, optimizer, facts={"index_step": 3}, **settings), optimizer


def test_moments_steps_and_random_state_come_back(tmp_path: Path) -> None:
    folder, before = save(tmp_path)
    wanted = torch.randn(3)
    _, optimizer = trained(steps=0)
    torch.manual_seed(99)
    facts = restore(folder, optimizer)
    assert (facts["step"], facts["index_step"]) == (5, 3) == (read_facts(folder)["step"], 3)
    assert torch.equal(torch.randn(3), wanted)
    old_and_new = zip(parameters_of(before), parameters_of(optimizer), strict=True)
    states = [(before.state[p], optimizer.state[q]) for p, q in old_and_new]
    assert len(states) == 2
    for old, new in states:
        assert {name: value.tolist() for name, value in old.items()} == {n: v.tolist() for n, v in new.items()}
        assert float(new["step"]) == 2


def test_another_optimizer_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    folder, _ = save(tmp_path)
    for size, role in ((4, "part"), (3, "reader")):
        _, other = trained(size, role, steps=0)
        torch.manual_seed(7)
        with pytest.raises(MismatchError, match=r"holds the optimizer of 2 parameters in 2 groups.*resume with"):
            restore(folder, other)
        assert not other.state
        after = torch.randn(2)
        torch.manual_seed(7)
        assert torch.equal(after, torch.randn(2)), "a failed restore draws nothing"


@pytest.mark.parametrize("size", [0, 5, 100, -1])
def test_a_cut_file_is_one_line(tmp_path: Path, size: int) -> None:
    folder, _ = save(tmp_path)
    path = folder / "optimizer.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ArtefactError, match=r"optimizer\.safetensors.*damaged; remove.*step-000005") as error:
        restore(folder, trained(steps=0)[1])
    assert "\n" not in str(error.value)


def test_other_damage_is_named(tmp_path: Path) -> None:
    folder, _ = save(tmp_path)
    (folder / "loop.json").write_text("{")
    with pytest.raises(ArtefactError, match=r"loop\.json"):
        restore(folder, trained(steps=0)[1])
    (folder / "optimizer.safetensors").unlink()
    (folder / "manifest.json").write_text(json.dumps({"format": "realm snapshot", "format_version": 1}))
    with pytest.raises(ArtefactError, match=r"realm snapshot.*realm checkpoint"):
        read_facts(folder)
    with pytest.raises(ArtefactError, match="no folder"):
        read_facts(tmp_path / "step-000099")


def test_the_newest_are_kept_and_unfinished_ones_do_not_count(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path / "nothing") is None
    for step in (0, 10, 20, 1_000_000):
        save(tmp_path, step, keep=2)
        (tmp_path / "step-000500").mkdir(exist_ok=True)  # no manifest: somebody was killed
        (tmp_path / "notes").mkdir(exist_ok=True)
    assert [p.name for p in list_checkpoints(tmp_path)] == ["step-000020", "step-1000000"]
    assert latest_checkpoint(tmp_path) == tmp_path / "step-1000000"
    assert not (tmp_path / "step-000000").exists()


def test_a_save_that_fails_leaves_the_one_before(tmp_path: Path) -> None:
    folder, optimizer = save(tmp_path)
    before = sorted((p.name, p.read_bytes()) for p in folder.rglob("*") if p.is_file())

    class Broken(Part):
        def save_pretrained(self, folder: Path) -> None:
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        save_checkpoint(tmp_path, 5, {"part": Broken()}, optimizer, facts={}, keep=1)
    assert sorted((p.name, p.read_bytes()) for p in folder.rglob("*") if p.is_file()) == before
    assert [p.name for p in tmp_path.iterdir()] == ["step-000005"]
