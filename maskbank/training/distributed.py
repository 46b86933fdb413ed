"""Training in several processes under `torchrun`: every one draws its own clips, the gradients are averaged."""

import os
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist


def join_processes() -> tuple[int, torch.device]:
    """This process's rank and device; joins the others where `torchrun` started several."""
    cuda = torch.cuda.is_available()
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return 0, torch.device("cuda" if cuda else "cpu")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        # Gloo beside NCCL: the clock's progress lies on the CPU. Validation keeps the others waiting.
        dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=timedelta(hours=3))
    return dist.get_rank(), device


def refuse_several_processes(what: str) -> None:
    """Raises ValueError with one sentence, of what is done in one process only, where `torchrun` started several."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(f"{what} trained in one process, without torchrun.")


def any_process(here: bool) -> bool:
    """Whether it is so in any process."""
    if not dist.is_initialized():
        return here
    there = torch.tensor(int(here))
    dist.all_reduce(there, dist.ReduceOp.MAX)
    return bool(there)


def all_equal(value: Any) -> bool:
    """Whether all processes have the same value."""
    if not dist.is_initialized():
        return True
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return len(set(values)) == 1


def clip_workers() -> int:
    """Processes that make clips, for this one of the processes that train on this machine."""
    cores = len(os.sched_getaffinity(0))
    return max(cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")) - 1, 1)
