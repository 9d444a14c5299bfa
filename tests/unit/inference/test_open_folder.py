"""The folder of images belongs to the weights and files that the images were made from."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from srpo_ray.cli import main
from srpo_ray.config import apply
from srpo_ray.inference.draw import JOB, ROWS, open_folder
from srpo_ray.inference.job import Model, SamplingJob, open_run
from srpo_ray.models.contrast import ContrastWeight
from srpo_ray.runs.checkpoint import read_checkpoint, save_checkpoint
from srpo_ray.runs.folder import RunFolder
from srpo_ray.runs.inputs import input_hashes, keep_inputs
from srpo_ray.runs.storage import Storage
from srpo_ray.small_world.weights import flux_dir, reward_dir
from tests.helpers.training.trained_run import trained_run


@pytest.fixture(scope="session")
def run_of_copies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run, whose model and held-out reward are copies that a test may change."""
    root = tmp_path_factory.mktemp("copies")
    shutil.copytree(flux_dir(), root / "flux")
    shutil.copytree(reward_dir("held_out"), root / "reward")
    overrides = (f"model.path={root / 'flux'}", f"evaluation.held_out.0.path={root / 'reward'}")
    config, _ = trained_run(root / "mine", f"run_root={root}", *overrides)
    keep_inputs(RunFolder(root / "mine").inputs, input_hashes(config), has_results=False, cure="")
    return root


@pytest.fixture
def root(run_of_copies: Path, tmp_path: Path) -> Path:
    """A copy of its folder, with the paths in its files set right."""
    root = Path(shutil.copytree(run_of_copies, tmp_path / "root"))
    for file in (root / "mine" / "config.yaml", root / "mine" / "inputs.json"):
        file.write_text(file.read_text().replace(str(run_of_copies), str(root)))
    return root


def job(run_dir: Path, out: Path, *, rl_guidance: float = 1, scored: bool = False) -> SamplingJob:
    run = open_run(run_dir)
    model = Model("drawn", run, ContrastWeight.constant(rl_guidance))
    return SamplingJob(run.config, (model,), ("a cat",), out, scored=scored)


def train_again(run_dir: Path, shift: float = 0.01) -> None:
    """Other weights under the same name and update."""
    storage = Storage(RunFolder(run_dir).checkpoints)
    found = read_checkpoint(storage, 7)
    weights = {name: tensor + shift for name, tensor in found.weights.items()}
    save_checkpoint(storage, 7, weights, dict(found.optimizer), {}, {}, kept=1)


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("rl_guidance", [1.0, 1.5])
def test_folder_of_the_weights_before_is_refused(root: Path, tmp_path: Path, rl_guidance: float) -> None:
    open_folder(job(root / "mine", tmp_path / "out", rl_guidance=rl_guidance))
    open_folder(job(root / "mine", tmp_path / "out", rl_guidance=rl_guidance))
    train_again(root / "mine")
    message = r"out, which has images of other models\.drawn\.weights; the run was trained again"
    with pytest.raises(ValueError, match=message):
        open_folder(job(root / "mine", tmp_path / "out", rl_guidance=rl_guidance))


def test_images_of_the_base_model_do_not_depend_on_trained_weights(root: Path, tmp_path: Path) -> None:
    open_folder(job(root / "mine", tmp_path / "out", rl_guidance=0))
    before = (tmp_path / "out" / "job.json").read_text()
    train_again(root / "mine")
    open_folder(job(root / "mine", tmp_path / "out", rl_guidance=0))
    assert (tmp_path / "out" / "job.json").read_text() == before


def test_images_of_a_quantised_base_model_are_other_images(root: Path, tmp_path: Path) -> None:
    run = open_run(root / "mine")
    for base in (None, "int8"):
        config = apply(run.config, {"model.lora": {"rank": 2}, "model.base": base})
        model = Model("drawn", replace(run, config=config), ContrastWeight.constant(0))
        described = SamplingJob(config, (model,), ("a cat",), tmp_path / "out", scored=False)
        if base is None:
            open_folder(described)
    with pytest.raises(ValueError, match=r"images of other models\.drawn\.base"):
        open_folder(described)


def test_folder_of_a_run_that_moved_is_resumed(root: Path, tmp_path: Path) -> None:
    open_folder(job(root / "mine", root / "mine" / "evaluation", scored=True))
    before = (root / "mine" / "evaluation" / "job.json").read_text()
    moved = (root / "mine").rename(tmp_path / "moved")
    open_folder(job(moved, moved / "evaluation", scored=True))
    assert (moved / "evaluation" / "job.json").read_text() == before


def test_changed_reward_counts_where_images_are_scored(root: Path, tmp_path: Path) -> None:
    for scored in (False, True):
        open_folder(job(root / "mine", tmp_path / str(scored), scored=scored))
    flip(root / "reward" / "open_clip_model.safetensors")
    open_folder(job(root / "mine", tmp_path / "False"))
    with pytest.raises(ValueError, match=r"evaluation\.held_out\.0\.path: \S*reward \(open_clip_model\.safetensors\)"):
        open_folder(job(root / "mine", tmp_path / "True", scored=True))


def test_run_whose_model_changed_since_its_training_is_refused_with_the_file(root: Path, tmp_path: Path) -> None:
    open_folder(job(root / "mine", tmp_path / "out"))
    flip(root / "flux" / "vae" / "diffusion_pytorch_model.safetensors")
    with pytest.raises(ValueError, match=r"model\.path: \S*flux \(vae/diffusion_pytorch_model\.safetensors\)"):
        job(root / "mine", tmp_path / "out")
    # Without a record of what it was trained from, the images of before are not taken for those of now all the same.
    (root / "mine" / "inputs.json").unlink()
    with pytest.raises(ValueError, match=r"other model\.vae/diffusion_pytorch_model\.safetensors"):
        open_folder(job(root / "mine", tmp_path / "out"))


def test_rows_of_unknown_origin_are_refused(root: Path, tmp_path: Path) -> None:
    open_folder(job(root / "mine", tmp_path / "out"))
    (tmp_path / "out" / ROWS).write_text("")
    open_folder(job(root / "mine", tmp_path / "out"))
    (tmp_path / "out" / JOB).unlink()
    with pytest.raises(ValueError, match=r"job\.json is missing"):
        open_folder(job(root / "mine", tmp_path / "out"))


def test_weights_that_are_trained_again_while_a_job_runs_are_not_read(root: Path) -> None:
    run = open_run(root / "mine")
    assert run.weights
    train_again(root / "mine")
    with pytest.raises(ValueError, match="trained again meanwhile"):
        _ = run.weights


@pytest.mark.parametrize("words", [["sample", "a cat"], ["evaluate", "--num-prompts=1", "--samples-per-prompt=1"]])
def test_command_repeated_after_another_training_is_refused_and_leaves_the_folder(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    out = tmp_path / "out"
    command = [words[0], str(root / "mine"), *words[1:], "--steps", "1", "--out", str(out)]
    assert main(command) == 0
    before = {path: path.read_bytes() for path in out.rglob("*.*")}
    train_again(root / "mine")
    assert main(command) == 2
    assert "models.tuned.weights; the run was trained again" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in out.rglob("*.*")} == before


def test_changed_code_of_a_python_reward_makes_another_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    code = tmp_path / "reward_of_a_job.py"
    code.write_text("class Mine:\n    image_gradient = True\n")
    reward = "{type: python, name: held_out, target: 'reward_of_a_job:Mine'}"
    trained_run(tmp_path / "mine", f"run_root={tmp_path}", f"evaluation.held_out=[{reward}]")
    open_folder(job(tmp_path / "mine", tmp_path / "out", scored=True))
    open_folder(job(tmp_path / "mine", tmp_path / "out", scored=True))
    code.write_text("class Mine:\n    image_gradient = False\n")
    with pytest.raises(ValueError, match=r"evaluation\.held_out\.0\.target: reward_of_a_job:Mine"):
        open_folder(job(tmp_path / "mine", tmp_path / "out", scored=True))
