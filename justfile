# `just check` is exactly what CI runs. Recipes are one line; logic belongs into a test.

# List the recipes.
default:
    @just --list

# Everything that CI checks.
check: fmt clippy deny test doc

# Formatting.
fmt:
    cargo fmt --all --check

# Lints, as errors.
clippy:
    cargo clippy --workspace --all-targets --locked -- -D warnings

# Licences, sources and banned versions, where cargo-deny is installed.
deny:
    if cargo deny --version >/dev/null 2>&1; then cargo deny check bans licenses sources; else echo 'cargo-deny is not installed: skipped'; fi

# All tests.
test:
    cargo test --workspace --locked

# What the test of HTTP's description asks with.
schemathesis:
    python3 -m venv target/schemathesis && target/schemathesis/bin/pip install --quiet schemathesis==4.32.5

# The documentation builds without a warning.
doc:
    RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --locked

# Replay the simulation from one seed.
sim SEED='1':
    BLOCKFERRY_SEED={{SEED}} cargo test -p blockferry-tests --test it sim_two_nodes -- --nocapture

# The figures of the issues, measured on this machine.
figures *ARGS:
    cargo run --release -p blockferry-benches -- figures {{ARGS}}

# Blockferry, full copies and other tools on the same workloads and links; the report to docs/benchmarks.
compare *ARGS:
    cargo build --release --locked -p blockferry && cargo run --release --locked -p blockferry-benches -- compare {{ARGS}}

# Chunk parameters compared on generations of an image: just cuts IMAGE...
cuts *ARGS:
    cargo run --release -p blockferry-benches -- cuts {{ARGS}}

# Wall time of each station; with 20 M index entries if BLOCKFERRY_BENCH_INDEX_DIR names a directory.
bench *ARGS:
    cargo bench --locked -p blockferry-benches --bench wall -- {{ARGS}}

# Instructions of each station against the stored counts (valgrind); --update stores what is counted.
instructions *ARGS:
    cargo run --release --locked -p blockferry-benches -- baseline {{ARGS}}

# Packages, archive, bill of materials and sums, into dist/: the same bytes from the same commit.
dist *ARGS:
    cargo run --locked -p blockferry-dist -- {{ARGS}}

# Two nodes and a delta to watch.
demo *ARGS:
    cargo run --release -p blockferry -- demo {{ARGS}}

# The book as a site in target/book; needs mdbook 0.5: cargo install --locked --no-default-features mdbook
book:
    mdbook build docs
