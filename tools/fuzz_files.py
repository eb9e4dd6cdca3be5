"""Read random CSV files twice, by `cubic` and by the tests' slow reader: `python tools/fuzz_files.py --seconds 20`.

Both must read the same samples, bit for bit, or refuse the file at the same line. The first file where they do not is
printed, and this exits with 1. Blocks of a few bytes make every record lie across two of them.
"""

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import csv_reference

from cubic_cli.data.read import read_samples
from cubic_cli.errors import DatasetError

NUMBERS = [
    "1.", ".5", "+3", "1e-46", "3.4028235677973366e38", "3.40282356779733e38", "3.4028236e38", "16777217", "-0.0",
    "nan", "-inf", "1e39", "1" * 45 + ".0", "0." + "0" * 60 + "1", "1.00000005960464477539062500001",
    "Infinity", "-1E+3",
]  # fmt: skip
DRESSES = ["{}", "{}", "{}", "{}", '"{}"', " {}", "{}\t", ' "{}"\t', '" {} "']
TEXTS = [
    "a", "", "some text", '"a,b"', '"x\ny"', '"5"" p"', "1;2", "é", " b ", '" "', ' "q" ', '"a\r\nb"', '""', "1_0",
]  # fmt: skip
TOKENS = [
    "", " ", "\t", '"', "\r", "\n", "\r\n", ",", "e", "E", "+", "-", ".", "-NaN", "_", "0x", "\0", "\ufeff", "é",
    "1e400", "e-45", "#", "\x0b", "\x0c", "\xa0", "null", "7", "1,2\n", '"3"', " 3 ", ";", "'", '""', '"a,b"',
    '"a\nb"', '" 1 "', '"5"" pipe"', "\n\n", " \n", '" , "', '"\r\n"', ',"', "x,y\n",
]  # fmt: skip


def number(rng: random.Random) -> str:
    """Return a number as some program might write it."""
    text = rng.choice([str(np.float32(rng.uniform(-100, 100))), repr(rng.gauss(0, 1e4)), rng.choice(NUMBERS)])
    return rng.choice(DRESSES).format(text)


def file(rng: random.Random) -> bytes:
    """Return a CSV file with the columns x and y among others; half of them with something wrong in it."""
    columns = ["x", "y", "note", "z"][: rng.randint(2, 4)]
    rng.shuffle(columns)
    lines = [columns] + [
        [number(rng) if name in ("x", "y") else rng.choice(TEXTS) for name in columns] for _ in range(rng.randrange(12))
    ]
    for line in lines:
        if rng.random() < 0.03:
            line[rng.randrange(len(line)) :] = rng.choice([[], ["9"] * 3])
    end = rng.choice(["\n", "\n", "\r\n"])
    text = end.join(",".join(line) for line in lines) + rng.choice(["", end, end, end * 3])
    for _ in range(rng.choice([0, 0, 1, 2, 3])):
        at = rng.randint(0, len(text))
        text = text[:at] + rng.choice(TOKENS) + text[at + rng.randint(0, 2) :]
    return text.encode()


def difference(path: Path, raw: bytes, num_samples: int | None, block: int) -> str | None:
    """Return how the two readers differ, None where they do not; ours reads `block` bytes at a time."""
    path.write_bytes(raw)
    expected, line = csv_reference.read_or_line(raw, num_samples)
    try:
        found = np.stack(read_samples(path, num_samples, block=block), axis=1)
    except DatasetError as error:
        said = str(error)
        if expected is not None:
            return f"refused: {said}\nexpected:\n{expected}"
        return None if f"line {line}:" in said or ", line " not in said else f"refused: {said}\nexpected: line {line}"
    if expected is None:
        return f"read:\n{found}\nexpected: refused at line {line}"
    same = np.array_equal(found, expected, equal_nan=True)
    same = same and np.array_equal(np.signbit(found[found == 0]), np.signbit(expected[found == 0]))
    return None if same else f"read:\n{found}\nexpected:\n{expected}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    given = parser.parse_args()
    rng = random.Random(given.seed)
    end, files = time.monotonic() + given.seconds, 0
    with tempfile.TemporaryDirectory() as folder:
        while time.monotonic() < end:
            files += 1
            raw, num_samples, block = file(rng), rng.choice([None, None, 1, 3]), rng.choice([8, 64, 200, 1 << 23])
            wrong = difference(Path(folder, "data.csv"), raw, num_samples, block)
            if wrong is not None:
                print(f"seed {given.seed}, file {files}: {raw!r}, {num_samples} samples\n{wrong}")
                return 1
    print(f"{files} files, seed {given.seed}: no difference")
    return 0


if __name__ == "__main__":
    sys.exit(main())
