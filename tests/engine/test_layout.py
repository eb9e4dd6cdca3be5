import dataclasses

import pytest

from cubic_cli.engine.layout import CPU, GPU, choose_tuning, lay_out, lay_out_plain, spans, usual_tuning


@dataclasses.dataclass
class Card:
    """A device that says how much memory it has, and how much of it is taken."""

    limit: int | None
    taken: int = 0
    platform: str = "gpu"
    process_index: int = 0

    def memory_stats(self):
        if self.limit is None:
            raise NotImplementedError
        return {"bytes_limit": self.limit, "bytes_in_use": self.taken}


GIB = 1 << 30
CARDS = {
    "a large card": (Card(100 * GIB), GPU.chunk, GPU.plain_values),
    "a slice of one": (Card(1 * GIB), 1 << 22, 1 << 24),
    "one that others use": (Card(100 * GIB, 99 * GIB), 1 << 22, 1 << 24),
    "one that does not tell": (Card(None), GPU.chunk, GPU.plain_values),
    "one without any": (Card(GIB, GIB), 1 << 10, 1 << 10),
}


@pytest.mark.parametrize(("card", "chunk", "values"), CARDS.values(), ids=CARDS)
def test_a_chunk_is_as_large_as_the_memory_of_a_card_likes(card, chunk, values):
    tuning = choose_tuning([card])
    assert (tuning.chunk, tuning.block, tuning.plain_values) == (chunk, chunk, values)
    of_memory = dict.fromkeys(("chunk", "block", "resident", "plain_values"), 0)
    assert tuning._replace(**of_memory) == GPU._replace(**of_memory)


def test_an_accelerator_that_we_know_nothing_of_gets_what_a_gpu_does():
    assert choose_tuning([Card(None, platform="METAL")]) == choose_tuning([Card(None)])
    assert usual_tuning(Card(None, platform="METAL")) == GPU


def test_a_cpu_and_many_processes_have_fixed_sizes():
    """Of many processes all must lay the samples out alike."""
    assert choose_tuning([Card(GIB, platform="cpu")]) == CPU
    assert choose_tuning([Card(GIB), Card(4 * GIB, process_index=1)]) == GPU


@pytest.mark.parametrize("batch", [1, 10, 1000])
@pytest.mark.parametrize("devices", [1, 2, 8])
def test_an_accelerator_has_one_block_a_device(batch, devices):
    layout = lay_out(1_000_000, batch, devices, GPU.block)
    assert layout.blocks == devices
    assert layout.pieces_per_batch == 1
    assert layout.axis == (0 if batch < 100 else 1)


@pytest.mark.parametrize("samples", [1, 999, 100_000])
def test_a_block_of_the_plain_schedule_does_not_depend_on_the_devices(samples):
    layouts = [lay_out_plain(samples, 10, devices, 2048) for devices in (1, 2, 3, 8)]
    assert len({(layout.pieces, layout.piece) for layout in layouts}) == 1
    assert all(layout.blocks * layout.pieces * layout.piece >= samples for layout in layouts)


@pytest.mark.parametrize(
    ("samples", "batch", "chunk"), [(1000, 10, 100), (1003, 10, 64), (50, 400, 7), (1001, 300, 100)]
)
def test_chunks_are_whole_batches_or_parts_of_one(samples, batch, chunk):
    found = spans(samples, batch, chunk)
    assert [start for start, _ in found] == [0, *(stop for _, stop in found[:-1])]
    assert found[-1][1] == samples
    assert all(stop - start <= (chunk + batch if batch <= chunk else chunk) for start, stop in found)
    assert all(start % batch == 0 or start // batch == (stop - 1) // batch for start, stop in found)
