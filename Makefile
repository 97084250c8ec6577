# make run    the demo: the probe application over FastCGI behind an embedded web front, http://127.0.0.1:8080
# make test   everything that CI checks; installs the Debian packages that the interoperability tests talk to
# make wheel  the Python package with the command in it, target/wheels/ringway-*.whl
# make python its tests: the wheel in a clean venv, Flask and others behind web servers
# make powerset  every combination of features: no warnings of the linter; every feature: none of rustdoc
# make semver whether the public API still has everything that it had (not part of make test)
# make bench  criterion's benchmarks of the parts, then the comparison of the whole with its peers

CARGO ?= cargo

# Everything.
FEATURES = cli,http

# What the tests start or build against.
PACKAGES = nginx-light haproxy libfcgi-dev libfcgi-bin spawn-fcgi curl apache2 libapache2-mod-fcgid lighttpd \
           caddy h2o supervisor systemd php-fpm uwsgi-core fcgiwrap golang-go gcc libc6-dev \
           chromium chromium-driver postgresql python3-venv

# The example that is a package of its own, built where everything else is.
GUESTBOOK = --manifest-path examples/guestbook/Cargo.toml
GUESTBOOK_TARGET = --target-dir $(or $(CARGO_TARGET_DIR),target)

.PHONY: run test bench packages format lint powerset semver unit docs wheel python

run:
	$(CARGO) run --release --features cli -- demo

test: packages format lint powerset unit docs python

packages:
	@missing=""; for package in $(PACKAGES); do \
	  dpkg-query -W -f='$${Status}' $$package 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$package"; \
	done; \
	if [ -n "$$missing" ]; then \
	  sudo=$$(test "$$(id -u)" = 0 || echo sudo); \
	  echo "installing:$$missing"; \
	  $$sudo apt-get update -qq && \
	  DEBIAN_FRONTEND=noninteractive $$sudo apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	fi

format:
	$(CARGO) fmt --all --check
	$(CARGO) fmt $(GUESTBOOK) --check

lint:
	$(CARGO) clippy --workspace --all-targets --features $(FEATURES) -- -D warnings
	$(CARGO) clippy $(GUESTBOOK) $(GUESTBOOK_TARGET) --all-targets -- -D warnings

unit:
	RINGWAY_REQUIRE=$(RINGWAY_REQUIRE) $(CARGO) test --workspace --features $(FEATURES)
	RINGWAY_REQUIRE=$(RINGWAY_REQUIRE) $(CARGO) test $(GUESTBOOK) $(GUESTBOOK_TARGET)

docs:
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --no-deps --features $(FEATURES)

TARGET = $(abspath $(or $(CARGO_TARGET_DIR),target))
TOOLS = $(TARGET)/tools

$(TOOLS)/bin/cargo-hack:
	$(CARGO) install --quiet --locked --root $(TOOLS) cargo-hack@0.6.46

# The library knows nothing of mimalloc, and default is server. Both would only double the combinations.
powerset: $(TOOLS)/bin/cargo-hack
	$< hack clippy --feature-powerset --exclude-features default,mimalloc -- -D warnings
	RUSTDOCFLAGS="-D warnings" $< hack doc --no-deps --each-feature --exclude-features default,mimalloc

$(TOOLS)/bin/cargo-semver-checks:
	$(CARGO) install --quiet --locked --root $(TOOLS) cargo-semver-checks@0.51.0

# With what the API is compared: the last release or, before the first, a revision of the branch.
BASELINE ?= $(or $(shell git describe --tags --abbrev=0 2>/dev/null),9f151c0)

# Additions are free: only what breaks users is told.
semver: $(TOOLS)/bin/cargo-semver-checks
	$< semver-checks --package ringway --release-type minor --baseline-rev $(BASELINE) \
	  --only-explicit-features --features $(FEATURES)

# The virtual environments need the module venv (Debian: python3-venv) and PyPI.
PYTHON ?= python3
WHEELS = $(TARGET)/wheels
BUILD_VENV = $(TARGET)/python-build
TEST_VENV = $(TARGET)/python-test
BENCH_VENV = $(TARGET)/python-bench

# Of the interoperability tests, those that the probe in Python is to pass as well.
PROBED = nginx::epoll_tcp_closed_root nginx::uring_unix_kept_prefix apache::tcp_closed_root apache::unix_kept_prefix \
         lighttpd::uring_unix_root

$(BUILD_VENV)/bin/maturin:
	$(PYTHON) -m venv $(BUILD_VENV)
	$(BUILD_VENV)/bin/pip install -q 'maturin>=1.8,<2'

wheel: $(BUILD_VENV)/bin/maturin
	rm -rf $(WHEELS)
	$(CARGO) build --release --locked --features $(FEATURES) --bin ringway
	mkdir -p python/ringway/bin
	strip -o python/ringway/bin/ringway $(TARGET)/release/ringway
	cd python && CARGO_TARGET_DIR=$(TARGET)/python $(BUILD_VENV)/bin/maturin build --release --locked \
	  --interpreter $(BUILD_VENV)/bin/python --out $(WHEELS)

python: wheel
	cd python && $(CARGO) fmt --check
	cd python && CARGO_TARGET_DIR=$(TARGET)/python $(CARGO) clippy --release --locked -- -D warnings
	$(CARGO) clippy --all-targets --features cli,python -- -D warnings
	RINGWAY_REQUIRE=$(RINGWAY_REQUIRE) $(CARGO) test --features cli,python --test wsgi
	rm -rf $(TEST_VENV)
	$(PYTHON) -m venv $(TEST_VENV)
	$(TEST_VENV)/bin/pip install -q $(WHEELS)/*.whl -r python/tests/requirements.txt
	cd python && $(TEST_VENV)/bin/python -m mypy --strict --cache-dir $(TARGET)/mypy ringway
	RINGWAY_REQUIRE=$(RINGWAY_REQUIRE) RINGWAY_WHEEL=$$(ls $(WHEELS)/*.whl) \
	  $(TEST_VENV)/bin/python -m pytest -q -p no:cacheprovider python/tests
	RINGWAY_REQUIRE=$(RINGWAY_REQUIRE) RINGWAY_PROBE="$(TEST_VENV)/bin/ringway-wsgi ringway.probe:application" \
	  $(CARGO) test --features $(FEATURES) --test interop -- $(PROBED)

# The package and its peers; uWSGI is compiled.
$(BENCH_VENV): wheel
	rm -rf $(BENCH_VENV)
	$(PYTHON) -m venv $(BENCH_VENV)
	$(BENCH_VENV)/bin/pip install -q $(WHEELS)/*.whl -r loadtest/peers/requirements.txt

bench: $(BENCH_VENV)
	$(CARGO) bench --features http,mimalloc
	$(CARGO) build --release --workspace --features $(FEATURES)
	target/release/ringway-loadtest compare --ringway target/release/ringway
	target/release/ringway-loadtest cgi --ringway target/release/ringway
	target/release/ringway-loadtest axum
	target/release/ringway-loadtest wsgi --venv $(BENCH_VENV)
