//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/portico-ingress/portico/cmd/internal/program"
	"github.com/portico-ingress/portico/controllers/node"
	"github.com/portico-ingress/portico/router/l4/conntrack"
	"github.com/portico-ingress/portico/router/l4/nft"
	"github.com/portico-ingress/portico/router/l4/preflight"
)

// checkFlags are those of check.
type checkFlags struct {
	kube      kubeFlags
	conntrack conntrackFlags
}

func newCheck() *cobra.Command {
	f := &checkFlags{}
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Say what this node offers, how it is set, and what other proxies left",
		Long: `Check looks at the node that it runs on: whether the kernel takes what
portico-node programs, whether its settings are as they should be, what other
proxies programmed, and whether the apiserver is reached, if it is told which. It
changes nothing: what it has the kernel examine is made and deleted in one
transaction.

Exit code: 0 if portico-node can run here, 1 if something is missing for that.`,
		Args: program.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd.Context(), cmd.OutOrStdout()) },
	}
	f.kube.register(cmd.Flags())
	f.conntrack.register(cmd.Flags())
	return cmd
}

func (f *checkFlags) run(ctx context.Context, w io.Writer) error {
	if err := f.conntrack.validate(); err != nil {
		return program.UsageError(err)
	}
	h := f.conntrack.host()
	findings := h.Kernel()
	findings = append(findings, probe(ctx, h)...)
	findings = append(findings, h.Check(h.Routing())...)
	findings = append(findings, h.Check(f.conntrack.settings())...)
	findings = append(findings, h.Leftovers()...)
	if f.kube != (kubeFlags{}) {
		findings = append(findings, f.apiserver())
	}
	defects := 0
	for _, x := range findings {
		fmt.Fprintf(w, "%-5s  %s: %s\n", x.Grade, x.Subject, x.Message)
		if x.Remedy != "" {
			fmt.Fprintf(w, "       → %s\n", x.Remedy)
		}
		if x.Grade == preflight.Defect {
			defects++
		}
	}
	if defects > 0 {
		return fmt.Errorf("what portico-node needs is missing here: %d faults, see above", defects)
	}
	return nil
}

// probe has the kernel examine what would be programmed.
func probe(ctx context.Context, h preflight.Host) []preflight.Finding {
	var out []preflight.Finding
	for _, family := range []struct {
		name  string
		only  nft.Options
		grade preflight.Grade // of a kernel that does not take it
	}{{"IPv4", nft.Options{NoIPv6: true}, preflight.Defect}, {"IPv6", nft.Options{NoIPv4: true}, preflight.Note}} {
		f := preflight.Finding{Subject: "nftables, " + family.name, Message: "the kernel takes what is programmed"}
		if err := nft.Probe(ctx, family.only); err != nil {
			f.Grade, f.Message = family.grade, fmt.Sprintf("the kernel does not take what is programmed: %v", err)
			f.Remedy = "needs the modules nf_tables, nft_nat, nft_chain_nat, nft_fib, nft_numgen, nft_masq, nft_reject"
		} else if family.name == "IPv6" && !h.IPv6() {
			f.Message += ", but has no IPv6"
		}
		out = append(out, f)
	}
	return append(out, flows())
}

// flows looks whether the table of connections can be read.
func flows() preflight.Finding {
	f := preflight.Finding{Subject: "conntrack"}
	t, err := conntrack.Open(node.InterfaceAddresses)
	if err == nil {
		var n int
		n, err = t.Translated()
		f.Message = fmt.Sprintf("%d translated connections", n)
		err = errors.Join(err, t.Close())
	}
	if err != nil {
		f.Grade, f.Message = preflight.Note, fmt.Sprintf("UDP flows to endpoints that are gone cannot be forgotten: %v", err)
		f.Remedy = "needs the module nf_conntrack_netlink"
	}
	return f
}

// apiserver looks whether it answers.
func (f *checkFlags) apiserver() preflight.Finding {
	out := preflight.Finding{Subject: "apiserver"}
	config, err := f.kube.config()
	if err == nil {
		var version string
		if version, err = reach(config); err == nil {
			out.Message = fmt.Sprintf("%s answers, version %s", config.Host, version)
			return out
		}
	}
	out.Grade, out.Message = preflight.Defect, err.Error()
	out.Remedy = "give --apiserver an address of the apiserver itself, not of the Service kubernetes"
	return out
}
