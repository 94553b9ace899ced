# shellcheck shell=bash
# Sourced by other scripts: finds Postgres' server programs, and starts a throw-away server on a Unix socket.

# Prints the folder that holds initdb: POSTGRES_BIN if it is set, else of the newest version; fails if there is none.
postgres_bin() {
  local folder brew
  if [ -n "${POSTGRES_BIN:-}" ]; then
    echo "$POSTGRES_BIN"
    return
  fi
  brew=$(command -v brew >/dev/null && brew --prefix || true)
  for folder in $(ls -d /usr/lib/postgresql/*/bin /usr/pgsql-*/bin "${brew:-/nonexistent}"/opt/postgresql@*/bin 2>/dev/null |
    sed -E 's,.*[^0-9]([0-9]+)/bin$,\1 &,' | sort -rn | cut -d' ' -f2-); do
    if [ -x "$folder/initdb" ] && [ -x "$folder/postgres" ]; then
      echo "$folder"
      return
    fi
  done
  if folder=$(command -v initdb); then
    dirname "$folder"
    return
  fi
  return 1
}

# Starts a server in a new temporary folder and sets throwaway_url; stop it with throwaway_stop.
throwaway_start() {
  local owner=""
  throwaway_bin=$(postgres_bin) || {
    echo "Postgres' server programs are missing; run 'scripts/setup demo' first." >&2
    return 1
  }
  throwaway_dir=$(mktemp -d "${TMPDIR:-/tmp}/presence-bridge-pg.XXXXXX")
  throwaway_as=""
  if [ "$(id -u)" = 0 ]; then # Postgres refuses to run as root.
    owner=$(id -un postgres 2>/dev/null || echo nobody)
    chown "$owner" "$throwaway_dir"
    PATH=$PATH:/usr/sbin:/sbin # `su` without a dash leaves them out
    throwaway_as="runuser -u $owner --"
  fi
  (
    cd "$throwaway_dir"
    $throwaway_as "$throwaway_bin/initdb" -D "$throwaway_dir/data" -U postgres --auth=trust -E UTF8 --no-sync >"$throwaway_dir.log" 2>&1
    $throwaway_as "$throwaway_bin/pg_ctl" -D "$throwaway_dir/data" -w -o "-k '$throwaway_dir' -c listen_addresses='' -c fsync=off" \
      -l "$throwaway_dir/data/log" start >>"$throwaway_dir.log" 2>&1
  ) || {
    cat "$throwaway_dir.log" >&2
    return 1
  }
  throwaway_url="postgres://postgres@localhost/postgres?host=$throwaway_dir"
}

throwaway_stop() {
  [ -n "${throwaway_dir:-}" ] || return 0
  (cd "$throwaway_dir" && $throwaway_as "$throwaway_bin/pg_ctl" -D "$throwaway_dir/data" -m immediate stop) >/dev/null 2>&1 || true
  rm -rf "$throwaway_dir" "$throwaway_dir.log"
}
