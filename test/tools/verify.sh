#!/usr/bin/env bash
# Checks what no test runs: format, vet, staticcheck, layering, go.mod, and
# that generated files are what their sources generate. Names every fault
# before it fails.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
faults=0

# check NAME WAY-OUT COMMAND...: counts a fault if the command fails.
check() {
	local name=$1 remedy=$2 started=$SECONDS out
	shift 2
	if out=$("$@" 2>&1); then
		echo "ok    $name ($((SECONDS - started)) s)"
		return
	fi
	faults=$((faults + 1))
	printf 'FAIL  %s: %s\n%s\n' "$name" "$remedy" "$out"
}

go_files() { git ls-files -z --cached --others --exclude-standard '*.go'; }
format() {
	local unformatted
	unformatted=$(go_files | xargs -0r gofmt -s -l) && [[ -z $unformatted ]] || { echo "$unformatted"; return 1; }
}
generated() {
	local fresh
	fresh=$(mktemp -d)
	trap 'rm -rf "$fresh"' RETURN
	"$dev/controller-gen" rbac:roleName=portico paths=./controllers/... "output:rbac:dir=$fresh" &&
		diff -u config/rbac/role.yaml "$fresh/role.yaml" &&
		test/tools/install.sh "$helm/helm" >"$fresh/portico.yaml" &&
		diff -u config/install/portico.yaml "$fresh/portico.yaml"
}
scripts() { git ls-files -z '*.sh' '.ci/run' | xargs -0rn1 bash -n; }

dev=$(test/tools/assets.sh dev) || exit 1
helm=$(test/tools/assets.sh helm) || exit 1

check "gofmt" "run gofmt -s -w on these files" format
check "go vet" "see below" go vet -tags acme,e2e,judges,root ./...
check "staticcheck" "see below" "$dev/staticcheck" -tags acme,e2e,judges,root ./...
check "layering" "move the import, or argue the floor plan in test/arch" go test -count=1 ./test/arch
check "go.mod" "run go mod tidy" go mod tidy -diff
check "generated files" "run make generate" generated
check "scripts" "see below" scripts

((faults == 0)) || { echo "verify: $faults checks failed"; exit 1; }
