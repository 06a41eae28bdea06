//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/pflag"

	"github.com/portico-ingress/portico/controllers/node"
	"github.com/portico-ingress/portico/router/l4/conntrack"
	"github.com/portico-ingress/portico/router/l4/nft"
)

// cleanupFlags are those of portico-node itself.
type cleanupFlags struct {
	cleanup, dryRun bool
}

func (f *cleanupFlags) register(fs *pflag.FlagSet) {
	fs.BoolVar(&f.cleanup, "cleanup", false, "remove what portico-node programmed on this node, after saying what breaks, and exit")
	fs.BoolVar(&f.dryRun, "dry-run", false, "with --cleanup: only say what would break")
}

func (f *cleanupFlags) run(ctx context.Context, w io.Writer) error {
	k, err := nft.Open(nft.Options{NoIPv6: nft.Probe(ctx, nft.Options{NoIPv4: true}) != nil})
	if err != nil {
		return err
	}
	return errors.Join(f.remove(ctx, k, w), k.Close())
}

func (f *cleanupFlags) remove(ctx context.Context, k *nft.Kernel, w io.Writer) error {
	present, err := k.Present()
	if err != nil {
		return err
	}
	if !present {
		fmt.Fprintln(w, "portico-node has programmed nothing here")
		return nil
	}
	if !f.dryRun {
		release, err := claim()
		if errors.Is(err, errNotAlone) {
			return errors.New("a portico-node runs here: it would program everything again within a second; remove it first (helm uninstall)")
		}
		if err != nil {
			return err
		}
		defer func() { _ = release() }() // the end of the process would do
	}
	fmt.Fprintf(w, `The tables "ip portico-node" and "ip6 portico-node" go. This breaks:
 - connections and flows to Services through this node, and from its pods, that are open: %s
 - new connections to ClusterIPs, NodePorts, external and load balancer addresses,
   the cluster's DNS among them, unless another proxy programs them here
Clients that kept their endpoint (sessionAffinity) may get another.
`, translated())
	if f.dryRun {
		fmt.Fprintln(w, "Nothing was removed.")
		return nil
	}
	if err := k.Delete(ctx); err != nil {
		return err
	}
	fmt.Fprintln(w, "Removed.")
	return nil
}

// translated says how many connections may break.
func translated() string {
	t, err := conntrack.Open(node.InterfaceAddresses)
	if err != nil {
		return fmt.Sprintf("an unknown number (%v)", err)
	}
	n, err := t.Translated()
	if err := errors.Join(err, t.Close()); err != nil {
		return fmt.Sprintf("an unknown number (%v)", err)
	}
	return fmt.Sprintf("%d, unless another proxy made them", n)
}
