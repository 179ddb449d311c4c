"""Several processes, one training: Lightning Fabric over torch's DistributedDataParallel, on GPUs and machines.

One process is the same code with nothing to exchange. Each process makes and takes its own batches; the gradients are
averaged between backward and step. The first process keeps the run directory, so all must see it.
"""

from __future__ import annotations

import os

import torch
from lightning_fabric import Fabric
from lightning_fabric.utilities.exceptions import MisconfigurationException

from edge_ad.errors import ConfigError, first_line


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
