# Builds both programs; the image runs the bridge. The simulator is in it for the demo of docker-compose.yml.
FROM rust:1.95-bookworm AS build
WORKDIR /build
ENV SQLX_OFFLINE=true

# The dependencies first, with empty sources, so that a change of our code does not build them again.
COPY Cargo.toml Cargo.lock ./
COPY simulator/Cargo.toml simulator/
COPY bench/Cargo.toml bench/
RUN mkdir -p src simulator/src bench/src \
    && touch src/lib.rs simulator/src/lib.rs \
    && for crate in . simulator bench; do echo 'fn main() {}' > $crate/src/main.rs; done \
    && cargo build --release --locked --package presence-bridge --package genesys-simulator

COPY . .
# Copied files keep their times, which may lie before the empty sources were built.
RUN find src simulator/src -name '*.rs' -exec touch {} + \
    && cargo build --release --locked --package presence-bridge --package genesys-simulator \
    && cp target/release/presence-bridge target/release/genesys-simulator /usr/local/bin/

FROM debian:bookworm-slim
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
RUN useradd --system --uid 10001 --user-group --no-create-home --home-dir /var/lib/presence-bridge bridge \
    && install -d -o bridge -g bridge -m 0700 /var/lib/presence-bridge
COPY --from=build /usr/local/bin/presence-bridge /usr/local/bin/genesys-simulator /usr/local/bin/
USER bridge
WORKDIR /var/lib/presence-bridge
ENV BRIDGE_DATA_DIR=/var/lib/presence-bridge \
    BRIDGE_LISTEN=0.0.0.0:8080
VOLUME /var/lib/presence-bridge
EXPOSE 8080
# The bridge stops on SIGTERM: it finishes POSTs under way and releases its leases.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["presence-bridge", "healthcheck"]
ENTRYPOINT ["presence-bridge"]
CMD ["serve"]
