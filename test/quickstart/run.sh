#!/usr/bin/env bash
# The quickstart as a new user meets it: what `make run` starts, driven by curl
# and by a browser that trusts the CA of localhost as a user would make it trust it.
# Only the ports are others: free ones, so that a `make run` may go on beside it.
# BROWSER=none leaves the browser out.
set -euo pipefail
cd "$(dirname "$0")/../.."

work=$(mktemp -d)
pids=()

# finish ends what this script started, and shows the log if something failed.
finish() {
  local status=$?
  trap - EXIT
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
  if ((status != 0)) && [[ -s $work/portico.log ]]; then
    echo "--- portico said:" >&2
    grep -v '^{' "$work/portico.log" | tail -n 60 >&2 || true
  fi
  rm -rf "$work"
  exit "$status"
}
trap finish EXIT
trap 'exit 130' INT TERM

fail() {
  echo "quickstart: FAIL: $*" >&2
  exit 1
}

ok() { echo "quickstart: ok: $*"; }

# need installs missing Debian packages if it may.
need() {
  local command=$1 package=$2
  command -v "$command" >/dev/null && return
  if [[ $EUID -eq 0 ]] && command -v apt-get >/dev/null; then
    echo "quickstart: installing $package"
    apt-get update -qq >/dev/null
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$package" >/dev/null
    return
  fi
  fail "$command is missing; install the Debian package $package"
}

# eventually runs a command until it succeeds, for at most 20 seconds.
eventually() {
  local what=$1 end=$((SECONDS + 20))
  shift
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < end)) || fail "never came: $what"
    sleep 0.05
  done
}

# took_effect is eventually for an edit, and says how long it took.
took_effect() {
  local what=$1 start=${EPOCHREALTIME/[.,]/}
  shift
  eventually "$what" "$@"
  ok "$what ($(((${EPOCHREALTIME/[.,]/} - start) / 1000)) ms)"
}

# free_ports prints the first of eight ports in a row on which nobody listens. They
# are below those that the kernel gives to clients.
free_ports() {
  local first port
  for _ in {1..100}; do
    first=$((20000 + RANDOM % 12000))
    for ((port = first; port < first + 8; port++)); do
      ! (: <>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || continue 2
    done
    echo "$first"
    return
  done
  fail "no eight ports in a row are free"
}

demo_port=$(free_ports)
live_port=$((demo_port + 3))
http_port=$((demo_port + 4))
https_port=$((demo_port + 5))
admin_port=$((demo_port + 6))
debug_port=$((demo_port + 7))
base=https://shop.localhost:$https_port
ask() { curl --silent --show-error --max-time 30 --cacert "$ca" "$@"; }

# answers asks for a URL and compares status, and what the body contains.
answers() {
  local want=$1 text=$2
  shift 2
  local got
  got=$(ask --output "$work/body" --write-out '%{http_code}' "$@") || fail "$*: curl failed"
  [[ $got == "$want" ]] || fail "$*: status $got, want $want"
  grep -qF -- "$text" "$work/body" || fail "$*: no \"$text\" in: $(head -c 400 "$work/body")"
}

start() {
  make --silent build
  need curl curl
  cp -r config/samples "$work/samples"
  for i in 0 1 2 3; do
    sed -i "s/port: $((9201 + i))\$/port: $((demo_port + i))/" "$work/samples/services.yaml"
  done
  export XDG_STATE_HOME=$work/state
  ca=$XDG_STATE_HOME/portico/acme/ca/local.crt
  bin/portico-demo "$demo_port" >"$work/demo.log" 2>&1 &
  demo=$!
  pids=("$demo")
  PORTICO_HTTP_ADDR=:$http_port PORTICO_HTTPS_ADDR=:$https_port \
    PORTICO_ADMIN_ADDR=127.0.0.1:$admin_port PORTICO_DEBUG_ADDR=127.0.0.1:$debug_port \
    bin/portico serve -f "$work/samples" >"$work/portico.log" 2>&1 &
  portico=$!
  pids+=("$portico")
  eventually "readiness" curl --silent --fail "http://127.0.0.1:$admin_port/readyz"
  eventually "demo backends" curl --silent --fail "http://127.0.0.1:$live_port/"
  for pid in "${pids[@]}"; do
    kill -0 "$pid" 2>/dev/null || fail "a process ended early: $(cat "$work/demo.log")"
  done
  ok "ready"
}

startup() {
  eventually "the URL to open is printed" grep -qF "$base" "$work/portico.log"
  eventually "the path of the CA of localhost is printed" grep -qF "$ca" "$work/portico.log"
  [[ $(stat -c %a "${ca%.crt}.pem") == 600 ]] || fail "others may read the key of the CA of localhost"
  [[ -z $(find "$work/samples" -newer "$ca" -type f) ]] || fail "something was written into the manifest folder"
  ok "the user is told what to open"
}

pages() {
  answers 200 "The Portico Shop" "$base/"
  answers 200 "https</td>" --header "X-Forwarded-Proto: http" "$base/" # a stranger's word does not count
  answers 200 '"backend": "api-' "$base/api/orders?a=%2f"
  answers 200 '"uri": "/api/orders?a=%2f"' "$base/api/orders?a=%2f"
  answers 200 "The Portico Shop" "$base/apis" # Prefix goes by path elements
  answers 200 '"body": "hello"' --data hello "$base/api/orders"
  local version
  version=$(ask --output /dev/null --write-out '%{http_version}' "$base/")
  [[ $version == 2 ]] || fail "HTTP/$version instead of HTTP/2"
  ok "pages, over HTTP/2"

  for _ in 1 2 3 4; do ask "$base/api/"; done | grep -o '"api-[12]"' | sort -u | wc -l | grep -qx 2 ||
    fail "not both replicas answer"
  ok "both replicas answer"
}

redirect() {
  local got
  got=$(ask --output /dev/null --write-out '%{http_code} %{redirect_url}' "http://shop.localhost:$http_port/api?x=1")
  [[ $got == "308 $base/api?x=1" ]] || fail "redirect: $got"
  ok "http redirects to https"
}

wildcard() {
  answers 200 '"host": "a.apps.localhost:' "https://a.apps.localhost:$https_port/echo"
  answers 200 '"backend": "api-' "https://a.apps.localhost:$https_port/status"
  answers 200 "The Portico Shop" "https://a.apps.localhost:$https_port/status/x"
  answers 200 '"backend": "api-' "http://b.apps.localhost:$http_port/echo"
  ok "a wildcard host, with and without TLS"
  answers 404 "" "http://a.b.apps.localhost:$http_port/echo"
  answers 404 "" "http://nowhere.localhost:$http_port/"
  if ask --output /dev/null https://nowhere.localhost:"$https_port"/ 2>/dev/null; then
    fail "a host without certificate is trusted"
  fi
  ok "hosts that nobody serves"
}

# streaming asks for something that never ends, waits until each text has
# arrived, and leaves.
streaming() {
  local what=$1 curl
  shift
  local texts=()
  while [[ $1 != -- ]]; do texts+=("$1") && shift; done
  shift
  rm -f "$work/stream"
  ask --no-buffer --include --output "$work/stream" "$@" 2>/dev/null &
  curl=$!
  for text in "${texts[@]}"; do eventually "$what: $text" grep -aqF -- "$text" "$work/stream"; done
  kill "$curl"
  wait "$curl" || true
  ok "$what"
}

streams() {
  streaming "server-sent events" "text/event-stream" "data: " " from live-1" -- "$base/live/events"
  streaming "WebSocket" "101 Switching Protocols" "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" " from live-1" -- --http1.1 \
    --header "Connection: Upgrade" --header "Upgrade: websocket" --header "Sec-WebSocket-Version: 13" \
    --header "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==" "$base/live/clock"
}

# replace writes a file as editors do.
replace() {
  cat >"$1.new"
  mv "$1.new" "$1"
}

says() { grep -qF -- "$1" "$work/portico.log"; }
status_is() { [[ $(ask --output /dev/null --write-out '%{http_code}' "$2") == "$1" ]]; }
goes_to() { ask "$2" | grep -qF -- "$1"; }

edits() {
  local shop=$work/samples/shop.yaml line
  sed 's|path: /api|path: /orders|' "$shop" | replace "$shop"
  took_effect "an edit is served" goes_to '"backend": "api-' "$base/orders"
  answers 200 "The Portico Shop" "$base/api"

  cp "$shop" "$work/good.yaml"
  line=$(grep -n 'pathType: Prefix' "$shop" | head -n 1 | cut -d: -f1)
  sed "${line}s|pathType|pathtype|" "$shop" | replace "$shop"
  took_effect "a broken edit is reported" says \
    "shop.yaml:$line: Ingress default/shop: spec.rules[0].http.paths[0].pathtype: unknown field; did you mean pathType?"
  eventually "the user is told what is served" says "the last good table keeps being served"
  answers 200 '"backend": "api-' "$base/orders"
  curl --silent --fail "http://127.0.0.1:$debug_port/problems" | grep -qF "shop.yaml:$line" || fail "the fault is not on /problems"
  ok "the last good table is still served"

  sed 's|path: /orders|path: /api|' "$work/good.yaml" | replace "$shop"
  took_effect "the mended manifest is served" goes_to '"backend": "api-' "$base/api/orders"
  eventually "the user is told that it is mended" says "mended"

  replace "$work/samples/more.yaml" <<YAML
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: more}
spec:
  tls: [{hosts: [more.localhost], secretName: more-tls}]
  defaultBackend: {service: {name: shop, port: {number: 80}}}
  rules: [{host: more.localhost}]
YAML
  took_effect "a new file is served, with a certificate" status_is 200 "https://more.localhost:$https_port/"
  rm "$work/samples/more.yaml"
  took_effect "a removed file is served no more" status_is 404 "http://more.localhost:$http_port/"
}

admin() {
  curl --silent --fail "http://127.0.0.1:$admin_port/metrics" >"$work/metrics"
  grep -qE '^portico_requests_total\{code="2xx",ingress="default/shop",service="default/api"\} [1-9]' "$work/metrics" ||
    fail "requests are not counted"
  grep -q '^portico_certificate_expiry_timestamp_seconds{host="shop.localhost"}' "$work/metrics" || fail "no certificate expiry"
  curl --silent --fail "http://127.0.0.1:$debug_port/table" | grep -q 'host shop.localhost' || fail "no table"
  grep -m 1 '"ingress":"default/shop"' "$work/portico.log" >/dev/null || fail "no access log"
  ok "metrics, table and access log"
}

# browse prints the page that a browser shows. Its home has the NSS database
# that says whom the user trusts.
browse() {
  local profile
  profile=$(mktemp -d "$work/profile.XXXX")
  HOME=$1 timeout 60 chromium --headless --no-sandbox --disable-gpu --disable-quic --no-first-run \
    --disable-background-networking --disable-component-update --disable-sync --disable-dev-shm-usage \
    --user-data-dir="$profile" --dump-dom "$2" 2>>"$work/browser.log"
}

# new_home makes a home folder with an empty NSS database.
new_home() {
  mkdir -p "$1/.pki/nssdb"
  certutil -N -d "sql:$1/.pki/nssdb" --empty-password
}

browser() {
  need chromium chromium
  need certutil libnss3-tools
  new_home "$work/trusting"
  certutil -A -d "sql:$work/trusting/.pki/nssdb" -t C,, -n "Portico CA local" -i "$ca"
  browse "$work/trusting" "$base/" >"$work/page" || fail "the browser failed: $(tail -n 5 "$work/browser.log")"
  for text in "The Portico Shop" "shop-1" "GET shop.localhost:$https_port/" "X-Forwarded-Proto"; do
    grep -qF -- "$text" "$work/page" || fail "the browser's page lacks \"$text\": $(head -c 400 "$work/page")"
  done
  ok "a browser that trusts the CA of localhost shows the page"

  new_home "$work/doubting"
  browse "$work/doubting" "$base/" >"$work/page" || true
  if grep -qF "The Portico Shop" "$work/page"; then
    fail "a browser that does not trust the CA of localhost shows the page"
  fi
  grep -qE 'ERR_CERT_AUTHORITY_INVALID|net_error -202' "$work/page" "$work/browser.log" ||
    fail "the browser failed for another reason: $(tail -n 5 "$work/browser.log")"
  ok "a browser that does not trust it refuses"
}

start
startup
pages
redirect
wildcard
streams
edits
admin
[[ ${BROWSER:-chromium} == none ]] || browser

kill -TERM "$portico"
pids=("$demo")
wait "$portico" || fail "portico ended with status $?"
ok "portico ends when it is told to"
