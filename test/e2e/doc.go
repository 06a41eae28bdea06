// Package e2e installs Portico with its chart into a real two-node cluster and
// uses it as its users do: kubectl, curl, a browser, and a load that counts
// every request that is lost. `make e2e` runs it; it needs root.
package e2e
