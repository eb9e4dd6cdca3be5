"""The devices of JAX: which there are, and which a run uses."""

import os
from typing import Any

from cubic_cli.config import Device
from cubic_cli.errors import DeviceError

_FUSE = "xla_cpu_use_multi_output_fusion"


def prepare_cpu() -> None:
    """Make the cores of a CPU JAX's devices, and have XLA see all figures of a value at once; before JAX's first use.

    What the environment says of either stays as it is.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if not os.environ.get("JAX_NUM_CPU_DEVICES") and "host_platform_device_count" not in flags:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
        os.environ["JAX_NUM_CPU_DEVICES"] = str(cores)
    if "xla_backend_extra_options" not in flags:
        # Otherwise each of a unit's eight figures computes the unit again: it takes 1.5 times as long.
        os.environ["XLA_FLAGS"] = f"{flags} --xla_backend_extra_options={_FUSE}".strip()


def pick_devices(device: Device) -> list[Any]:
    """Return JAX's devices of the backend that is asked for.

    Raises:
        DeviceError: there is none; names what is there.
    """
    prepare_cpu()
    import jax

    try:
        return list(jax.devices() if device is Device.auto else jax.devices(device.value))
    except RuntimeError as error:
        try:
            there = ", ".join(sorted({d.platform for d in jax.devices()}))
        except RuntimeError:
            raise DeviceError(f"JAX finds no device: {str(error).splitlines()[0]}") from None
        raise DeviceError(
            f"there is no {device.value} for JAX here, only: {there}; give --device auto, "
            f"or install JAX for it (cubic-cli[{'cuda' if device is Device.gpu else 'tpu'}])"
        ) from None
