//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/portico-ingress/portico/cmd/internal/program"
)

// askFlags say where a running portico-node is asked.
type askFlags struct{ debugAddr string }

func (f *askFlags) register(fs *pflag.FlagSet) {
	fs.StringVar(&f.debugAddr, "debug-addr", defaultDebugAddr, debugAddrUsage)
}

// ask passes on what a portico-node on this node answers.
func (f *askFlags) ask(ctx context.Context, path string, query url.Values, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, 90*time.Second)
	defer cancel()
	u := url.URL{Scheme: "http", Host: f.debugAddr, Path: path, RawQuery: query.Encode()}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return program.UsageError(program.FlagError("debug-addr", err))
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return fmt.Errorf("no portico-node answers at %s: %w; ask where one runs, for instance: kubectl -n NAMESPACE exec POD -- /portico-node show", f.debugAddr, err)
	}
	defer answer.Body.Close()
	if answer.StatusCode == http.StatusOK {
		_, err = io.Copy(out, answer.Body)
		return err
	}
	text, _ := io.ReadAll(io.LimitReader(answer.Body, 16<<10))
	why := errors.New(strings.TrimSpace(string(text)))
	if answer.StatusCode == http.StatusBadRequest {
		return program.UsageError(why)
	}
	return why
}

func newShow() *cobra.Command {
	var f askFlags
	cmd := &cobra.Command{
		Use:   "show [NAMESPACE/]SERVICE",
		Short: "Say what is programmed, for a Service or for all",
		Long: `Show asks the portico-node that runs on this node what it programmed for a
Service: the addresses that are answered, to whom, the endpoints, and the clients
that keep their endpoint. Without a Service it shows all.`,
		Example: "  portico-node show shop/web\n  kubectl -n kube-system exec ds/portico-node -- /portico-node show kubernetes",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			query := url.Values{}
			if len(args) == 1 {
				service := args[0]
				if !strings.Contains(service, "/") {
					service = "default/" + service
				}
				query.Set("service", service)
			}
			return f.ask(cmd.Context(), "/show", query, cmd.OutOrStdout())
		},
	}
	f.register(cmd.Flags())
	return cmd
}

func newTrace() *cobra.Command {
	var f askFlags
	var protocol, iface string
	cmd := &cobra.Command{
		Use:   "trace SOURCE DESTINATION:PORT",
		Short: "Say what becomes of a packet",
		Long: `Trace asks the portico-node that runs on this node what happens to the first
packet of a connection from an address to an address and port: the rules that it
meets, and the endpoints of which it gets one, or why it gets none.`,
		Example: "  portico-node trace 10.244.1.7 10.96.0.10:53 --protocol udp\n  portico-node trace 203.0.113.9 192.0.2.1:30080 --interface eth0",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			query := url.Values{"from": {args[0]}, "to": {args[1]}, "protocol": {protocol}, "interface": {iface}}
			return f.ask(cmd.Context(), "/trace", query, cmd.OutOrStdout())
		},
	}
	f.register(cmd.Flags())
	cmd.Flags().StringVar(&protocol, "protocol", "tcp", "tcp, udp or sctp")
	cmd.Flags().StringVar(&iface, "interface", "", "interface that the packet comes in by; empty: it is made on the node, or does not matter")
	return cmd
}
