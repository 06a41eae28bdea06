package main

import (
	"fmt"

	"github.com/portico-ingress/portico/cmd/internal/program"
)

// loadKube reads a kubeconfig, or what a pod finds in its place.
func loadKube(path string) (*program.Kube, error) {
	kube, err := program.LoadKube(path, "portico")
	if err != nil {
		return nil, fmt.Errorf("%w; give --kubeconfig; portico serve -f and portico explain -f need no cluster", err)
	}
	return kube, nil
}
