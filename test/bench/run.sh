#!/usr/bin/env bash
# Measures Portico against its peers: see test/bench/peers. Installs what is
# missing from Debian, as root.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

missing=()
for program in nginx:nginx-light haproxy:haproxy wrk:wrk h2load:nghttp2-client taskset:util-linux; do
	PATH=$PATH:/usr/sbin command -v "${program%%:*}" >/dev/null || missing+=("${program##*:}")
done
lua=/usr/lib/nginx/modules/ngx_http_lua_module.so
[[ " ${PEERS:-} " != *" nginx-lua "* || -e $lua ]] || missing+=(libnginx-mod-http-lua)
if ((${#missing[@]})); then
	echo "bench: installing ${missing[*]}" >&2
	apt-get update -qq
	# Debian starts what it installs: the policy keeps it from that.
	trap 'rm -f /usr/sbin/policy-rc.d' EXIT
	printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
	chmod +x /usr/sbin/policy-rc.d
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2
	rm -f /usr/sbin/policy-rc.d
fi
export PATH=$PATH:/usr/sbin
peers=nginx,haproxy,reverseproxy
for more in ${PEERS:-}; do
	peers+=,$more
	[[ $more != nginx-lua ]] || continue
	dir=$(test/tools/assets.sh "${more%-fast}")
	PATH=$dir:$PATH
done
(($(nproc) > 1)) || { echo "bench: needs two cores, one of them for the proxy" >&2; exit 1; }
CGO_ENABLED=0 go build -trimpath -o bin/ ./cmd/portico ./test/bench/peers
exec bin/peers -peers "$peers,portico" "$@"
