"""Rules of edge-ad-calibrate: what it stores the device applies, and every refusal is one line and exit code 2."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from calibration.cli import main
from edge_ad.backends.base import open_backend
from edge_ad.bundle import MANIFEST, MODEL_FILE, open_bundle
from edge_ad.cli import main as edge_ad
from edge_ad.config import BackendConfig, default_store, load
from edge_ad.core.layout import Layout
from edge_ad.core.preprocess import preprocess
from edge_ad.images import read_image, write_png
from edge_ad.records import Roi
from edge_ad.thresholds import Service, in_force, record_path, service_of, why_not
from tests.bundles import make_bundle
from tests.calibration.site import make_good, set_training
from tests.daemons import running_daemon
from tests.station import calibrate, write_parts

WISH = ["--false-alarm-rate", "0.05"]  # supported by 59 images


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "bundle")


@pytest.fixture
def good(tmp_path: Path) -> Path:
    make_good(tmp_path / "good", 60)
    return tmp_path / "good"


def station(folder: Path, bundle: Path, extra: str = "") -> Path:
    path = folder / "station.yaml"
    path.write_text(
        f"station: s1\nstate_dir: state\nbundle: {bundle}\ncamera: {{kind: folder, name: top, path: {folder}}}\n"
        f"roi: {{x: 4, y: 2, w: 30, h: 33}}\n{extra}"
    )
    return path


def run(*arguments: str | Path) -> int:
    return main([str(argument) for argument in arguments])


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """Run a command that must be refused; its one line."""
    assert run(*arguments) == 2
    line = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("scoring")]
    assert len(line) == 1, line
    assert line[0].startswith("error: ")
    return line[0]


# --- fit --------------------------------------------------------------------------------------------------------


def test_the_console_script_says_and_stores_the_calibration(bundle: Path, good: Path) -> None:
    script = Path(sys.executable).with_name("edge-ad-calibrate")
    result = subprocess.run(
        [script, "fit", bundle, "--good", good, *WISH, "--by", "anna"], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert "record 1 in" in result.stdout
    assert "rank 60 of 60 good scores" in result.stdout
    assert "at most 5 % with 95.39 % confidence (wanted 95 %); expected 1.639 %" in result.stdout
    assert "by anna" in result.stdout
    assert result.stdout.count("<- threshold") == 1
    assert result.stderr.splitlines()[-1] == "scoring 60/60"
    record = in_force(default_store(bundle))
    assert record is not None
    assert f"image threshold  {record.image_threshold:.6g}" in result.stdout
    picture = default_store(bundle) / "records" / "000001.png"
    assert cv2.imread(str(picture)) is not None


def test_the_record_is_what_the_device_applies_to_this_bundle(bundle: Path, good: Path) -> None:
    assert run("fit", bundle, "--good", good, *WISH) == 0
    record = in_force(default_store(bundle))
    assert record is not None
    assert why_not(record, Service(open_bundle(bundle).digest, "fp32", None, None)) is None
    backend = open_backend(open_bundle(bundle), BackendConfig())
    scores = [
        float(backend.run(preprocess(read_image(p), None, Layout(32, 32))).score[0]) for p in sorted(good.iterdir())
    ]
    assert record.image_threshold == max(scores)
    assert record.pixel_threshold <= record.image_threshold
    assert (record.rank, record.n_images, len(record.images_sha256)) == (60, 60, 60)


def test_json_tells_the_same_as_the_record(bundle: Path, good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(good / "000.png", good / "copy.png")
    assert run("fit", bundle, "--good", good, "--good", good, *WISH, "--json") == 0
    fields = json.loads(capsys.readouterr().out)
    record = in_force(default_store(bundle))
    assert record is not None
    assert fields["record"] == record.model_dump(mode="json", by_alias=True)
    assert fields["copies"] == 62  # every file twice and one copy: 122 files, 60 contents
    assert fields["reached_confidence"] == pytest.approx(1 - 0.95**60)
    assert fields["expected_false_alarm_rate"] == pytest.approx(1 / 61)
    assert Path(fields["picture"]).is_file()
    assert fields["highest"][0]["score"] == record.image_threshold


def test_the_files_with_the_highest_scores_are_named_for_a_person_to_look_at(
    tmp_path: Path, bundle: Path, good: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where a name is no UTF-8, as a ZIP from Windows brings them."""
    odd = Path(os.fsdecode(os.fsencode(good) + b"/kratz\xfcr.png"))
    write_png(good / "dark.png", np.full((40, 40, 3), 20, np.uint8))
    (good / "dark.png").rename(odd)
    write_png(good / "darker.png", np.full((40, 40, 3), 10, np.uint8))
    assert run("fit", bundle, "--good", good, *WISH) == 0
    lines = capsys.readouterr().out.splitlines()
    named = lines[lines.index("highest scores, of images to look at:") + 1 :][:5]
    assert [line.split("  ")[-1] for line in named][:2] == [f"{good}/darker.png", f"{good}/kratz\\udcfcr.png"]
    scores = [float(line.split()[0]) for line in named]
    assert scores == sorted(scores, reverse=True)
    assert run("fit", bundle, "--good", good, *WISH, "--json") == 0
    fields = json.loads(capsys.readouterr().out)
    assert [each["file"] for each in fields["highest"]] == [line.split("  ")[-1] for line in named]


@pytest.mark.parametrize("by", ["", "anna\n", "\x1b[31manna", os.fsdecode(b"M\xfcller"), "a" * 65])
def test_who_asks_is_a_name_or_one_line_says_that_it_is_none(
    bundle: Path, good: Path, capsys: pytest.CaptureFixture[str], by: str
) -> None:
    for command in (("fit", bundle, "--good", good), ("rollback", bundle)):
        with pytest.raises(SystemExit) as stop:
            run(*command, "--by", by)
        assert stop.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: argument --by: must be 1 to 64 characters in UTF-8, none of them a control")
    assert not default_store(bundle).exists()


def test_with_a_station_roi_camera_and_store_are_the_stations(tmp_path: Path, bundle: Path, good: Path) -> None:
    config = station(tmp_path, bundle, f"store: {tmp_path / 'kept'}")
    assert run("fit", bundle, "--good", good, "--config", config, *WISH) == 0
    record = in_force(tmp_path / "kept")
    assert record is not None
    assert record.camera == "top"
    assert why_not(record, service_of(load(config), open_bundle(bundle).digest)) is None
    assert why_not(record, Service(open_bundle(bundle).digest, "fp32", None, None)) is not None


def test_without_a_station_the_roi_is_the_one_of_the_training(bundle: Path, good: Path) -> None:
    set_training(bundle, [], [], roi={"x": 1, "y": 2, "w": 30, "h": 31})
    assert run("fit", bundle, "--good", good, *WISH) == 0
    record = in_force(default_store(bundle))
    assert record is not None
    assert record.roi is not None
    assert record.roi.record() == Roi(1, 2, 30, 31)


def test_with_a_station_the_store_is_the_daemons_however_the_bundle_is_spelt(
    tmp_path: Path, bundle: Path, good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in-service").symlink_to("bundle")
    config = station(tmp_path, tmp_path / "in-service")
    monkeypatch.chdir(bundle)
    for spelt in (bundle, Path(), Path("..", "bundle")):
        assert run("fit", spelt, "--good", good, "--config", config, *WISH) == 0
        assert run("show", spelt, "--config", config) == 0
    assert in_force(load(config).store_dir()).number == 3  # type: ignore[union-attr]
    assert not default_store(bundle).exists()


@pytest.mark.parametrize("inside", [False, True])
def test_the_default_store_lies_beside_the_bundle_also_where_that_is_the_working_directory(
    bundle: Path, good: Path, monkeypatch: pytest.MonkeyPatch, inside: bool
) -> None:
    (bundle / "deeper").mkdir()
    monkeypatch.chdir(bundle / "deeper" if inside else bundle)
    assert run("fit", ".." if inside else ".", "--good", good, *WISH) == 0
    assert in_force(default_store(bundle)) is not None


def test_after_an_exchange_of_the_bundle_a_daemon_that_has_the_old_one_is_to_be_restarted_and_every_command_says_so(
    tmp_path: Path, bundle: Path, good: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would say that the record is not applied, and to fit again would lead in a circle."""
    config = station(tmp_path, bundle, "mqtt: {port: 1}\n")
    write_parts(tmp_path / "parts", 1)
    config.write_text(config.read_text().replace(f"path: {tmp_path}", f"path: {tmp_path / 'parts'}, at_end: wait"))
    fit, note = ("fit", bundle, "--good", good, "--config", config, *WISH), "bundle or configuration: restart edge-ad"
    with running_daemon(config) as daemon:
        daemon.wait_for_log("uncalibrated")
        assert run(*fit) == 0
        daemon.wait_for_log("calibration 1 in force")
        assert "restart" not in capsys.readouterr().err
        shutil.copytree(make_bundle(tmp_path / "new", top_k=5), bundle, dirs_exist_ok=True)
        for command in (fit, ("show", bundle, "--config", config)):
            assert run(*command) == 0
            assert capsys.readouterr().err.splitlines()[-1].endswith(note)
        daemon.wait_for_log("fit, or restart edge-ad if its bundle or configuration was exchanged")
        edge_ad(["check", str(config)])
        (line,) = [line for line in capsys.readouterr().out.splitlines() if " calibration: " in line]
        assert line.startswith("warning  calibration: record 2 waits: ")
        assert line.endswith(note)
    with running_daemon(config) as daemon:
        daemon.wait_for_log("calibration 2 in force")
        assert run("show", bundle, "--config", config) == 0
        assert capsys.readouterr().err == ""


def test_held_out_images_among_those_of_the_training_are_picked(tmp_path: Path, bundle: Path) -> None:
    paths = make_good(tmp_path / "all", 70)
    set_training(bundle, trained_on=paths[:10], held_out=paths[10:])
    assert run("fit", bundle, "--good", tmp_path / "all", "--held-out", *WISH) == 0
    record = in_force(default_store(bundle))
    assert record is not None
    assert record.n_images == 60


# --- refusals: one line, exit code 2, nothing stored ------------------------------------------------------------


def test_a_wish_that_n_cannot_support_names_the_n_that_would(
    bundle: Path, good: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, "fit", bundle, "--good", good)
    assert "a false-alarm rate of 1 % at 95 % confidence needs 299 independent good images, there are 60" in line
    assert not default_store(bundle).exists()


def test_copies_do_not_help(bundle: Path, good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(240):
        shutil.copy(good / f"{i % 60:03d}.png", good / f"copy{i}.png")
    assert "needs 299 independent good images, there are 60" in refused(capsys, "fit", bundle, "--good", good)


def test_images_of_the_training_are_refused(bundle: Path, good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    set_training(bundle, sorted(good.iterdir())[3:5], [])
    line = refused(capsys, "fit", bundle, "--good", good, *WISH)
    assert f"the bundle was trained on 2 of 60 images, {good / '003.png'} among them" in line


@pytest.mark.parametrize("value", ["0", "1", "5"])
def test_a_rate_out_of_range_is_refused(
    bundle: Path, good: Path, capsys: pytest.CaptureFixture[str], value: str
) -> None:
    line = refused(capsys, "fit", bundle, "--good", good, "--false-alarm-rate", value)
    assert f"false-alarm rate {value} is out of range" in line


@pytest.mark.parametrize("value", ["0", "1", "95", "nan"])
def test_a_confidence_out_of_range_is_refused(
    bundle: Path, good: Path, capsys: pytest.CaptureFixture[str], value: str
) -> None:
    line = refused(capsys, "fit", bundle, "--good", good, "--confidence", value)
    assert f"confidence {value} is out of range" in line


def test_grey_mixed_with_colour_is_refused_with_two_names(
    bundle: Path, good: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_png(good / "grey.png", np.full((40, 40), 200, np.uint8))
    line = refused(capsys, "fit", bundle, "--good", good, *WISH)
    assert f"{good / 'grey.png'} is grey, {good / '000.png'} is colour" in line


def test_an_unreadable_image_is_named(bundle: Path, good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = good / "030.png"
    path.write_bytes(path.read_bytes()[:-100])
    assert f"cannot decode {good / '030.png'}" in refused(capsys, "fit", bundle, "--good", good, *WISH)


def test_a_folder_without_images_is_named(
    tmp_path: Path, bundle: Path, good: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    line = refused(capsys, "fit", bundle, "--good", good, "--good", tmp_path / "empty", *WISH)
    assert f"no images in {tmp_path / 'empty'}" in line


def test_an_altered_bundle_is_refused(bundle: Path, good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (bundle / MODEL_FILE["fp32"]).open("ab") as file:
        file.write(b"x")
    assert "model.onnx has" in refused(capsys, "fit", bundle, "--good", good, *WISH)
    (bundle / MANIFEST).unlink()
    assert "is missing" in refused(capsys, "fit", bundle, "--good", good, *WISH)


def test_a_precision_that_was_not_exported_is_refused(
    bundle: Path, good: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, "fit", bundle, "--good", good, *WISH, "--precision", "int8")
    assert "holds no int8 model" in line


def refused_early(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """As `refused`, before an image was scored."""
    assert run(*arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_station_of_another_bundle_is_refused(
    tmp_path: Path, bundle: Path, good: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = station(tmp_path, make_bundle(tmp_path / "other", top_k=5))
    line = refused_early(capsys, "fit", bundle, "--good", good, "--config", config, *WISH)
    assert f"{config} runs bundle {open_bundle(tmp_path / 'other').digest[:12]} of {tmp_path / 'other'}" in line
    assert not default_store(bundle).exists()


def test_a_precision_that_the_station_is_not_on_is_refused(
    tmp_path: Path, good: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = make_bundle(tmp_path / "both", int8=True)
    config = station(tmp_path, both)
    line = refused_early(capsys, "fit", both, "--good", good, "--config", config, *WISH, "--precision", "int8")
    assert "the station would not apply this calibration: it is of precision int8, in service is fp32" in line
    assert not default_store(both).exists()


def test_a_store_in_which_another_cameras_record_is_in_force_is_refused(
    tmp_path: Path, bundle: Path, good: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, side = station(tmp_path, bundle), tmp_path / "side.yaml"
    side.write_text(config.read_text().replace("name: top", "name: side"))
    assert run("fit", bundle, "--good", good, "--config", config, *WISH) == 0
    capsys.readouterr()
    line = refused_early(capsys, "fit", bundle, "--good", good, "--config", side, *WISH)
    assert "it is of camera top, this station's is side: give the station a store of its own with `store:`" in line
    assert in_force(default_store(bundle)).camera == "top"  # type: ignore[union-attr]
    assert "it is of camera top" in refused(capsys, "show", bundle, "--config", side)
    side.write_text(side.read_text() + "store: its-own\n")
    assert run("fit", bundle, "--good", good, "--config", side, *WISH) == 0


def test_without_a_station_what_it_would_not_apply_replaces_nothing_of_the_same_bundle(
    tmp_path: Path, bundle: Path, good: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = station(tmp_path, bundle)
    assert run("fit", bundle, "--good", good, "--config", config, *WISH) == 0
    capsys.readouterr()
    line = refused_early(capsys, "fit", bundle, "--good", good, *WISH)
    assert line.startswith(f"error: record 1, in force in {default_store(bundle)}, is not to be replaced: it is of ")
    assert "name the station with --config" in line
    assert run("show", bundle, "--config", config) == 0


def test_what_somebody_else_puts_in_force_while_images_are_scored_is_told_and_the_time_is_that_of_the_change(
    bundle: Path, good: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    meanwhile = iter([lambda: calibrate(bundle)])

    def read(path: Path) -> np.ndarray:
        next(meanwhile, lambda: None)()
        return read_image(path)

    monkeypatch.setattr("calibration.scores.read_image", read)
    assert run("fit", bundle, "--good", good, *WISH) == 0
    assert "replaced         what came while the images were scored: " in capsys.readouterr().out
    assert run("fit", bundle, "--good", good, *WISH, "--json") == 0
    assert json.loads(capsys.readouterr().out)["replaced_meanwhile"] is None


def test_a_store_that_cannot_be_written_is_refused(
    tmp_path: Path, bundle: Path, good: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    line = refused_early(capsys, "fit", bundle, "--good", good, *WISH, "--store", tmp_path / "file" / "store")
    assert "cannot write the calibration store" in line
    assert "Not a directory; mend it, or name another store" in line


@pytest.mark.parametrize(("fitted", "in_service"), [("fp32", "int8"), ("int8", "fp32")])
def test_a_calibration_of_one_precision_never_serves_the_other(
    tmp_path: Path, good: Path, capsys: pytest.CaptureFixture[str], fitted: str, in_service: str
) -> None:
    both = make_bundle(tmp_path / "both", int8=True)
    assert run("fit", both, "--good", good, *WISH, "--precision", fitted) == 0
    record = in_force(default_store(both))
    assert record is not None
    assert record.precision == fitted
    other = station(tmp_path, both, f"backend: {{precision: {in_service}}}").read_text().replace("roi: ", "# roi: ")
    (tmp_path / "other.yaml").write_text(other)
    line = refused(capsys, "show", both, "--config", tmp_path / "other.yaml")
    assert f"it is of precision {fitted}, in service is {in_service}" in line


def test_a_calibration_of_int8_is_made_from_the_scores_of_int8(tmp_path: Path, good: Path) -> None:
    both = make_bundle(tmp_path / "both", int8=True)
    backend = open_backend(open_bundle(both), BackendConfig(precision="int8"))
    assert run("fit", both, "--good", good, *WISH, "--precision", "int8") == 0
    scores = [
        float(backend.run(preprocess(read_image(p), None, Layout(32, 32))).score[0]) for p in sorted(good.iterdir())
    ]
    record = in_force(default_store(both))
    assert record is not None
    assert record.image_threshold == max(scores)


def test_a_faulty_station_is_refused(
    tmp_path: Path, bundle: Path, good: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = station(tmp_path, bundle, "rio: {}")
    assert "rio" in refused(capsys, "fit", bundle, "--good", good, "--config", config, *WISH)


def test_ctrl_c_stores_nothing_and_says_so_in_one_line(
    bundle: Path, good: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = iter(range(30))

    def interrupted(path: Path) -> np.ndarray:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return read_image(path)

    monkeypatch.setattr("calibration.scores.read_image", interrupted)
    assert run("fit", bundle, "--good", good, *WISH) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "interrupted"
    assert not default_store(bundle).exists()


# --- show, history, rollback ------------------------------------------------------------------------------------


def test_show_fails_where_the_bundle_would_run_uncalibrated(
    tmp_path: Path, bundle: Path, good: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no calibration is in force" in refused(capsys, "show", bundle)
    assert run("fit", bundle, "--good", good, *WISH) == 0
    assert run("show", bundle) == 0
    capsys.readouterr()
    assert "record 1 is not applied: it is of ROI None" in refused(
        capsys, "show", bundle, "--config", station(tmp_path, bundle)
    )
    other = make_bundle(tmp_path / "other", top_k=5)
    line = refused(capsys, "show", other, "--store", default_store(bundle))
    assert "record 1 is not applied: it is of bundle" in line


def test_show_as_json_is_the_record(bundle: Path, good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("fit", bundle, "--good", good, *WISH)
    capsys.readouterr()
    assert run("show", bundle, "--json") == 0
    record = in_force(default_store(bundle))
    assert record is not None
    assert json.loads(capsys.readouterr().out) == record.model_dump(mode="json", by_alias=True)


def test_a_rollback_applies_at_once_and_is_in_the_history(
    bundle: Path, good: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("fit", bundle, "--good", good, *WISH, "--by", "anna")
    run("fit", bundle, "--good", good, "--false-alarm-rate", "0.1", "--by", "anna")
    assert run("rollback", bundle, "--by", "otto") == 0
    record = in_force(default_store(bundle))
    assert record is not None
    assert record.number == 1
    capsys.readouterr()
    assert run("history", bundle) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[:9] for line in lines[1:3]] == [" *      1", "        2"]
    assert [line.split("  ")[-1] for line in lines[-3:]] == [
        "fit -> 1 by anna",
        "fit -> 2 by anna",
        "rollback -> 1 by otto",
    ]
    assert run("history", bundle, "--json") == 0
    fields = json.loads(capsys.readouterr().out)
    assert fields["in_force"] == 1
    assert [entry["number"] for entry in fields["records"]] == [1, 2]
    assert fields["changes"][-1]["by"] == "otto"


def test_a_rollback_stays_with_the_roi_in_force_unless_a_number_is_given(
    tmp_path: Path, bundle: Path, good: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An older record of another ROI would leave the station uncalibrated."""
    config = station(tmp_path, bundle)
    for roi in (load(config).roi, None, load(config).roi):
        calibrate(bundle, roi=roi, camera="top")
    assert run("rollback", bundle) == 0
    assert in_force(default_store(bundle)).number == 1  # type: ignore[union-attr]
    assert run("rollback", bundle, "--to", "2") == 0
    capsys.readouterr()
    line = refused(capsys, "rollback", bundle, "--to", "2", "--config", config)
    assert "record 2 does not apply: it is of ROI None" in line


@pytest.mark.parametrize("with_station", [False, True])
def test_a_rollback_stays_with_the_camera_in_force_unless_a_number_is_given(
    tmp_path: Path, bundle: Path, with_station: bool
) -> None:
    """A store may be of a time when two stations shared it."""
    config = station(tmp_path, bundle)
    for camera in ("top", None, "top"):
        calibrate(bundle, roi=load(config).roi, camera=camera)
    second = record_path(default_store(bundle), 2)
    second.write_text(second.read_text().replace('"camera": null', '"camera": "side"'))
    assert run("rollback", bundle, *(["--config", config] if with_station else [])) == 0
    assert in_force(default_store(bundle)).number == 1  # type: ignore[union-attr]
    assert run("rollback", bundle, "--to", "2") == 0


def test_of_a_damaged_pointer_the_history_lists_the_records_and_says_so_in_the_end(
    bundle: Path, good: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its advice is to choose one of them."""
    for _ in range(2):
        calibrate(bundle)
    (default_store(bundle) / "in_force.json").write_text("{")
    assert run("history", bundle) == 2
    said = capsys.readouterr()
    assert [line[:9] for line in said.out.splitlines()[1:3]] == ["        1", "        2"]
    assert said.err.startswith(f"error: {default_store(bundle) / 'in_force.json'} is damaged: choose a record with ")
    assert run("history", bundle, "--json") == 2
    fields = json.loads(capsys.readouterr().out)
    assert (fields["in_force"], len(fields["records"])) == (None, 2)


@pytest.mark.parametrize("command", ["show", "history", "rollback"])
def test_of_a_store_that_does_not_exist_its_path_is_named_and_that_a_station_may_have_another(
    bundle: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    line = refused(capsys, command, bundle)
    assert str(default_store(bundle)) in line
    assert line.endswith("run `edge-ad-calibrate fit`, or name the station with --config")


def test_a_record_in_force_that_is_damaged_can_be_rolled_back(bundle: Path, good: Path) -> None:
    run("fit", bundle, "--good", good, *WISH)
    run("fit", bundle, "--good", good, *WISH)
    (default_store(bundle) / "records" / "000002.json").write_text("{")
    assert run("rollback", bundle) == 0
    assert in_force(default_store(bundle)).number == 1  # type: ignore[union-attr]
