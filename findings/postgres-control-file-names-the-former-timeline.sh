#!/usr/bin/env bash
# Postgres: after a promotion, pg_control_checkpoint() names the timeline before it, for as long as no checkpoint has ended.
#
# Seen with PostgreSQL 16.2 (from the PyPI package pgserver 0.1.4). A program that wants to notice a failover compares the
# timeline. The function that a search finds first reads the control file, where the last checkpoint's timeline stands: a
# promoted server takes writes in its new timeline at once, and names the old one until its first checkpoint there ends,
# which the server spreads over minutes when there is much to write. The name of the WAL file under way has the new
# timeline at once; an ordinary user may ask for both.
#
# Needs python3 with pip, and runuser when started as root. Exit status 0: as described. 1: it is different now.
set -euo pipefail
dir=$(mktemp -d)
as=""
stop() {
  for node in first second; do
    [ -n "${bin:-}" ] && (cd "$dir" && $as "$bin/pg_ctl" -D "$dir/$node" -m immediate stop >/dev/null 2>&1) || true
  done
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
run() { $as "$bin/pg_ctl" -D "$dir/$1" -w -l "$dir/$1.log" -o "-k $dir -p $2 -c listen_addresses='' -c checkpoint_timeout=1h" start >/dev/null; }
ask() { local port=$1; shift; "$bin/psql" -X -At -h "$dir" -p "$port" -U postgres -d postgres "$@"; }
$as "$bin/initdb" -D "$dir/first" -U postgres --auth=trust --no-sync >/dev/null
run first 6001
version=$(ask 6001 -c 'show server_version')
ask 6001 -q -c 'create role somebody login' # has no rights beyond those of everybody
$as "$bin/pg_basebackup" -h "$dir" -p 6001 -U postgres -D "$dir/second" -R -c fast
run second 6002
# Much to write: the checkpoint of the promoted server takes its time.
ask 6001 -q -c "create table many as select n, repeat('x', 200) from generate_series(1, 200000) n"
end=$(ask 6001 -c 'select pg_current_wal_lsn()')
for _ in $(seq 300); do
  [ "$(ask 6002 -c "select pg_last_wal_replay_lsn() >= '$end'")" = t ] && break
  sleep 0.1
done
timelines="select (select timeline_id from pg_control_checkpoint()), substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)"
ask 6002 -q -c 'select pg_promote()' -c "insert into many values (0, 'written after the promotion')" >/dev/null
after=$("$bin/psql" -X -At -h "$dir" -p 6002 -U somebody -d postgres -c "$timelines")
ask 6002 -q -c checkpoint
later=$("$bin/psql" -X -At -h "$dir" -p 6002 -U somebody -d postgres -c "$timelines")

echo "PostgreSQL $version, control file|WAL file: after the promotion and a write $after, after a checkpoint $later"
[ "$after $later" = "1|00000002 2|00000002" ] || { echo "It is different now."; exit 1; }
echo "As described."
