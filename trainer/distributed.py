"""Several processes, one training: Lightning Fabric over torch's DistributedDataParallel, on GPUs and machines.

One process is the same code with nothing to exchange. Each process makes and takes its own batches; the gradients are
averaged between backward and step. The first process keeps the run directory, so all must see it.

All end after the same step: what fails in one of them, or stops it, is told to all when they next agree.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from lightning_fabric import Fabric
from lightning_fabric.utilities.exceptions import MisconfigurationException
from torch import distributed

from edge_ad.errors import ConfigError, EdgeAdError, PeerError, first_line

Value = TypeVar("Value")

AGREED = (EdgeAdError, OSError, KeyboardInterrupt)  # what is said in a line; the rest keeps its traceback


def open_fabric(device: torch.device, processes: int, nodes: int) -> Fabric:
    """The engine of a training; its `launch` starts the other processes of this machine, or meets those that run.

    Args:
        device: what to train on; with an index, that one GPU.
        processes: on each machine; one for each GPU.
        nodes: machines, each of which runs the same command (MASTER_ADDR, MASTER_PORT and NODE_RANK say who is who,
            or torchrun or Slurm does).

    Raises:
        ConfigError: the machine has not what is asked for, or a launcher started another number of processes.
    """
    world = processes * nodes
    if processes < 1 or nodes < 1:
        raise ConfigError(f"--processes and --nodes must be at least 1, got {processes} and {nodes}")
    if device.index is not None and world > 1:
        raise ConfigError(f"--device {device} is one GPU: give --device {device.type} for {world} processes")
    if int(os.environ.get("WORLD_SIZE", world)) != world:
        started = os.environ["WORLD_SIZE"]
        raise ConfigError(f"{started} processes were started (WORLD_SIZE), but --processes x --nodes is {world}")
    devices = processes if device.index is None or device.type == "cpu" else [device.index]
    try:
        return Fabric(accelerator=device.type, devices=devices, num_nodes=nodes)
    except (MisconfigurationException, RuntimeError, ValueError) as error:
        raise ConfigError(f"cannot train in {processes} x {nodes} processes: {first_line(error)}") from error


@contextmanager
def launched(fabric: Fabric) -> Iterator[None]:
    """The other processes run within the block; behind it nothing is left that keeps them together.

    A process that ends while gloo's threads run is now and then aborted at its very end, whatever its exit code was to
    be. NCCL, which waits for what other processes owe, is left alone where something has failed.
    """
    fabric.launch()
    gloo = distributed.is_initialized() and distributed.get_backend() == "gloo"
    try:
        yield
    except BaseException:
        if gloo:
            distributed.destroy_process_group()
        raise
    if distributed.is_initialized():
        distributed.destroy_process_group()


def agree(fabric: Fabric, mine: Value, failure: BaseException | None = None) -> Value:
    """What the first process has; where one of them has a failure, each raises its own or the first one's.

    All processes must call it at the same point.
    """
    found = [(mine, failure)] * fabric.world_size
    if fabric.world_size > 1:
        distributed.all_gather_object(found, (mine, failure))
    failures = [failure, *(other for _, other in found)]
    for raised in failures:
        if raised is not None:
            raise raised
    return found[0][0]


@contextmanager
def together(fabric: Fabric) -> Iterator[None]:
    """All processes get through the block, or none does; in the block they exchange nothing."""
    failure = None
    try:
        yield
    except AGREED as error:
        failure = error
    agree(fabric, None, failure)


@contextmanager
def peers_named(fabric: Fabric) -> Iterator[None]:
    """What fails because another process has gone says so.

    Raises:
        PeerError: it has.
    """
    try:
        yield
    except RuntimeError as error:  # of gloo, without a type of its own
        if fabric.world_size > 1 and (isinstance(error, distributed.DistError) or "gloo" in str(error)):
            raise PeerError(
                "another process of this training has gone, or cannot be reached any more: look at its output"
            ) from error
        raise


@contextmanager
def said_once(fabric: Fabric) -> Iterator[None]:
    """What fails in all processes fails in the first one of each machine; the others leave as if all was well.

    Fabric kills the first one of a machine, which may be saving yet, where another ends with a code of its own.

    Raises:
        PeerError: another process has gone.
    """
    try:
        with peers_named(fabric):
            yield
    except AGREED:
        if fabric.local_rank == 0:
            raise
