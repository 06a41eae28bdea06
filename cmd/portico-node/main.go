//go:build linux

// Command portico-node does on a node of a Kubernetes cluster what kube-proxy
// does: it has the kernel forward connections to Services.
package main

import (
	"github.com/spf13/cobra"

	"github.com/portico-ingress/portico/cmd/internal/program"
)

func main() { program.Main(newRoot) }

func newRoot() *cobra.Command {
	f := &cleanupFlags{}
	root := &cobra.Command{
		Use:   "portico-node",
		Short: "Forward connections to Services on a node, in place of kube-proxy",
		Long: `Portico-node follows the Services and EndpointSlices of a cluster and has the
kernel of its node forward connections to them, through nftables. It does what
kube-proxy does, and what it programmed stays when it ends.

  portico-node run      follow an apiserver and program this node
  portico-node check    what the kernel offers, how it is set, what others left
  portico-node show     what is programmed, for a Service or for all
  portico-node trace    what becomes of a packet

portico-node --cleanup removes what it programmed, and says what breaks.

Every flag can be given by an environment variable: PORTICO_ and the flag's
name in capitals, "-" as "_". A flag goes before its variable; lists are
separated by commas.`,
		Args: program.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !f.cleanup {
				return cmd.Help()
			}
			return f.run(cmd.Context(), cmd.OutOrStdout())
		},
	}
	f.register(root.Flags())
	root.AddCommand(newRun(), newCheck(), newShow(), newTrace(), program.NewVersion())
	return root
}
