"""edge-ad-calibrate: fit thresholds on good images of the site, show them, list them, roll back."""

from __future__ import annotations

import argparse
import json
import os
import pwd
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from calibration import report
from calibration.fit import Request, calibrate
from edge_ad import calibration_store as store
from edge_ad.backends.base import OPENERS
from edge_ad.bundle import Bundle, open_bundle
from edge_ad.calibration_watch import why_restart
from edge_ad.config import BackendConfig, Precision, StationConfig, default_store, load
from edge_ad.console import Parser, complain, run_command, say
from edge_ad.core.commands import PERSON
from edge_ad.errors import CalibrationError
from edge_ad.thresholds import CalibrationRecord, Service, in_force, service_of, why_not


@dataclass(frozen=True, slots=True)
class Site:
    """What every command works on: the bundle, its calibration store, and the station where one is named."""

    bundle: Bundle
    store: Path
    station: StationConfig | None

    def why_not(self, record: CalibrationRecord, like: CalibrationRecord | None = None) -> str | None:
        """Why a record does not apply here; None if it does.

        Precision, ROI and camera are the station's; without a station those of `like`, and without both any is right.
        """
        digest = self.bundle.digest
        if self.station is not None:
            return why_not(record, service_of(self.station, digest))
        model = record if like is None or like.bundle != digest else like
        return why_not(record, Service(digest, model.precision, model.roi_record(), model.camera))

    def tell_if_restart(self) -> None:
        """What was put in force may need a restart of the station's daemon: then say so."""
        restart = why_restart(self.station, self.bundle.digest) if self.station is not None else ""
        if restart:
            complain(f"note: {restart}")


def main(argv: list[str] | None = None) -> int:
    """Run the console script; see docs/calibration.md."""
    args = _parser().parse_args(argv)
    command: Callable[[argparse.Namespace], int] = COMMANDS[args.command]
    return run_command(lambda: command(args))


def fit(args: argparse.Namespace) -> int:
    """Calibrate and put the result in force."""
    site = _site(args)
    outcome = calibrate(_request(args, site))
    if args.json:
        say(json.dumps(report.outcome_json(outcome, site.store)))
    else:
        say("\n".join(report.outcome_lines(outcome, site.store)))
    site.tell_if_restart()
    return 0


def show(args: argparse.Namespace) -> int:
    """Show the record in force; an error where the bundle would run uncalibrated."""
    site = _site(args)
    record = in_force(site.store)
    if record is None:
        raise CalibrationError(f"no calibration is in force in {site.store}: {store.FIT_OR_NAME}")
    if args.json:
        say(json.dumps(report.record_json(record)))
    else:
        say("\n".join(report.record_lines(record, site.store)))
    reason = site.why_not(record)
    if reason is not None:
        raise CalibrationError(f"record {record.number} is not applied: {reason}; run `edge-ad-calibrate fit`")
    site.tell_if_restart()
    return 0


def history(args: argparse.Namespace) -> int:
    """List the records and every change of the one in force; where that cannot be read, the records all the same."""
    site = _site(args)
    entries = store.entries(site.store)
    pointer: store.Pointer | None = None
    problem: CalibrationError | None = None
    try:
        pointer = store.read_pointer(site.store)
    except CalibrationError as error:
        problem = error
    if not entries and pointer is None:
        raise problem or store.missing(site.store)
    if args.json:
        say(json.dumps(report.history_json(entries, pointer)))
    else:
        say("\n".join(report.history_lines(entries, pointer)))
    if problem is not None:
        raise problem
    return 0


def rollback(args: argparse.Namespace) -> int:
    """Put an older record in force."""
    site = _site(args)
    like = store.current(site.store) if args.to is None else None
    record = store.rollback(site.store, args.to, lambda older: site.why_not(older, like), args.by)
    say("\n".join(report.record_lines(record, site.store)))
    site.tell_if_restart()
    return 0


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "fit": fit,
    "show": show,
    "history": history,
    "rollback": rollback,
}


def _parser() -> Parser:
    parser = Parser(prog="edge-ad-calibrate", description="Thresholds from good parts only; see docs/calibration.md.")
    commands = parser.add_subparsers(dest="command", required=True)
    fit_parser = commands.add_parser("fit", help="calibrate on good images and put the result in force")
    show_parser = commands.add_parser("show", help="the record in force; exit code 2 if the bundle runs uncalibrated")
    history_parser = commands.add_parser("history", help="all records, and who changed what")
    rollback_parser = commands.add_parser("rollback", help="put an older record in force")
    for command in (fit_parser, show_parser, history_parser, rollback_parser):
        _add_site(command)
    for command in (fit_parser, show_parser, history_parser):
        command.add_argument("--json", action="store_true", help="machine-readable output")
    for command in (fit_parser, rollback_parser):
        command.add_argument(
            "--by", type=_person, default=_user(), metavar="NAME", help="who asks (default: %(default)s)"
        )
    _add_fit(fit_parser)
    rollback_parser.add_argument("--to", type=int, metavar="N", help="default: the one in force before")
    return parser


def _add_site(parser: Parser) -> None:
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="the bundle's directory")
    parser.add_argument("--config", type=Path, metavar="STATION", help="the station's YAML: ROI, back-end, store")
    parser.add_argument("--store", type=Path, metavar="DIR", help="default: the station's, else beside the bundle")


def _add_fit(parser: Parser) -> None:
    parser.add_argument(
        "--good", type=Path, action="append", required=True, metavar="DIR", help="images of good parts; repeatable"
    )
    parser.add_argument("--held-out", action="store_true", help="of these only what training held out for calibration")
    parser.add_argument("--false-alarm-rate", type=float, default=0.01, metavar="F", help="default: %(default)s")
    parser.add_argument("--confidence", type=float, default=0.95, metavar="C", help="default: %(default)s")
    parser.add_argument("--backend", choices=sorted(OPENERS), help="default: the station's, else onnxruntime")
    parser.add_argument("--precision", choices=get_args(Precision), help="default: the station's, else fp32")


def _site(args: argparse.Namespace) -> Site:
    """With a station the bundle and the store are the station's, however BUNDLE is spelt."""
    given = open_bundle(args.bundle)
    if args.config is None:
        return Site(given, args.store or default_store(args.bundle), None)
    station = load(args.config)
    bundle = open_bundle(station.bundle)
    if bundle.digest != given.digest:
        raise CalibrationError(
            f"{args.config} runs bundle {bundle.digest[:12]} of {station.bundle}, {args.bundle} holds "
            f"{given.digest[:12]}: give that one, or a copy of the station's file that names this one"
        )
    return Site(bundle, args.store or station.store_dir(), station)


def _request(args: argparse.Namespace, site: Site) -> Request:
    """The station says ROI, camera and back-end; without one the ROI is the one the bundle was trained on."""
    station = site.station
    backend = station.backend if station is not None else BackendConfig()
    wanted = {"name": args.backend or backend.name, "precision": args.precision or backend.precision}
    return Request(
        bundle=site.bundle,
        store=site.store,
        good=tuple(args.good),
        only_held_out=args.held_out,
        false_alarm_rate=args.false_alarm_rate,
        confidence=args.confidence,
        backend=backend.model_copy(update=wanted),
        camera=station.camera.name if station is not None else None,
        roi=station.roi if station is not None else site.bundle.manifest.training.roi,
        why_not=site.why_not,
        by=args.by,
    )


def _person(text: str) -> str:
    if PERSON.fullmatch(text) is None:
        raise argparse.ArgumentTypeError("must be 1 to 64 characters in UTF-8, none of them a control character")
    return text


def _user() -> str:
    """Who is at the keyboard; behind sudo the person, not root."""
    try:
        return os.environ.get("SUDO_USER") or pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container may run under a number that has no name
        return f"uid {os.getuid()}"


if __name__ == "__main__":
    sys.exit(main())
