// Traefik, a peer of the benchmarks: make bench PEERS=traefik. Its own go.mod and
// go.sum pin what it is made of.
module github.com/portico-ingress/portico/test/tools/traefik

go 1.26.0

require github.com/traefik/traefik/v3 v3.6.12
