# The commands of this project, by https://just.systems; each is one line that works without `just`, too.
# `.ci/run` runs all that a change must pass.

bin := ".venv/bin"

# make the environment
setup:
    python3 -m venv .venv && {{bin}}/pip install -e '.[dev]'

# the quick tests; `just test -m ''` for all of them, `just test --cov` for the coverage
test *arguments:
    {{bin}}/pytest {{arguments}}

# style, types, rooms
lint:
    tools/lint.sh .venv

# bring the pages' outputs up to date
docs:
    {{bin}}/python tools/refresh.py README.md docs/*.md

# draw the pictures anew, where a test says that they are out of date: dates and last digits change each time
pictures:
    {{bin}}/python tools/pictures.py

# how fast the pass is, against a loop in C and others
bench *arguments:
    {{bin}}/python -m benchmarks.throughput {{arguments}}

# odd settings, datasets and runs, and faults for real
fuzz seconds="60":
    {{bin}}/python tools/fuzz.py --seconds {{seconds}}
    {{bin}}/python tools/fuzz_files.py --seconds {{seconds}}
    {{bin}}/python tools/faults.py --tries 10
