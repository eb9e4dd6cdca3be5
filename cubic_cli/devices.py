"""The devices of JAX: which there are, and which a run uses."""

import os
from typing import Any

from cubic_cli.config import Device
from cubic_cli.errors import DeviceError


def pick_devices(device: Device) -> list[Any]:
    """Return JAX's devices of the backend that is asked for.

    Raises:
        DeviceError: there is none; names what is there.
    """
    # The cores of a CPU are JAX devices only if that is said before its first use.
    if not os.environ.get("JAX_NUM_CPU_DEVICES") and "host_platform_device_count" not in os.environ.get(
        "XLA_FLAGS", ""
    ):
        os.environ["JAX_NUM_CPU_DEVICES"] = str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)
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
