"""The bundle: what the trainer writes, the device reads, and both compute the same."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from edge_ad.backends.base import max_errors, open_backend
from edge_ad.bundle import Bundle, open_bundle
from edge_ad.config import BackendConfig
from edge_ad.errors import BundleError, DataError
from tests.trainer.tiny import make_dataset, one_process, tiny_config
from trainer import config as configs
from trainer.data.folder import split_good
from trainer.export import export, load_method, run_torch, save_program
from trainer.golden import golden_images
from trainer.macs import count_macs
from trainer.methods.diffusionad.graph import fixed_noise
from trainer.run import Run, create
from trainer.train import train


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return _trained(tmp_path_factory.mktemp("export"))


def _trained(root: Path, **diffusion: object) -> Run:
    data = make_dataset(root / "data")
    config = tiny_config(diffusion={"prediction": "x0", "near": 0.5, **diffusion})
    run = create(root / "run", config, split_good(data, 0.25, 0), 0)
    train(run, one_process(), None, resume=False, workers=0)
    return run


@pytest.fixture(scope="module")
def bundle(run: Run) -> Bundle:
    return export(run.path, run.path.parent / "bundle", program=True, data_licence="CC0")


@pytest.mark.parametrize("n", [1, 2, 5])
def test_onnxruntime_agrees_with_torch(run: Run, bundle: Bundle, n: int) -> None:
    images = golden_images(5, 32, 32)[:n]
    found = open_backend(bundle, BackendConfig()).run(images)
    errors = max_errors(found, run_torch(load_method(run).graph().eval(), torch.from_numpy(images)))
    assert max(errors.values()) <= 1e-4
    assert found.anomaly_map.shape == (n, 32, 32)
    assert found.score.shape == (n,)
    assert found.reconstruction.shape == (n, 32, 32, 3)


def test_without_guidance_the_bundle_has_one_noise_scale_and_says_so(bundle: Bundle, tmp_path: Path) -> None:
    """N stays free with one as with two, and what the second one cost is gone."""
    alone = export(_trained(tmp_path, w=0.0).path, tmp_path / "bundle", program=True)
    program = torch.export.load(alone.path / "model.pt2").module()
    for n in (1, 2, 5):
        images = golden_images(5, 32, 32)[:n]
        found = open_backend(alone, BackendConfig()).run(images)
        assert max(max_errors(found, run_torch(program, torch.from_numpy(images))).values()) <= 1e-4
    assert alone.manifest.macs < bundle.manifest.macs
    assert "one step from t = 200 of 1000, not guided" in (alone.path / "MODEL_CARD.md").read_text()
    assert "one step from t = 200 of 1000, guided from 400, w = 1" in (bundle.path / "MODEL_CARD.md").read_text()


def test_the_score_is_the_mean_of_the_top_k_pixels(bundle: Bundle) -> None:
    out = open_backend(bundle, BackendConfig()).run(golden_images(2, 32, 32))
    largest = np.sort(out.anomaly_map.reshape(2, -1), axis=1)[:, -bundle.manifest.top_k :]
    assert np.allclose(out.score, largest.mean(axis=1), rtol=1e-5)


def test_a_row_does_not_depend_on_its_neighbours(bundle: Bundle) -> None:
    backend, images = open_backend(bundle, BackendConfig()), golden_images(3, 32, 32)
    together = backend.run(images)
    alone = backend.run(images[1:2])
    assert np.allclose(together.anomaly_map[1], alone.anomaly_map[0], atol=1e-6)


def test_the_graph_says_the_same_twice_and_leaves_its_input_alone(bundle: Bundle) -> None:
    backend, images = open_backend(bundle, BackendConfig()), golden_images(1, 32, 32)
    before = images.copy()
    first, second = backend.run(images), backend.run(images)
    assert np.array_equal(first.anomaly_map, second.anomaly_map)
    assert np.array_equal(images, before)


def test_the_noise_is_fixed_by_its_seed_and_independent_between_the_scales() -> None:
    noise = fixed_noise(3, 64, 64)
    assert torch.equal(noise, fixed_noise(3, 64, 64))
    assert not torch.equal(noise, fixed_noise(4, 64, 64))
    small, big = noise[0].flatten().double(), noise[1].flatten().double()
    assert abs(torch.corrcoef(torch.stack([small, big]))[0, 1]) < 0.05
    assert small.std().item() == pytest.approx(1.0, abs=0.05)


def test_the_manifest_tells_the_training(run: Run, bundle: Bundle) -> None:
    manifest = bundle.manifest
    assert manifest.training.images_sha256 == run.train_sha256
    assert manifest.training.calibration_sha256 == run.calibration_sha256
    assert (manifest.training.steps, manifest.method, manifest.profile) == (6, "diffusionad", "tiny")
    assert manifest.training.config_sha256 == configs.digest(configs.told(run.config))
    assert (manifest.training.max_steps, manifest.training.max_minutes) == (6, None)
    assert manifest.program_torch == torch.__version__
    assert set(manifest.files) == {"model.onnx", "model.pt2", "golden.npz", "MODEL_CARD.md"}
    assert "CC0" in (bundle.path / "MODEL_CARD.md").read_text()


def test_the_graph_tells_nothing_of_the_machine_it_was_made_on(bundle: Bundle) -> None:
    """The exporter notes the source file of every node; a bundle goes to customers."""
    content = (bundle.path / "model.onnx").read_bytes()
    assert b"stack_trace" not in content
    assert str(Path(__file__).parents[2]).encode() not in content


def test_the_saved_program_computes_the_same(run: Run, bundle: Bundle) -> None:
    program = torch.export.load(bundle.path / "model.pt2").module()
    images = torch.from_numpy(golden_images(3, 32, 32))
    expected = run_torch(load_method(run).graph().eval(), images)
    assert max(max_errors(run_torch(program, images), expected).values()) <= 1e-5


def test_a_program_on_a_full_disk_is_an_error_like_any_other(run: Run) -> None:
    with pytest.raises(OSError, match="No space left on device"):
        save_program(Path("/dev/full"), load_method(run).graph().eval(), run.config)


def test_a_bundle_is_never_overwritten(run: Run, bundle: Bundle) -> None:
    with pytest.raises(DataError, match="immutable"):
        export(run.path, bundle.path)


def test_a_failed_export_leaves_nothing_behind(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import trainer.export as module

    monkeypatch.setitem(module.TOLERANCE, "anomaly_map", -1.0)
    with pytest.raises(BundleError, match="differs from torch"):
        export(run.path, tmp_path / "out" / "bundle")
    assert not list(tmp_path.rglob("*.onnx"))


def test_the_golden_images_show_no_training_image(bundle: Bundle) -> None:
    assert np.array_equal(bundle.golden().image, golden_images(2, 32, 32))


def test_macs_of_known_operators() -> None:
    """A 3x3 convolution 4 -> 8 on 16 x 16 and a 10 x 20 by 20 x 5 product, for one image of a free batch."""
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "k"], ["y"], pads=[1, 1, 1, 1]),
            helper.make_node("MatMul", ["a", "b"], ["c"]),
        ],
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4, 16, 16]),
            helper.make_tensor_value_info("a", TensorProto.FLOAT, ["N", 10, 20]),
        ],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 8, 16, 16]),
            helper.make_tensor_value_info("c", TensorProto.FLOAT, ["N", 10, 5]),
        ],
        [
            helper.make_tensor("k", TensorProto.FLOAT, [8, 4, 3, 3], np.zeros(288)),
            helper.make_tensor("b", TensorProto.FLOAT, [20, 5], np.zeros(100)),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    onnx.checker.check_model(model)
    assert count_macs(model) == 8 * 16 * 16 * 4 * 9 + 10 * 20 * 5


@pytest.mark.parametrize("victim", ["model.onnx", "golden.npz", "MODEL_CARD.md"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "altered"])
def test_a_damaged_bundle_is_refused_naming_the_file(bundle: Bundle, tmp_path: Path, victim: str, damage: str) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in bundle.path.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    file = copy / victim
    content = file.read_bytes()
    if damage == "missing":
        file.unlink()
    elif damage == "truncated":
        file.write_bytes(content[:-1])
    else:
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(BundleError, match=victim):
        open_bundle(copy)


@pytest.mark.parametrize("key", ["top_k", "schema_version", "digest"])
def test_an_altered_manifest_is_refused(bundle: Bundle, tmp_path: Path, key: str) -> None:
    fields = json.loads((bundle.path / "manifest.json").read_text())
    fields[key] = 99 if key != "digest" else "0" * 64
    (tmp_path / "manifest.json").write_text(json.dumps(fields))
    with pytest.raises(BundleError, match=r"manifest\.json"):
        open_bundle(tmp_path)
