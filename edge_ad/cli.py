"""The console script `edge-ad`: a table of subcommands. Each imports what it needs, so `--help` is fast."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_ad import __version__
from edge_ad.console import Parser, add_frame_size, make_room, run_command, say, write_json


@dataclass(frozen=True, slots=True)
class Command:
    """A subcommand: its name, one line of help, its arguments, and what it does; `run` returns the exit code."""

    name: str
    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `edge-ad`; returns the exit code."""
    parsed = _parser().parse_args(arguments)
    return run_command(lambda: parsed.run(parsed))


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="edge-ad", description="Visual defect inspection on an edge device.")
    parser.add_argument("--version", action="version", version=__version__)
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)
    for command in COMMANDS:
        subparser = subparsers.add_parser(command.name, help=command.help, description=command.help)
        command.add_arguments(subparser)
        subparser.set_defaults(run=command.run)
    return parser


def _config_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="CONFIG", type=Path, help="the station's YAML file")


def _check_arguments(parser: argparse.ArgumentParser) -> None:
    _config_argument(parser)
    parser.add_argument("--json", action="store_true", help="findings as JSON on standard output")


def _capture_arguments(parser: argparse.ArgumentParser) -> None:
    _config_argument(parser)
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="a new or empty folder")
    parser.add_argument("--count", metavar="N", type=_positive, required=True, help="how many frames")
    parser.add_argument(
        "--interval-s", metavar="S", type=_not_negative, default=0.0, help="pause between two frames (default: none)"
    )


def _doctor_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="CONFIG", type=Path, nargs="?", help="a station's YAML file (optional)")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def _not_negative(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be 0 or more, got {text}")
    return value


def _run(arguments: argparse.Namespace) -> int:
    from edge_ad import config, daemon, log

    log.set_up()
    daemon.run(config.load(arguments.config))
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from edge_ad import check, config, log

    log.set_up("CRITICAL")  # the findings say it all
    findings = check.examine(config.load(arguments.config))
    for line in check.as_json(findings) if arguments.json else check.as_lines(findings):
        say(line)
    return 0 if check.all_right(findings) else check.EXIT_CODE


def _capture(arguments: argparse.Namespace) -> int:
    from edge_ad import collect, config, log

    log.set_up("WARNING")
    collect.collect(config.load(arguments.config), arguments.out, arguments.count, arguments.interval_s)
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from edge_ad import config, doctor

    def section(title: str, facts: doctor.Facts) -> None:
        say(title)
        for name, value in facts:
            say(f"  {name}: {value}")

    for title, facts in doctor.SECTIONS:  # each at once: something is wrong, or nobody would ask
        section(title, facts())
    if arguments.config is not None:
        section("configuration", doctor.station(config.load(arguments.config)))
    return 0


def _bench_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", metavar="BUNDLE", type=Path)
    parser.add_argument("--backend", metavar="NAME", default="all", help="one back-end (default: all)")
    parser.add_argument(
        "--repeats", metavar="N", type=_positive, default=5, help="rounds; each starts every engine anew (default: 5)"
    )
    frames = parser.add_mutually_exclusive_group()
    add_frame_size(frames)
    frames.add_argument("--images", metavar="DIR", type=Path, help="frames are these images, at their own size")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures here")
    parser.add_argument("--out", metavar="DIR", type=Path, help="draw the times into this folder")


def _bench(arguments: argparse.Namespace) -> int:
    from edge_ad.bench.show import run_bench

    frames = arguments.images or arguments.frame
    run_bench(arguments.bundle, arguments.backend, arguments.repeats, frames, arguments.json, arguments.out)
    return 0


def _build_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", metavar="BUNDLE", type=Path)
    parser.add_argument("--precision", choices=("fp32", "fp16", "int8"), default="fp16", help="default: fp16")
    parser.add_argument(
        "--backend",
        choices=("auto", "torch_tensorrt", "tensorrt"),
        default="auto",
        help="auto (default): Torch-TensorRT where it works and the bundle has a program, else TensorRT's own builder",
    )
    parser.add_argument("--state-dir", metavar="DIR", type=Path, help="default: $STATE_DIRECTORY, else the user's")
    parser.add_argument("--workspace-mib", metavar="N", type=_positive, help="scratch memory of one kernel")
    parser.add_argument("--again", action="store_true", help="build also where a fitting engine is in service")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the engine's record here")


def _build(arguments: argparse.Namespace) -> int:
    from edge_ad import log
    from edge_ad.engines import build

    log.set_up("WARNING")
    request = build.Request(
        arguments.bundle,
        arguments.precision,
        arguments.backend,
        arguments.state_dir,
        arguments.workspace_mib,
        arguments.again,
    )
    _make_room(arguments.json)
    record = build.run_build(request, say)
    if arguments.json is not None:
        write_json(arguments.json, record.model_dump(mode="json", by_alias=True))
    return 0


def _demo_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", metavar="DIR", type=Path, help="a new or empty folder (default: a temporary one)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures here")


def _demo(arguments: argparse.Namespace) -> int:
    from edge_ad import log
    from edge_ad.demo.show import run_demo

    log.set_up("WARNING")
    _make_room(arguments.json)
    return run_demo(arguments.out, arguments.json)


def _session_s(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(f"must be 0 or more, and less than 2^32, got {text}")
    return value


def _plc_sim_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("station", metavar="STATION", help="the station's name")
    parser.add_argument("--count", metavar="N", type=_positive, help="end after N parts (default: Ctrl-C)")
    parser.add_argument("--seconds", metavar="S", type=_not_negative, help="end after S seconds")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the report here")
    parser.add_argument("--triggers", metavar="N", type=_positive, default=0, help="trigger N parts (default: none)")
    parser.add_argument(
        "--trigger-interval-s", metavar="S", type=_not_negative, default=1.0, help="between two (default: 1)"
    )
    parser.add_argument("--replay", action="store_true", help="ask for what a broker has lost, by the command replay")
    parser.add_argument("--host", help="of the broker (default: 127.0.0.1)")
    parser.add_argument("--port", type=_positive, help="of the broker (default: 1883)")
    parser.add_argument("--protocol", choices=("5", "3.1.1"), help="of MQTT (default: 5)")
    parser.add_argument("--username", metavar="NAME")
    parser.add_argument("--password-file", metavar="FILE", type=Path)
    parser.add_argument("--tls", action="store_true", help="TLS by the system's certificate authorities")
    parser.add_argument("--ca-file", metavar="FILE", type=Path, help="TLS by this certificate authority")
    parser.add_argument("--client-cert-file", metavar="FILE", type=Path)
    parser.add_argument("--client-key-file", metavar="FILE", type=Path)
    parser.add_argument("--client-id", metavar="ID", help="of its session at the broker (default: STATION-plc-sim)")
    parser.add_argument(
        "--session-s",
        metavar="S",
        type=_session_s,
        default=3600,
        help="the broker keeps what it owes us for so long while we are away (default: 3600)",
    )
    parser.add_argument(
        "--stall-s", metavar="S", type=_not_negative, default=3.0, help="limit of the heartbeat (default: 3)"
    )
    parser.add_argument(
        "--deadline-s", metavar="S", type=_not_negative, default=4.0, help="plc: capture to arrival (default: 4)"
    )


def _plc_sim(arguments: argparse.Namespace) -> int:
    from edge_ad import log, plc_sim
    from edge_ad.core.heard import Limits

    log.set_up("CRITICAL")  # what it prints says it all
    files = {key: getattr(arguments, key) for key in ("ca_file", "client_cert_file", "client_key_file")}
    tls = files if arguments.tls or any(files.values()) else None
    keys = ("host", "port", "protocol", "username", "password_file")
    options = plc_sim.Options(
        arguments.station,
        plc_sim.broker({**{key: getattr(arguments, key) for key in keys}, "tls": tls}),
        arguments.client_id or f"{arguments.station}-plc-sim",
        arguments.session_s,
        Limits(arguments.stall_s, arguments.deadline_s),
        arguments.count,
        arguments.seconds,
        arguments.json,
        arguments.triggers,
        arguments.trigger_interval_s,
        arguments.replay,
    )
    _make_room(arguments.json)
    return plc_sim.run_plc_sim(options)


def _make_room(json_path: Path | None) -> None:
    """Find out before the work whether its outcome can be written."""
    if json_path is not None:
        make_room("--json", json_path)


COMMANDS = (
    Command("run", "inspect until stopped", _config_argument, _run),
    Command("check", "try camera, bundle, calibration and broker of a station", _check_arguments, _check),
    Command("capture", "write full frames of the station's camera as PNG", _capture_arguments, _capture),
    Command("bench", "measure a bundle on every engine that this machine has", _bench_arguments, _bench),
    Command("build", "build, prove and put in service a TensorRT engine for this device", _build_arguments, _build),
    Command(
        "plc-sim", "a virtual PLC: listen to a station, and say if it can be trusted", _plc_sim_arguments, _plc_sim
    ),
    Command("demo", "the whole line on this machine, on solar cells, with an embedded broker", _demo_arguments, _demo),
    Command("doctor", "show the facts about this device", _doctor_arguments, _doctor),
)

if __name__ == "__main__":
    sys.exit(main())
