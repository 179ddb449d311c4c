"""edge-ad-train: train, evaluate, export, compare."""

from __future__ import annotations

import argparse
import importlib.util
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from edge_ad.config import Precision
from edge_ad.console import Parser, make_folder, make_room, run_command, say, write_json
from edge_ad.errors import ConfigError, DataError, PeerError, first_line
from trainer import config as configs
from trainer.config import METHOD_NAMES, SEEDS, TrainConfig
from trainer.methods.diffusionad.variants import KINDS

if TYPE_CHECKING:
    import torch

    _Commands = argparse._SubParsersAction[Parser]

# Of the extra "train": this console script is on devices as well.
NEEDED = ("torch", "onnx", "onnxscript", "tqdm", "matplotlib", "lightning_fabric")


def main(argv: list[str] | None = None) -> int:
    """The console script; `argv` defaults to the process's arguments."""
    return run_command(lambda: _dispatch(sys.argv[1:] if argv is None else argv))


def _dispatch(argv: list[str]) -> int:
    arguments = _parser().parse_args(argv)
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"edge-ad-train needs {', '.join(missing)}: pip install 'edge-ad[train]' (on the desktop)")
    return COMMANDS[arguments.command](arguments)


def _parser() -> Parser:
    parser = Parser(prog="edge-ad-train", description="Learn from good images; export a bundle.")
    commands = parser.add_subparsers(dest="command", required=True)
    for add in (_add_train, _add_preview, _add_evaluate, _add_export, _add_ablation, _add_curve, _add_results):
        add(commands)
    return parser


def _add_train(commands: _Commands) -> None:
    train = commands.add_parser("train", help="learn from a folder of good images")
    train.add_argument("--data", type=Path, help="MVTec layout, or a plain folder of good images")
    train.add_argument("--out", type=Path, required=True, help="the run directory")
    _add_config(train)
    train.add_argument("--method", choices=METHOD_NAMES, help="that of the configuration if not given")
    train.add_argument("--max-minutes", type=float, help="stop after so long; the learning rate has fallen by then")
    train.add_argument("--seed", type=_seed, help="0 if not given")
    train.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 ...")
    train.add_argument("--processes", type=int, default=1, help="on each machine: one for each GPU (docs/training.md)")
    train.add_argument("--nodes", type=int, default=1, help="machines that run this command together")
    train.add_argument("--resume", action="store_true", help="continue the run in --out, with its images and settings")
    train.add_argument("--snapshots", type=int, default=0, metavar="N", help="keep N states to draw a curve from")


def _add_config(command: argparse.ArgumentParser) -> None:
    one = command.add_mutually_exclusive_group()
    one.add_argument("--config", type=Path, help="a training configuration")
    one.add_argument("--profile", help="a configuration that ships: edge (if not given), paper, demo")
    command.add_argument("--set", action="append", metavar="KEY=VALUE", help="replace a value: diffusion.w=0")


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) not in SEEDS:
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 to {SEEDS[-1]}, got {text}")
    return int(text)


def _add_preview(commands: _Commands) -> None:
    preview = commands.add_parser("preview", help="draw synthetic defects as a training makes them")
    preview.add_argument("--data", type=Path, required=True, help="as for train")
    preview.add_argument("--out", type=Path, required=True, help="the picture, a PNG file")
    _add_config(preview)
    preview.add_argument("--seed", type=_seed, default=0)
    preview.add_argument("--count", type=int, default=32)


def _add_evaluate(commands: _Commands) -> None:
    evaluate = commands.add_parser("evaluate", help="measure a run or a bundle on test images")
    evaluate.add_argument("subject", type=Path, metavar="RUN_OR_BUNDLE")
    evaluate.add_argument("--data", type=Path, required=True, help="MVTec layout, or a plain folder (scores only)")
    evaluate.add_argument("--json", type=Path, help="write the metrics here")
    evaluate.add_argument("--results", type=Path, metavar="DIR", help="keep the result, as a JSON in this folder")
    evaluate.add_argument("--note", default="", help="a remark that the result keeps")
    evaluate.add_argument("--scores", type=Path, help="write a CSV row an image here")
    evaluate.add_argument("--report", type=Path, help="write a page with plots and the images to look at here")
    evaluate.add_argument("--backend", help="engine for a bundle (default: onnxruntime); a run is measured in torch")
    evaluate.add_argument("--precision", choices=get_args(Precision), default="fp32", help="of a bundle")
    evaluate.add_argument("--store", type=Path, help="calibration store for the verdicts; default: beside the bundle")


def _add_export(commands: _Commands) -> None:
    export = commands.add_parser("export", help="write the bundle that a station runs")
    export.add_argument("run", type=Path)
    export.add_argument("--out", type=Path, required=True, help="the bundle directory; must not exist")
    export.add_argument(
        "--precision", choices=("fp32", "fp16", "int8"), default="fp32", help="int8: with model.int8.onnx too"
    )
    export.add_argument(
        "--calibration-data", type=Path, metavar="DIR", help="good images for int8, held out of training"
    )
    export.add_argument(
        "--test-data", type=Path, metavar="DIR", help="say what int8 changes on these images; nothing is chosen by them"
    )
    export.add_argument(
        "--results", type=Path, metavar="DIR", help="keep what --test-data says, as JSONs in this folder"
    )
    export.add_argument("--program", action="store_true", help="add model.pt2, for backend torch or torch_tensorrt")
    export.add_argument("--data-licence", help="a note on the training data for the manifest and the model card")


def _add_ablation(commands: _Commands) -> None:
    ablation = commands.add_parser("ablation", help="what the paper compares, on trained runs: table, plots, pictures")
    ablation.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="of several seeds; an auto-encoder's too")
    ablation.add_argument("--data", type=Path, required=True, help="MVTec layout")
    ablation.add_argument("--results", type=Path, required=True, help="results are kept here, none is measured twice")
    ablation.add_argument("--out", type=Path, required=True, help="folder for table, plots and pictures")
    ablation.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS), help="ways to reconstruct")
    ablation.add_argument("--device", default="auto", help="as for train")


def _add_curve(commands: _Commands) -> None:
    curve = commands.add_parser("curve", help="figures over a training that kept its states (train --snapshots)")
    curve.add_argument("run", type=Path)
    curve.add_argument("--data", type=Path, required=True, help="MVTec layout; better not the test images")
    curve.add_argument("--out", type=Path, required=True, help="folder for curve.json and curve.png")
    curve.add_argument(
        "--results", type=Path, metavar="DIR", help="keep each state as a JSON in this folder; none is measured twice"
    )


def _add_results(commands: _Commands) -> None:
    results = commands.add_parser("results", help="tables and plots from results")
    results.add_argument("results", type=Path, help="folder of results, as evaluate and ablation make them")
    results.add_argument("--out", type=Path, required=True, help="folder for results.md and its plots")


def _train(arguments: argparse.Namespace) -> int:
    from trainer.distributed import launched, open_fabric, said_once, together
    from trainer.precision import keep_fp32
    from trainer.run import open_run
    from trainer.train import train

    _refuse_amounts(arguments)
    fabric = open_fabric(_device(arguments.device), arguments.processes, arguments.nodes)
    if fabric.is_global_zero:
        if arguments.resume:
            _same_run(arguments)
        else:
            _new_run(arguments)
    with launched(fabric), said_once(fabric):  # the other processes pass the first when the run is there
        with together(fabric):
            run = open_run(arguments.out)
        if fabric.is_global_zero and arguments.resume:
            say(_images(len(run.train_sha256), len(run.calibration_sha256)))
        keep_fp32()
        try:
            train(run, fabric, arguments.max_minutes, arguments.resume, snapshots=arguments.snapshots)
        except (KeyboardInterrupt, PeerError):
            if fabric.is_global_zero:
                say(f"stopped; continue with: {_again(arguments)}")
            raise
        if fabric.is_global_zero:
            say(f"run: {arguments.out}   next: edge-ad-train export {_quoted(arguments.out)} --out BUNDLE")
    return 0


def _refuse_amounts(arguments: argparse.Namespace) -> None:
    if arguments.max_minutes is not None and not arguments.max_minutes > 0:
        raise ConfigError(f"--max-minutes must be above 0, got {arguments.max_minutes}")
    if arguments.snapshots < 0:
        raise ConfigError(f"--snapshots must be at least 0, got {arguments.snapshots}")


def _new_run(arguments: argparse.Namespace) -> None:
    from edge_ad.images import list_images
    from trainer.data.folder import good_folder, load_textures, refuse_no_room, split_good
    from trainer.data.grid import to_be_found, with_grid
    from trainer.detail import detail, levels
    from trainer.methods.base import build_method
    from trainer.run import create

    if arguments.data is None:
        raise ConfigError("a training needs --data, the folder of good images; only --resume knows it")
    config = _config(arguments)
    if arguments.method is not None:
        config = config.model_copy(update={"method": arguments.method})
    seed = arguments.seed or 0
    roi = config.data.roi_record()
    split = split_good(arguments.data, config.data.hold_out, seed, roi)
    good, found = split.good(), to_be_found(config)
    config = with_grid(config, good)
    dropped = len(list_images(good_folder(arguments.data))) - len(good)
    notes = [
        _images(len(split.train), len(split.calibration), dropped),
        detail(next(iter(split.train)), roi, config.input.frame_layout(), found),
        levels(good, roi),
    ]
    load_textures(config.synthesis.textures)
    build_method(config, seed)  # as the textures: what is refused is refused before there is a run
    refuse_no_room(len(split.train), config.input.frame_layout(), arguments.out)
    create(arguments.out, config, split, seed, arguments.max_minutes)
    for note in notes:
        if note is not None:
            say(note)


def _images(trained_on: int, held_out: int, dropped: int = 0) -> str:
    """How many images are for what; of a run that is resumed nobody knows how many were dropped."""
    said = f"images: {trained_on} to train on, {held_out or 'none'} held out for calibration"
    if dropped:
        said += f", {dropped} dropped as duplicate{'s' * (dropped > 1)}"
    return said if held_out else f"{said}; calibrate with good images from the station"


def _same_run(arguments: argparse.Namespace) -> None:
    """Whatever --resume is given besides must be what the run was begun with: it is not changed on the way.

    Raises:
        ConfigError: something is not.
    """
    from trainer.data.folder import good_folder
    from trainer.data.grid import as_found
    from trainer.run import listed_paths, open_run

    run = open_run(arguments.out)

    def differs(option: str, begun_with: object) -> ConfigError:
        return ConfigError(
            f"{arguments.out} was begun with {begun_with}: --resume cannot change it; leave out {option}, "
            "or train anew with another --out"
        )

    if arguments.data is not None:
        folder = good_folder(arguments.data).resolve()  # the images in it may be links to anywhere
        others = [path for path in listed_paths(run) if not path.parent.resolve().is_relative_to(folder)]
        if others:
            raise differs("--data", f"images that are not in {arguments.data}, such as {others[0]}")
    if arguments.seed not in (None, run.seed):
        raise differs("--seed", f"seed {run.seed}")
    if arguments.method not in (None, run.config.method):
        raise differs("--method", f"method {run.config.method}")
    if arguments.config or arguments.profile or arguments.set:
        given = as_found(_config(arguments), run.config.input.tiles).model_copy(update={"method": run.config.method})
        key = configs.first_difference(run.config, given)
        if key is not None:
            raise differs("--config, --profile and --set", f"another value of {key}")


def _again(arguments: argparse.Namespace) -> str:
    """The command that continues a training."""
    words = ["edge-ad-train train", f"--out {_quoted(arguments.out)}", "--resume"]
    if arguments.device != "auto":
        words.append(f"--device {arguments.device}")
    if arguments.max_minutes:
        words.append(f"--max-minutes {arguments.max_minutes:g}")
    if arguments.snapshots:
        words.append(f"--snapshots {arguments.snapshots}")
    if arguments.processes * arguments.nodes > 1:
        words.append(f"--processes {arguments.processes} --nodes {arguments.nodes}")
    return " ".join(words)


def _quoted(path: Path) -> str:
    """A path as a shell takes it."""
    return shlex.quote(str(path))


def _preview(arguments: argparse.Namespace) -> int:
    from trainer.preview import preview

    if arguments.count < 1:
        raise ConfigError(f"--count must be at least 1, got {arguments.count}")
    if arguments.out.suffix.lower() != ".png" and not arguments.out.is_dir():
        raise ConfigError(f"--out {arguments.out} is not a .png: a PNG file is written, name it so")
    config = _config(arguments)
    if round(config.optim.anomalous * config.optim.batch) == 0:
        raise ConfigError("this configuration has no synthetic defects: optim.anomalous x optim.batch rounds to 0")
    make_room("--out", arguments.out)
    for picture in preview(arguments.data, config, arguments.seed, arguments.count, arguments.out):
        say(f"look at {picture}")
    return 0


def _config(arguments: argparse.Namespace) -> TrainConfig:
    config = configs.load(arguments.config) if arguments.config else configs.profile(arguments.profile or "edge")
    return configs.override(config, arguments.set or [])


def _device(name: str) -> torch.device:
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"--device {name}: {first_line(error)}") from error
    return torch.device(name)


def _evaluate(arguments: argparse.Namespace) -> int:
    from trainer.evaluate import evaluate, list_any, open_subject, say_figures, score_images, write_scores
    from trainer.report import write_report

    subject = open_subject(arguments.subject, arguments.backend, arguments.precision, arguments.store)
    images = list_any(arguments.data)  # decodes them all: what else can be wrong is told before
    _make_room(arguments)
    scored = score_images(subject, images)
    result = evaluate(subject, scored)
    if arguments.json is not None:
        write_json(arguments.json, result)
    if arguments.results is not None:
        say(f"result: {_keep(arguments, result)}")
    if arguments.scores is not None:
        write_scores(arguments.scores, scored, subject.thresholds)
    say_figures(result)
    if arguments.report is not None:
        say(f"report: {write_report(arguments.report, subject, scored, result)}")
    return 0


def _make_room(arguments: argparse.Namespace) -> None:
    """Find out before the images are scored, not after, whether what comes of it can be written.

    Raises:
        ConfigError: a folder where a file should be.
        OSError: a folder cannot be made.
    """
    for option, file in (("--json", arguments.json), ("--scores", arguments.scores)):
        if file is not None:
            make_room(option, file)
    for option, folder in (("--results", arguments.results), ("--report", arguments.report)):
        if folder is not None:
            make_folder(option, folder)


def _keep(arguments: argparse.Namespace, evaluation: Mapping[str, Any]) -> Path:
    """Put an evaluation among the results."""
    from edge_ad.bundle import MANIFEST, open_bundle
    from trainer.results import result_of_bundle, result_of_run, write_result
    from trainer.run import open_run

    subject, data = arguments.subject, arguments.data
    if (subject / MANIFEST).exists():
        result = result_of_bundle(open_bundle(subject).manifest, data, evaluation)
    else:
        result = result_of_run(open_run(subject), data, evaluation)
    return write_result(arguments.results, result.model_copy(update={"note": arguments.note}))


def _export(arguments: argparse.Namespace) -> int:
    from trainer.evaluate import list_any
    from trainer.export import export
    from trainer.int8_report import summary_lines, test_lines

    int8_data, test_data = _int8_data(arguments), arguments.test_data
    images = list_any(test_data) if test_data is not None else []  # what is wrong with them is told before
    if arguments.results is not None:
        make_folder("--results", arguments.results)
    bundle = export(arguments.run, arguments.out, arguments.program, arguments.data_licence, int8_data)
    if bundle.manifest.int8 is not None:
        for line in summary_lines(bundle.manifest.int8):
            say(line)
    if test_data is not None:
        for line in test_lines(bundle, test_data, images, arguments.results):
            say(line)
    say(f"bundle: {bundle.path}   digest {bundle.digest[:12]}   {bundle.manifest.frame_macs / 1e9:.2f} GMACs a frame")
    held_out = _held_out(arguments.run)
    none = "DIR, a folder of good images from the station: this run has held none out"
    say(f"next: edge-ad-calibrate fit {_quoted(bundle.path)} --good {_quoted(held_out) if held_out else none}")
    return 0


def _held_out(run: Path) -> Path | None:
    """The folder of the images that a run holds out for calibration; None where there are none.

    Raises:
        DataError: it is not a run.
    """
    from trainer.run import open_run

    return run / "calibration_split" if open_run(run).calibration_sha256 else None


def _int8_data(arguments: argparse.Namespace) -> Path | None:
    """The folder for the ranges; None for a bundle without INT8.

    Raises:
        ConfigError: an argument without the one that it belongs to, or a precision that is not exported.
    """
    if arguments.precision == "fp16":
        raise ConfigError("fp16 is made on the device, from the fp32 bundle: edge-ad build BUNDLE --precision fp16")
    int8, data = arguments.precision == "int8", arguments.calibration_data
    if int8 and data is None:
        good = _held_out(arguments.run) or "a folder of good images from the station"
        raise ConfigError(f"--precision int8 needs --calibration-data: {good} will do")
    if not int8 and (data is not None or arguments.test_data is not None):
        raise ConfigError("--calibration-data and --test-data are for --precision int8")
    if arguments.test_data is None and arguments.results is not None:
        raise ConfigError("--results keeps what --test-data says: give both")
    return Path(data) if int8 else None


def _ablation(arguments: argparse.Namespace) -> int:
    from trainer.ablation import draw, measure
    from trainer.results import on_set, read_results
    from trainer.results_page import write_page
    from trainer.run import open_run

    device, runs = _device(arguments.device), [open_run(path) for path in arguments.runs]
    for run in runs:
        measure(run, arguments.data, arguments.results, arguments.only, device)
    for run in runs:
        draw(run, arguments.data, arguments.out, arguments.only, device)
    measured = on_set(read_results(arguments.results), arguments.data)
    say(f"table and plots: {write_page(measured, arguments.out)}")
    return 0


def _curve(arguments: argparse.Namespace) -> int:
    from trainer.curve import curve
    from trainer.run import open_run

    if arguments.results is not None:
        make_folder("--results", arguments.results)
    say(f"look at {curve(open_run(arguments.run), arguments.data, arguments.out, arguments.results)}")
    return 0


def _results(arguments: argparse.Namespace) -> int:
    from trainer.results import read_results
    from trainer.results_page import write_page

    found = read_results(arguments.results)
    if not found:
        raise DataError(f"no results below {arguments.results}: edge-ad-train evaluate RUN --results DIR makes them")
    say(f"tables and plots: {write_page(found, arguments.out)}")
    return 0


COMMANDS = {
    "train": _train,
    "preview": _preview,
    "evaluate": _evaluate,
    "export": _export,
    "ablation": _ablation,
    "curve": _curve,
    "results": _results,
}
