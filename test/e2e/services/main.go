//go:build linux

// Command services runs Kubernetes' own tests of Services, those of its
// e2e.test, against a cluster of package cluster whose packets portico-node
// forwards, or kube-proxy. It names every test with its result, and fails if
// one did not pass that passes with kube-proxy. `make e2e-services` runs it; it
// needs root.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/portico-ingress/portico/test/cluster"
)

// A group is tests that run together; patterns are those of ginkgo.
type group struct{ name, focus, skip string }

// disruptive are tests that restart what is no pod here, or want ssh.
const disruptive = `Disruptive|Serial`

var groups = []group{
	{"services", `\[sig-network\] Services `, disruptive + `|LoadBalancer|Slow|Feature:`},
	{"beyond", `\[sig-network\] (Conntrack|\[Feature:IPv6DualStack\]|Networking|Traffic Distribution|Topology Hints|LocalhostNodePorts|Connectivity Pod Lifecycle) `, disruptive + `|Feature:Networking`},
}

// options are the flags.
type options struct {
	tests, out, state string
	proxy             string
	nodes, procs      int
	only, focus       string
	keep              bool
}

// proxies are the values of -proxy, as package cluster calls them.
var proxies = map[string]string{"ours": cluster.ProxyOurs, "kube-proxy": cluster.ProxyNFTables}

func parse() (o options, err error) {
	flag.StringVar(&o.tests, "tests", os.Getenv("PORTICO_E2E_TESTS"), "folder with e2e.test, ginkgo and agnhost, as test/tools/assets.sh e2e prints it; $PORTICO_E2E_TESTS")
	flag.StringVar(&o.out, "out", "bin/services", "folder for logs and reports")
	flag.StringVar(&o.state, "state", "", "folder of the cluster (default: cluster-services beside that of make cluster-up)")
	flag.StringVar(&o.proxy, "proxy", "ours", "what forwards packets: ours is portico-node; or kube-proxy")
	flag.IntVar(&o.nodes, "nodes", 3, "how many nodes there are, each in a zone of its own")
	flag.IntVar(&o.procs, "procs", 3, "how many tests run at once")
	flag.StringVar(&o.only, "group", "", "run only this group, services or beyond; the list is not compared then")
	flag.StringVar(&o.focus, "focus", "", "run the tests whose name matches this pattern instead of the groups; the list is not compared then")
	flag.BoolVar(&o.keep, "keep", false, "leave the cluster as it is, to look at: make cluster-shell STATE=… and make cluster-down STATE=… are for it")
	flag.Parse()
	if o.tests == "" {
		return o, errors.New("-tests is missing: run make e2e-services, or set it to what test/tools/assets.sh e2e prints")
	}
	if proxies[o.proxy] == "" {
		return o, fmt.Errorf("-proxy %q: it is ours or kube-proxy", o.proxy)
	}
	if o.state == "" {
		usual, err := cluster.StateDir()
		if err != nil {
			return o, err
		}
		o.state = usual + "-services"
	}
	return o, nil
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	o, err := parse()
	if err == nil {
		err = run(ctx, o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "services:", err)
		os.Exit(1)
	}
}

// run makes the cluster, runs the groups, and ends the cluster.
func run(ctx context.Context, o options) (err error) {
	if o.out, err = filepath.Abs(o.out); err != nil {
		return err
	}
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return err
	}
	images, err := buildImages(ctx, o.tests, o.out)
	if err != nil {
		return err
	}
	c, err := cluster.Up(ctx, cluster.Options{State: o.state, Nodes: o.nodes, DualStack: true, Proxy: proxies[o.proxy], Images: images, Progress: os.Stderr})
	if err != nil {
		return err // it has ended what it started, and left the logs
	}
	if !o.keep {
		defer func() { err = errors.Join(err, c.Down(context.WithoutCancel(ctx))) }()
	}
	if err := label(ctx, c); err != nil {
		return err
	}
	if o.focus != "" {
		groups = []group{{"focus", o.focus, disruptive}}
	}
	var all []spec
	for _, g := range groups {
		if o.only != "" && o.only != g.name {
			continue
		}
		specs, err := o.run(ctx, c, g)
		if err != nil {
			return err
		}
		show(os.Stdout, g.name, specs)
		all = append(all, specs...)
	}
	return o.judge(all)
}

// label puts each node into a zone, for the tests of topology.
func label(ctx context.Context, c *cluster.Cluster) error {
	for k, node := range c.Nodes() {
		if _, err := c.Kubectl(ctx, "", "label", "node", node.Name, fmt.Sprintf("topology.kubernetes.io/zone=zone%d", k+1)); err != nil {
			return err
		}
	}
	return nil
}

// patience bounds a group.
const patience = 90 * time.Minute

// run runs a group. Tests that fail are in the result and are no error. One that
// fails is run a second time: several give what they test a number of seconds,
// which a busy computer may not have.
func (o options) run(ctx context.Context, c *cluster.Cluster, g group) ([]spec, error) {
	report, log := filepath.Join(o.out, g.name+".json"), filepath.Join(o.out, g.name+".log")
	output, err := os.Create(log)
	if err != nil {
		return nil, err
	}
	defer output.Close()
	if err := os.RemoveAll(report); err != nil { // that of another run
		return nil, err
	}
	fmt.Fprintf(os.Stderr, "running the group %s; it writes to %s\n", g.name, log)
	cmd := exec.CommandContext(ctx, filepath.Join(o.tests, "ginkgo"), "--no-color", "--silence-skips",
		"--procs", strconv.Itoa(o.procs), "--timeout", patience.String(), "--flake-attempts", "2",
		"--json-report", filepath.Base(report), "--output-dir", o.out,
		"--focus", g.focus, "--skip", g.skip+leftOut(),
		filepath.Join(o.tests, "e2e.test"), "--",
		"--provider", "skeleton", "--num-nodes", strconv.Itoa(o.nodes), "--kubeconfig", c.Kubeconfig(), "--kubectl-path", filepath.Join(c.Tools(), "kubectl"),
		"--dump-logs-on-failure=false", "--disable-log-dump", "--report-dir", o.out)
	cmd.Env = append(os.Environ(), imagesVariable(o.out))
	cmd.Stdout, cmd.Stderr = output, output
	failed := runGroup(cmd)
	if ctx.Err() != nil {
		return nil, fmt.Errorf("interrupted: %w", context.Cause(ctx))
	}
	specs, err := readReport(report, g)
	if err != nil {
		return nil, fmt.Errorf("ginkgo (%v) left no report; what it said is in %s: %w", failed, log, err)
	}
	return specs, nil
}

// runGroup runs a command whose own processes end with it: with SIGINT if its
// context is done, which has tests clean up, and a minute later with SIGKILL.
func runGroup(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) }
	cmd.WaitDelay = time.Minute
	if err := cmd.Start(); err != nil {
		return err
	}
	defer func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }() // none are left, usually
	return cmd.Wait()
}
