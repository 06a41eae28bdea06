#!/usr/bin/env bash
# Builds the programs that tests and checks need, once, outside the tree, and
# prints the directory they are in. Everything comes from the Go module proxy.
#
#   assets.sh kube      etcd, kube-apiserver, kubectl: KUBEBUILDER_ASSETS; and
#                       what else a whole cluster needs, see kube/main.go
#   assets.sh coredns   coredns
#   assets.sh helm      helm
#   assets.sh pebble    pebble, pebble-challtestsrv
#   assets.sh certmanager  certmanager, and crds.yaml; see certmanager/main.go
#   assets.sh caddy     caddy, a peer of the benchmarks
#   assets.sh traefik   traefik, likewise
#   assets.sh conformance  h2spec; gRPC's interop client and server
#   assets.sh e2e       e2e.test, ginkgo; agnhost with its VERSION and certificate
#   assets.sh dev       controller-gen, staticcheck
#
# The first build of kube takes minutes (about 8 on two cores); it is kept in
# ${PORTICO_CACHE:-${XDG_CACHE_HOME:-~/.cache}/portico} under a hash of its
# sources, so it is built again only when a pinned version changes.
# KUBEBUILDER_ASSETS, if set, is printed instead of building kube.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
set_name=${1:-}

say() { echo "assets: $*" >&2; }

# build runs go build with the given arguments and says every few seconds how
# far it is; what the compiler says is shown if it fails. Programs go to
# staging; with --discard what is compiled is only in Go's cache afterwards,
# also packages that are no programs.
build() {
	local log=$1 total started=$SECONDS shown=0 pid
	local output=(-o "$staging/")
	shift
	[[ $1 != --discard ]] || { output=(); shift; }
	total=$(go list -deps "$@" | wc -l)
	go build -v -trimpath -buildvcs=false -ldflags "$ldflags" "${output[@]}" "$@" >"$log" 2>&1 &
	pid=$!
	while kill -0 "$pid" 2>/dev/null; do
		sleep 1
		if ((SECONDS - started >= shown + 5)); then
			shown=$((SECONDS - started))
			say "$set_name: ${shown} s, $(wc -l <"$log") of at most $((total)) packages compiled"
		fi
	done
	wait "$pid" || {
		cat "$log" >&2
		say "$set_name: the build failed; see above"
		return 1
	}
	say "$set_name: built in $((SECONDS - started)) s"
}

# say_version has the programs of Kubernetes know their version.
say_version() {
	local version pkg=k8s.io/component-base/version
	version=$(go list -m -f '{{.Version}}' k8s.io/kubernetes)
	ldflags="-s -w -X $pkg.gitVersion=$version -X $pkg.gitMajor=1 -X $pkg.gitMinor=$(cut -d. -f2 <<<"$version")"
	ldflags+=" -X $pkg.gitTreeState=clean -X $pkg.buildDate=1970-01-01T00:00:00Z"
}

build_kube() {
	say_version
	build "$staging/log" .
	local program
	for program in etcd kube-apiserver kube-controller-manager kube-proxy kube-scheduler kubectl kubelet; do
		ln -s kube "$staging/$program"
	done
}

build_coredns() {
	ldflags='-s -w'
	build "$staging/log" .
}

build_helm() {
	local version
	version=$(go list -m -f '{{.Version}}' helm.sh/helm/v4)
	ldflags="-s -w -X helm.sh/helm/v4/internal/version.version=$version"
	build "$staging/log" tool
}

build_pebble() {
	ldflags='-s -w'
	build "$staging/log" tool
}

build_certmanager() {
	ldflags='-s -w'
	build "$staging/log" .
	awk 'FNR == 1 { print "---" } 1' "$(go list -m -f '{{.Dir}}' github.com/cert-manager/cert-manager)"/deploy/crds/*.yaml >"$staging/crds.yaml"
}

build_caddy() {
	ldflags='-s -w'
	build "$staging/log" tool
}

# Traefik replaces modules of others: it is built as the main module, where it lies.
build_traefik() {
	local module=github.com/traefik/traefik/v3 version dir
	go mod download "$module"
	version=$(go list -m -f '{{.Version}}' "$module")
	dir=$(go list -m -f '{{.Dir}}' "$module")
	ldflags="-s -w -X $module/pkg/version.Version=$version"
	cd "$dir"
	build "$staging/log" ./cmd/traefik
}

build_conformance() {
	ldflags='-s -w'
	build "$staging/log" tool
}

build_e2e() {
	local tests=k8s.io/kubernetes/test/e2e agnhost
	say_version
	build "$staging/log" tool
	# go test says nothing of its progress: what the tests import is compiled before.
	build "$staging/log" --discard "$tests" $(go list -f '{{join .TestImports " "}}' "$tests")
	say "e2e: linking e2e.test"
	go test -c -vet=off -trimpath -buildvcs=false -ldflags "$ldflags" -o "$staging/e2e.test" "$tests"
	agnhost=$(go list -f '{{.Dir}}' k8s.io/kubernetes/test/images/agnhost)
	install -m 644 "$agnhost/VERSION" "$agnhost/porter/localhost.crt" "$agnhost/porter/localhost.key" "$staging"
}

build_dev() {
	ldflags='-s -w'
	build "$staging/log" tool
}

case $set_name in
kube)
	if [[ -n ${KUBEBUILDER_ASSETS:-} ]]; then
		echo "$KUBEBUILDER_ASSETS"
		exit
	fi
	;;
coredns | caddy | traefik | helm | dev | pebble | certmanager | conformance | e2e) ;;
*)
	say "usage: assets.sh kube|coredns|caddy|traefik|helm|dev|pebble|certmanager|conformance|e2e"
	exit 2
	;;
esac

cd "$here/$set_name"
export CGO_ENABLED=0 GOWORK=off GOFLAGS=
sources=(go.mod go.sum)
[[ ! -f main.go ]] || sources+=(main.go)
hash=$(cat "${sources[@]}" | git hash-object --stdin)
cache=${PORTICO_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/portico}
dir=$cache/tools-$set_name-${hash:0:16}

if [[ ! -d $dir ]]; then
	mkdir -p "$cache"
	staging=$(mktemp -d "$cache/.building-XXXXXX")
	trap 'rm -rf "$staging"' EXIT
	say "$set_name: building into $dir (once; then kept)"
	"build_$set_name"
	rm "$staging/log"
	chmod 755 "$staging"
	# Two builds at once: the first to finish is kept, they are equal.
	mv -T "$staging" "$dir" 2>/dev/null || mv "$staging" "$dir" 2>/dev/null || [[ -d $dir ]]
fi
echo "$dir"
