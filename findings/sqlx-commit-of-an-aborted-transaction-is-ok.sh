#!/usr/bin/env bash
# sqlx: commit() answers Ok for a transaction that Postgres has rolled back.
#
# Seen with sqlx 0.9.0 and PostgreSQL 16.2 (from the PyPI package pgserver 0.1.4). A statement inside of a transaction fails,
# and its error is looked at and passed over (a duplicate key that "does not matter"). Postgres has aborted the transaction by
# then and answers COMMIT with the command tag ROLLBACK; sqlx does not look at the tag, and commit() is Ok(()). Nothing
# of the transaction is stored. So every error inside of a transaction must end it, however harmless it looks; a
# statement that may fail harmlessly needs a savepoint or ON CONFLICT.
#
# Needs cargo, python3 with pip, and runuser when started as root. Exit status 0: as described. 1: it is different now.
set -euo pipefail
dir=$(mktemp -d)
as=""
stop() {
  [ -n "${bin:-}" ] && (cd "$dir" && $as "$bin/pg_ctl" -D "$dir/data" -m immediate stop >/dev/null 2>&1) || true
  rm -rf "$dir" "$dir.crate"
}
trap stop EXIT
python3 -m pip install --quiet --root-user-action=ignore --disable-pip-version-check --no-deps --target "$dir/site" pgserver==0.1.4
bin="$dir/site/pgserver/pginstall/bin"
if [ "$(id -u)" = 0 ]; then # Postgres refuses to run as root.
  chown -R nobody "$dir"
  as="runuser -u nobody --"
fi
(cd "$dir" && $as "$bin/initdb" -D "$dir/data" -U postgres --auth=trust --no-sync >/dev/null &&
  $as "$bin/pg_ctl" -D "$dir/data" -w -l "$dir/log" -o "-k $dir -c listen_addresses=''" start >/dev/null)

mkdir -p "$dir.crate/src"
cat >"$dir.crate/Cargo.toml" <<'TOML'
[package]
name = "commit-of-an-aborted-transaction"
version = "0.1.0"
edition = "2021"

[dependencies]
sqlx = { version = "=0.9.0", default-features = false, features = ["postgres", "runtime-tokio"] }
tokio = { version = "1", features = ["macros", "rt"] }
TOML
cat >"$dir.crate/src/main.rs" <<'RUST'
use sqlx::{Connection, PgConnection};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), sqlx::Error> {
    let url = std::env::args().nth(1).expect("a connection string");
    let mut db = PgConnection::connect(&url).await?;
    sqlx::query("create table noted (what text primary key)").execute(&mut db).await?;
    sqlx::query("insert into noted values ('old')").execute(&mut db).await?;

    let mut transaction = db.begin().await?;
    sqlx::query("insert into noted values ('new')").execute(&mut *transaction).await?;
    let duplicate = sqlx::query("insert into noted values ('old')").execute(&mut *transaction).await;
    println!("duplicate: {}", if duplicate.is_err() { "refused" } else { "taken" });
    let committed = transaction.commit().await;
    println!("commit: {committed:?}");

    let rows: i64 = sqlx::query_scalar("select count(*) from noted where what = 'new'").fetch_one(&mut db).await?;
    println!("rows stored by the transaction: {rows}");
    Ok(())
}
RUST
seen=$(cargo run --quiet --manifest-path "$dir.crate/Cargo.toml" -- "postgres://postgres@localhost/postgres?host=$dir")
printf 'sqlx 0.9.0, %s\n%s\n' "$($as "$bin/postgres" --version)" "$seen"
[ "$seen" = $'duplicate: refused\ncommit: Ok(())\nrows stored by the transaction: 0' ] || { echo "It is different now."; exit 1; }
echo "As described."
