package main

import (
	"fmt"

	"github.com/portico-ingress/portico/cmd/internal/program"
)

// loadKube reads a kubeconfig, or what a pod finds in its place.
func loadKube(path string) (*program.Kube, error) {
	kube, err := program.LoadKube(path, "portico")
	if err != nil {
		return nil, fmt.Errorf("%w; give --kubeconfig, or use manifests in a folder (portico serve -f, portico explain -f)", err)
	}
	return kube, nil
}
