#!/usr/bin/env bash
# Postgres: two standbys of one primary that are promoted without each other's history have the same timeline number.
#
# Seen with PostgreSQL 16.2 (from the PyPI package pgserver 0.1.4). System identifier and timeline are what a program can
# ask to learn in which history of which cluster it is. A promoted server takes the next number for which it knows no
# history, by its own files and by an archive if it has one. So a second standby that is promoted after the first (a double
# failover, before it followed the first new primary) goes on under the number that the first one took: both take writes,
# name one identifier and one timeline, and hold different rows. Only where the histories part may tell them apart, in the
# history file, and not even that if both had received the same.
#
# Needs python3 with pip, and runuser when started as root. Exit status 0: as described. 1: it is different now.
set -euo pipefail
dir=$(mktemp -d)
as=""
stop() {
  for node in first second third; do
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
run() { $as "$bin/pg_ctl" -D "$dir/$1" -w -l "$dir/$1.log" -o "-k $dir -p $2 -c listen_addresses=''" start >/dev/null; }
ask() { local port=$1; shift; "$bin/psql" -X -At -h "$dir" -p "$port" -U postgres -d postgres "$@"; }
$as "$bin/initdb" -D "$dir/first" -U postgres --auth=trust --no-sync >/dev/null
run first 6011
version=$(ask 6011 -c 'show server_version')
for standby in second third; do
  $as "$bin/pg_basebackup" -h "$dir" -p 6011 -U postgres -D "$dir/$standby" -R -c fast
done
run second 6012
run third 6013
ask 6011 -q -c 'create table told (by text)'
end=$(ask 6011 -c 'select pg_current_wal_lsn()')
for port in 6012 6013; do
  for _ in $(seq 300); do
    [ "$(ask "$port" -c "select pg_last_wal_replay_lsn() >= '$end'")" = t ] && break
    sleep 0.1
  done
done
$as "$bin/pg_ctl" -D "$dir/first" -m immediate stop >/dev/null
history="select (select system_identifier from pg_control_system()) || ' ' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)"
ask 6012 -q -c 'select pg_promote()' -c "insert into told values ('second')" >/dev/null
second=$(ask 6012 -c "$history")
ask 6013 -q -c 'select pg_promote()' -c "insert into told values ('third')" >/dev/null
third=$(ask 6013 -c "$history")
rows="$(ask 6012 -c 'select by from told') and $(ask 6013 -c 'select by from told')"

same=no
[ "$second" = "$third" ] && same=yes
echo "PostgreSQL $version: timelines ${second#* } and ${third#* }, one identifier and timeline: $same; rows: $rows"
[ "$same ${second#* } $rows" = "yes 00000002 second and third" ] || { echo "It is different now."; exit 1; }
echo "As described."
