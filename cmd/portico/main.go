// Command portico is a Kubernetes ingress controller: it serves what Ingress
// objects ask for, from a cluster or from a folder of manifests, and explains
// why a request goes where it goes.
package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/portico-ingress/portico/cmd/internal/program"
)

// exitNotRouted is how explain exits where a request is not routed to a ready
// endpoint.
const exitNotRouted = 1

func main() { program.Main(newRoot) }

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "portico",
		Short: "A Kubernetes ingress controller that says why",
		Long: `Portico serves what Ingress objects ask for: it terminates TLS and forwards
to ready endpoints, without ever reloading.

  portico serve         from a folder of manifests, without a cluster
  portico controller    from a Kubernetes cluster
  portico explain       why a request goes where it goes
  portico cert          which certificates are served, and how new ones get on
  portico convert       old manifests in their current form
  portico prove         that a rolling update loses no request, in your cluster
  portico clear-status  take back what a removed Portico wrote into Ingresses

Every flag can be given by an environment variable: PORTICO_ and the flag's
name in capitals, "-" as "_". A flag goes before its variable; lists are
separated by commas.`,
	}
	root.AddCommand(newServe(), newController(), newExplain(), newCert(), newConvert(), newProve(), newClearStatus(), program.NewVersion())
	return root
}

// noArgs refuses arguments where files are named by a flag.
func noArgs(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("unexpected argument %q: name files and folders with -f", args[0])
	}
	return nil
}
