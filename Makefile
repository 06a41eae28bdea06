# Everything needs only Go, git and make; tools come from the Go module proxy.
SHELL := /usr/bin/env bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
COMMIT  := $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
PROGRAM := github.com/portico-ingress/portico/cmd/internal/program
LDFLAGS := -s -w -X $(PROGRAM).version=$(VERSION) -X $(PROGRAM).commit=$(COMMIT)
# The race detector needs cgo, which needs a C compiler.
RACE    := $(if $(shell command -v $${CC:-cc} 2>/dev/null),-race)

help: ## show this list
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## /{printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build bin/portico, bin/portico-node and bin/portico-demo
	CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)' -o bin/ ./cmd/...

run: build ## serve config/samples on ports 8080 and 8443 without a cluster, with demo backends
	@bin/portico-demo & demo=$$!; bin/portico serve -f config/samples & serve=$$!; \
	trap 'kill $$demo $$serve 2>/dev/null || true; wait' EXIT; trap 'exit 0' INT TERM; wait -n $$demo $$serve

quickstart: ## drive what make run starts with curl and a browser
	@test/quickstart/run.sh

test: ## run every test, with the race detector, against a real etcd and kube-apiserver
	@[[ -n "$(RACE)" ]] || echo "make test: no C compiler found, so without the race detector (apt-get install gcc libc6-dev)" >&2
	@assets=$$(test/tools/assets.sh kube); export KUBEBUILDER_ASSETS="$$assets"; \
	helm=$$(test/tools/assets.sh helm); export PORTICO_HELM="$$helm"; \
	pebble=$$(test/tools/assets.sh pebble); export PORTICO_PEBBLE="$$pebble"; \
	judges=$$(test/tools/assets.sh conformance); export PORTICO_CONFORMANCE="$$judges"; \
	$(GO) test $(RACE) -timeout 15m ./... && \
	if [[ -n "$(RACE)" ]]; then $(GO) test ./router/tcp ./router/listen ./router/proxy ./router/upstream; fi # once more as users have it: router/tcp is plainer under the race detector

test-root: ## the tests that send packets through network namespaces (root)
	@((EUID == 0)) || { echo "make test-root: needs root: it makes network namespaces" >&2; exit 1; }
	@for p in nft conntrack ip; do command -v $$p >/dev/null || { echo "make test-root: $$p is missing (apt-get install nftables conntrack iproute2)" >&2; exit 1; }; done
	@assets=$$(test/tools/assets.sh kube); export KUBEBUILDER_ASSETS="$$assets"; \
	$(GO) test $(RACE) -tags root -count=1 -p 1 -parallel 4 -timeout 20m ./router/l4/... ./cmd/portico-node

differential: ## thousands of random clusters past the real kube-proxy and portico-node (root, hours); CASES=3000 SEED=1
	@((EUID == 0)) || { echo "make differential: needs root: it makes network namespaces" >&2; exit 1; }
	@assets=$$(test/tools/assets.sh kube); export KUBEBUILDER_ASSETS="$$assets"; \
	PORTICO_DIFFERENTIAL_CASES=$${CASES:-3000} PORTICO_DIFFERENTIAL_SEED=$${SEED:-$$(date +%s)} \
	$(GO) test -v -tags root -count=1 -parallel 2 -timeout 6h -run TestKubeProxyAgreesAtRandom ./cmd/portico-node

acme: ## certificates with the real program, a real ACME server and BIND: killed at each step of an order, many at once
	@assets=$$(test/tools/assets.sh kube); export KUBEBUILDER_ASSETS="$$assets"; \
	pebble=$$(test/tools/assets.sh pebble); export PORTICO_PEBBLE="$$pebble"; \
	export PATH="$$PATH:/usr/sbin:/sbin"; command -v named >/dev/null || { echo "make acme: named is missing (apt-get install bind9)" >&2; exit 1; }; \
	GORACE=halt_on_error=1 PORTICO_ACME_BUILD="$(RACE)" $(GO) test -tags acme -count=1 -parallel 7 -timeout 30m $(ACME_FLAGS) ./test/acme

bench-node: ## measure what a node's forwarding costs to program and to use, beside the real kube-proxy (root)
	@((EUID == 0)) || { echo "make bench-node: needs root: it makes network namespaces" >&2; exit 1; }
	@assets=$$(test/tools/assets.sh kube); export KUBEBUILDER_ASSETS="$$assets"; \
	bench() { $(GO) test -tags root -run '^$$' -timeout 60m -bench "$$1" -benchtime "$$2" "$$3"; }; \
	bench Change 2000x ./router/l4/nft; bench Replace 3x ./router/l4/nft; bench Connect 60x ./router/l4/nft; bench Node 200x ./cmd/portico-node

verify: ## check format, vet, staticcheck, layering, go.mod and generated files
	@test/tools/verify.sh

generate: ## write the generated files: config/rbac/role.yaml and config/install/portico.yaml
	@dev=$$(test/tools/assets.sh dev); \
	"$$dev/controller-gen" rbac:roleName=portico paths=./controllers/... output:rbac:dir=config/rbac
	@helm=$$(test/tools/assets.sh helm); \
	test/tools/install.sh "$$helm/helm" > config/install/portico.yaml

judges: ## the program judged by slowhttptest, testssl.sh, h2spec and, twenty times, gRPC's interoperability tests (minutes)
	@for p in slowhttptest testssl; do command -v $$p >/dev/null || { echo "make judges: $$p is missing (apt-get install slowhttptest testssl.sh)" >&2; exit 1; }; done
	@judges=$$(test/tools/assets.sh conformance); export PORTICO_CONFORMANCE="$$judges"; \
	$(GO) test -tags judges -count=1 -timeout 60m ./test/conformance -grpc.rounds=20

bench: ## CPU per request against nginx, haproxy and net/http, one core (root, minutes); PEERS="caddy traefik nginx-lua" ARGS="-rounds 5"
	@PEERS='$(PEERS)' test/bench/run.sh $(ARGS)

soak: ## ten minutes of everything at once, and a look at what Portico has left behind (root); LENGTH=10m
	@test/bench/run.sh -soak $(or $(LENGTH),10m)

microbench: ## run the benchmarks: the data path, and 10, 1,000 and 10,000 Ingresses
	$(GO) test -run '^$$' -bench . -benchmem ./router/... ./controllers/... ./tls/... ./test/bench

scale: ## measure 10,000 Ingresses against a real kube-apiserver (minutes)
	@assets=$$(test/tools/assets.sh kube); export KUBEBUILDER_ASSETS="$$assets"; \
	$(GO) test -timeout 60m -run '^$$' -bench '^BenchmarkScale$$' -benchtime 200x ./test/envtest

tools: ## build the tools of tests and checks into the cache (about 8 minutes the first time)
	@test/tools/assets.sh kube; test/tools/assets.sh dev

full: ## everything that is run before an issue is resolved (hours)
	$(MAKE) verify test test-root judges quickstart microbench bench soak bench-node differential scale e2e-full e2e-services
	PORTICO_ACME_NAMES=20 PORTICO_ACME_INGRESSES=50 PORTICO_ACME_LIFETIME=120 $(MAKE) acme ACME_FLAGS=-v

images: ## build the container images as OCI archives in bin/images, without a container engine
	$(GO) run ./test/image/build -version '$(VERSION)' -commit '$(COMMIT)'

clean: ## remove bin/; the cache of built tools stays
	rm -rf bin

cluster-up: ## start a two-node cluster on this computer (root); PROXY=ours has portico-node in place of kube-proxy, none neither
	@$(GO) build -o bin/cluster ./test/cluster/cmd/cluster
	@bin/cluster up $(if $(STATE),--state $(STATE)) $(if $(PROXY),--proxy $(PROXY))

cluster-shell: ## a shell with kubectl and helm for that cluster; ON=node1 is one in its first node
	@$(GO) build -o bin/cluster ./test/cluster/cmd/cluster
	@PATH="$$(test/tools/assets.sh helm):$$PATH" bin/cluster shell $(if $(STATE),--state $(STATE)) $(ON)

cluster-down: ## end that cluster, also after a crash, and leave nothing behind
	@$(GO) build -o bin/cluster ./test/cluster/cmd/cluster
	@bin/cluster down $(if $(STATE),--state $(STATE))

E2E_TIMEOUT ?= 40m
e2e: ## run the tests that need a real cluster, one after another, with short loops (root)
	@helm=$$(test/tools/assets.sh helm); export PORTICO_HELM="$$helm"; \
	pebble=$$(test/tools/assets.sh pebble); export PORTICO_PEBBLE="$$pebble"; \
	$(GO) test -tags e2e -count=1 -p 1 -timeout $(E2E_TIMEOUT) $(E2E_FLAGS) ./test/cluster/... ./test/e2e/...

e2e-full: ## the same with cert-manager, ten rollouts, fifty failovers, two minutes without an apiserver
	@certmanager=$$(test/tools/assets.sh certmanager); export PORTICO_E2E_CERTMANAGER="$$certmanager"; \
	PORTICO_E2E_ROUNDS=10 PORTICO_E2E_FAILOVERS=50 PORTICO_E2E_OUTAGE=120 $(MAKE) e2e E2E_TIMEOUT=150m E2E_FLAGS=-v

e2e-services: ## Kubernetes' own tests of Services, with portico-node; PROXY=kube-proxy has kube-proxy instead (root, half an hour)
	@tests=$$(test/tools/assets.sh e2e); $(GO) build -o bin/e2e-services ./test/e2e/services; \
	bin/e2e-services -tests "$$tests" $(if $(PROXY),-proxy $(PROXY)) $(SERVICES_FLAGS)

.PHONY: cluster-up cluster-shell cluster-down e2e e2e-full e2e-services

.PHONY: help build run quickstart test test-root differential acme bench-node verify generate bench judges soak microbench scale tools full images clean
