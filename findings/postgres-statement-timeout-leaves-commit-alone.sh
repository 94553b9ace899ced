#!/usr/bin/env bash
# Postgres: statement_timeout does not end a COMMIT that waits for a synchronous standby.
#
# Seen with PostgreSQL 16.2 (from the PyPI package pgserver 0.1.4). A client that sets statement_timeout to half a second so
# that "no call takes longer" waits in COMMIT for as long as the standby is away. The row is on disk all the time, and seen
# by others only after the wait. So a client needs a time limit of its own around COMMIT, and must treat what it gave up as
# unknown, not as undone: in the run below the client gives up after three seconds, and the row appears once the standby's
# name is taken out of the configuration.
#
# Needs python3 with pip, and runuser when started as root. Exit status 0: as described. 1: it is different now.
set -euo pipefail
dir=$(mktemp -d)
as=""
stop() {
  [ -n "${bin:-}" ] && (cd "$dir" && $as "$bin/pg_ctl" -D "$dir/data" -m immediate stop >/dev/null 2>&1) || true
  rm -rf "$dir"
}
trap stop EXIT
python3 -m pip install --quiet --root-user-action=ignore --disable-pip-version-check --no-deps --target "$dir/site" pgserver==0.1.4
bin="$dir/site/pgserver/pginstall/bin"
if [ "$(id -u)" = 0 ]; then # Postgres refuses to run as root.
  chown -R nobody "$dir"
  as="runuser -u nobody --"
fi
cd "$dir"
$as "$bin/initdb" -D "$dir/data" -U postgres --auth=trust --no-sync >/dev/null
$as "$bin/pg_ctl" -D "$dir/data" -w -l "$dir/log" -o "-k $dir -c listen_addresses=''" start >/dev/null
ask() { "$bin/psql" -X -At -h "$dir" -U postgres -d postgres "$@"; }
version=$(ask -c 'show server_version')
ask -q -c 'create table noted (what text)'
ask -q -c "alter system set synchronous_standby_names = 'away'" -c 'select pg_reload_conf()' >/dev/null
for _ in $(seq 100); do [ "$(ask -c 'show synchronous_standby_names')" = away ] && break; sleep 0.1; done

# The limit is in force: a statement that works for too long is ended.
ended=$(ask -c "set statement_timeout = '500ms'" -c 'select pg_sleep(30)' 2>&1 | grep -c 'statement timeout' || true)

status=0
timeout 3 "$bin/psql" -X -q -h "$dir" -U postgres -d postgres \
  -c "set statement_timeout = '500ms'" -c 'begin' -c "insert into noted values ('a')" -c 'commit' >/dev/null 2>&1 || status=$?
waiting=$(ask -c "select count(*) from pg_stat_activity where wait_event = 'SyncRep'")
before=$(ask -c 'select count(*) from noted')
ask -q -c "alter system reset synchronous_standby_names" -c 'select pg_reload_conf()' >/dev/null
for _ in $(seq 100); do after=$(ask -c 'select count(*) from noted'); [ "$after" = 1 ] && break; sleep 0.1; done

echo "PostgreSQL $version: pg_sleep ended by statement_timeout: $ended; client gave COMMIT up after 3 s with status $status (124: still waiting);"
echo "backends in SyncRep then: $waiting; rows seen before the wait ended: $before, after it: $after"
[ "$ended $status $waiting $before $after" = "1 124 1 0 1" ] || { echo "It is different now."; exit 1; }
echo "As described."
