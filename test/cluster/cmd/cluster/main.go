//go:build linux

// Command cluster starts and ends a Kubernetes cluster on this computer, see
// package cluster. make cluster-up, cluster-down and cluster-shell run it.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/portico-ingress/portico/test/cluster"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

func command() *cobra.Command {
	var options cluster.Options
	root := &cobra.Command{
		Use: "cluster", Short: "a Kubernetes cluster on this computer, without Docker",
		SilenceUsage: true, SilenceErrors: true,
	}
	root.PersistentFlags().StringVar(&options.State, "state", "", "folder of the cluster (default: cluster in $PORTICO_CACHE or ~/.cache/portico)")
	up := &cobra.Command{
		Use: "up", Short: "start it, and wait until it is ready", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return up(cmd.Context(), options) },
	}
	up.Flags().IntVar(&options.Nodes, "nodes", 2, "how many nodes, 1 to 9")
	up.Flags().StringVar(&options.Proxy, "proxy", cluster.ProxyNFTables, "what forwards packets for Services: nftables is kube-proxy, ours is portico-node; none leaves it out")
	up.Flags().BoolVar(&options.DualStack, "dual-stack", false, "give nodes, pods and Services IPv6 addresses as well")
	up.Flags().StringArrayVar(&options.Images, "image", nil, "OCI archive to load into every node (may be repeated)")
	root.AddCommand(up,
		&cobra.Command{
			Use: "down", Short: "end it, and leave nothing behind; also after a crash", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error { return cluster.Down(cmd.Context(), options.State) },
		},
		&cobra.Command{
			Use: "shell [MACHINE]", Short: "a shell with kubectl; or in node1, node2 or control", Args: cobra.MaximumNArgs(1),
			RunE: func(_ *cobra.Command, args []string) error { return shell(options.State, strings.Join(args, "")) },
		},
		&cobra.Command{
			Use: "load ARCHIVE...", Short: "load OCI archives into every node", Args: cobra.MinimumNArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error { return load(cmd.Context(), options.State, args) },
		})
	return root
}

func up(ctx context.Context, options cluster.Options) error {
	options.Progress = os.Stderr
	c, err := cluster.Up(ctx, options)
	if err != nil {
		return err
	}
	inMake, inFlag := "", ""
	if usual, err := cluster.StateDir(); err != nil || usual != c.State() {
		inMake, inFlag = " STATE="+c.State(), " --state "+c.State()
	}
	fmt.Printf(ready, c.Kubeconfig(), filepath.Join(c.Tools(), "kubectl"), cluster.TestImage, c.Nodes()[0].Address, c.State(), inMake, inFlag)
	return nil
}

const ready = `
A Kubernetes cluster is up. This computer is outside of it and reaches its
NodePorts; images are not pulled, there is no way to the internet.

  make cluster-shell%[6]s            a shell with kubectl and helm
  make cluster-shell%[6]s ON=node1   a shell in the first node, with nft, conntrack, ctr
  make cluster-down%[6]s             ends it all

or: export KUBECONFIG=%[1]s
    alias kubectl=%[2]s

An application:

  kubectl create deployment web --image=%[3]s --replicas=2
  kubectl expose deployment web --port=80 --target-port=8080
  kubectl rollout status deployment web

Portico in front of it; make images says the VERSION it has built:

  make images && bin/cluster load%[7]s bin/images/portico.oci.tar
  helm install portico charts/portico --set image.tag=VERSION --set service.type=NodePort
  kubectl rollout status deployment portico
  kubectl create ingress web --class=portico --rule='web.example.com/*=web:80'
  curl -H 'Host: web.example.com' http://%[4]s:$(kubectl get service portico -o jsonpath='{.spec.ports[0].nodePort}')/

Logs of the cluster's programs are in %[5]s/*/*.log.
`

// shell replaces this program by a shell.
func shell(state, machine string) error {
	c, err := cluster.Open(state)
	if err != nil {
		return err
	}
	program := os.Getenv("SHELL")
	if program == "" {
		program = "/bin/sh"
	}
	environment := append(os.Environ(), "KUBECONFIG="+c.Kubeconfig())
	if machine == "" {
		environment = append(environment, "PATH="+c.Tools()+":"+os.Getenv("PATH"))
		fmt.Fprintln(os.Stderr, "kubectl and helm speak to the cluster; exit leaves this shell.")
		return syscall.Exec(program, []string{program}, environment)
	}
	for _, m := range append(c.Nodes(), c.Control()) {
		if m.Name == machine {
			cmd := m.Command(context.Background(), program)
			return syscall.Exec(cmd.Path, cmd.Args, append(cmd.Environ(), environment[len(environment)-1]))
		}
	}
	return fmt.Errorf("no machine is named %q: there are control, and node1 to node%d", machine, len(c.Nodes()))
}

func load(ctx context.Context, state string, archives []string) error {
	c, err := cluster.Open(state)
	if err != nil {
		return err
	}
	for _, archive := range archives {
		if err := c.LoadImage(ctx, archive); err != nil {
			return err
		}
		fmt.Printf("%s is in every node\n", archive)
	}
	return nil
}
