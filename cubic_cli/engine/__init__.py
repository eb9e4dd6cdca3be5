"""The compiled pass: schedules, layout, devices, and the host's loop over chunks and epochs."""
