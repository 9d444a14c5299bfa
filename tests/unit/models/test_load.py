"""Models that cannot be loaded, through real calls of diffusers and the hub, and the memory that loading takes."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import huggingface_hub
import pytest
import torch
from diffusers import FluxTransformer2DModel
from safetensors.torch import load_file, save_file

from srpo_ray.cli import main
from srpo_ray.models.families import family_of
from srpo_ray.models.loading import load_transformer, load_vae
from srpo_ray.models.paths import resolve_path
from tests.conftest import SMALL_WORLD
from tests.helpers.models.tiny_sd3 import copy_of

EMBEDDED = Path(resolve_path("small_world"))
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


class Hub(BaseHTTPRequestHandler):
    """Fake hub: refuses `gated/...` and reports anything else as unknown."""

    def do_GET(self) -> None:
        gated = self.path.startswith("/gated/")
        self.send_response(403 if gated else 404)
        self.send_header("X-Error-Code", "GatedRepo" if gated else "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET  # noqa: N815, the base class's names

    def log_message(self, format: str, *args: object) -> None:
        """Suppress the log."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    yield
    server.shutdown()


@pytest.mark.usefixtures("hub")
def test_gated_model_names_its_licence_page_and_the_login_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", str(SMALL_WORLD), f"run_root={tmp_path}", "model.path=gated/FLUX.1-dev"]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "https://huggingface.co/gated/FLUX.1-dev" in error
    assert "hf auth login" in error
    assert "Traceback" not in error


@pytest.mark.usefixtures("hub")
def test_unknown_hub_id_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"model.path: expected a folder, or an accessible hub id.* got 'nobody/nothing'"
    ):
        family_of("nobody/nothing")


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (
            '{"_class_name": "PixArtAlphaPipeline"}',
            "FluxPipeline or StableDiffusion3Pipeline or .*, got 'PixArtAlphaPipeline'",
        ),
        ("{", "expected a JSON object in"),
        ("[]", "expected a JSON object in"),
    ],
)
def test_pipeline_without_an_adapter_is_refused(tmp_path: Path, index: str, message: str) -> None:
    (tmp_path / "model_index.json").write_text(index)
    with pytest.raises(ValueError, match=message):
        family_of(str(tmp_path))


def test_folder_without_a_pipeline_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model.path: expected a folder with a pipeline .* without model_index.json"):
        load_transformer(str(tmp_path), torch.float32)


@pytest.mark.parametrize("spoil", ["truncated", "absent", "of another shape"])
def test_weights_that_cannot_be_read_are_refused(tmp_path: Path, spoil: str) -> None:
    folder = copy_of(EMBEDDED, tmp_path / "flux")
    weights, config = folder / WEIGHTS, folder / "transformer/config.json"
    if spoil == "truncated":
        weights.write_bytes(weights.read_bytes()[:-1000])
    elif spoil == "absent":
        weights.unlink()
    else:
        config.write_text(json.dumps(json.loads(config.read_text()) | {"num_attention_heads": 2}))
    with pytest.raises(
        ValueError, match=r"model.path: .* whose transformer cannot be read .*; download or save it again"
    ):
        load_transformer(str(folder), torch.float32)


def test_missing_and_surplus_weights_are_counted_and_the_first_are_named(tmp_path: Path) -> None:
    folder = copy_of(EMBEDDED, tmp_path / "flux")
    tensors = load_file(folder / WEIGHTS)
    names = sorted(tensors)[:5]
    for name in names:
        tensors[f"x_{name}"] = tensors.pop(name)
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(ValueError, match=rf"5 \({names[0]}, .*\.\.\.\) missing and 5 \(x_{names[0]}, .*\) unexpected"):
        load_transformer(str(folder), torch.float32)


def test_vae_is_frozen() -> None:
    assert not any(parameter.requires_grad for parameter in load_vae("small_world", torch.float32).parameters())


def test_process_maps_the_weights_and_keeps_no_copy_of_its_own(tmp_path: Path) -> None:
    """Pages of the mapped file are shared by all workers of a machine; only anonymous memory is private."""
    copy_of(EMBEDDED, tmp_path / "flux")
    with torch.device("meta"):
        network = FluxTransformer2DModel(num_layers=1, num_single_layers=2, num_attention_heads=8)
    network.to_empty(device="cpu").save_pretrained(tmp_path / "flux" / "transformer")
    size = (tmp_path / "flux" / WEIGHTS).stat().st_size
    assert size > 200e6
    before = _anonymous_bytes()
    loaded = load_transformer(str(tmp_path / "flux"), torch.float32)
    assert sum(parameter.nbytes for parameter in loaded.parameters()) == pytest.approx(size, rel=0.01)
    assert _anonymous_bytes() - before < 0.1 * size


def _anonymous_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))
