//go:build linux

// Package cluster runs a real Kubernetes cluster on one computer, for tests and
// for whoever wants to try Portico without Docker: etcd, kube-apiserver,
// kube-controller-manager, kube-scheduler and CoreDNS, and per node containerd,
// kubelet, the bridge CNI plugin and kube-proxy. Every program comes from the
// Go module proxy or from Debian packages, every image is built from them;
// nothing is downloaded from elsewhere. It needs root, and Linux.
//
// A machine of the cluster is a set of namespaces (network, mounts, processes)
// whose first process is a copy of the program that imports this package. When
// that process is killed, the kernel ends everything in the machine, and with
// its last process its network and its mounts go: so Down is sure, also after
// a crash. What lies outside of machines is the cluster's folder, one network
// interface of the host, and cgroups.
//
//	host  198.18.N.1 ─── control 198.18.N.2 (bridge)   etcd, kube-apiserver, …
//	                      ├─── node1 198.18.N.11        containerd, kubelet, kube-proxy
//	                      └─── node2 198.18.N.12          └─ pods 10.244.2.0/24
//
// The host is a client outside the nodes: it reaches NodePorts, addresses of
// load balancers (198.19.N.0/24) and kube-apiserver, and neither pods nor
// ClusterIPs. The cluster has no way to the internet.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// What forwards packets for Services.
const (
	ProxyNFTables = "nftables" // kube-proxy in its nftables mode
	ProxyOurs     = "ours"     // portico-node, built from this tree
	ProxyNone     = "none"     // nothing: ClusterIPs and NodePorts do not work
)

// Options say what cluster to make. The zero value is good.
type Options struct {
	// State is the folder of the cluster; StateDir if empty. It is made by Up
	// and removed by Down.
	State string
	// Nodes is how many there are, 1 to 9. Zero is 2.
	Nodes int
	// DualStack gives nodes, pods and Services IPv6 addresses besides those of
	// IPv4; the host has none.
	DualStack bool
	// Proxy is ProxyNFTables, also if empty, ProxyOurs or ProxyNone.
	Proxy string
	// Images are OCI archives to load besides TestImage.
	Images []string
	// Progress is told how far Up is, a line a step. May be nil.
	Progress io.Writer
}

func (o *Options) complete() (err error) {
	if o.State, err = checkState(o.State); err != nil {
		return err
	}
	if o.Nodes == 0 {
		o.Nodes = 2
	}
	if o.Nodes < 1 || o.Nodes > 9 {
		return fmt.Errorf("%d nodes: from 1 to 9 are possible", o.Nodes)
	}
	switch o.Proxy {
	case "":
		o.Proxy = ProxyNFTables
	case ProxyNFTables, ProxyOurs, ProxyNone:
	default:
		return fmt.Errorf("proxy %q: it is %s, %s or %s", o.Proxy, ProxyNFTables, ProxyOurs, ProxyNone)
	}
	return nil
}

// A Cluster is a running cluster. It is safe for concurrent use.
type Cluster struct {
	options  Options // of Up; empty in a cluster that was opened
	state    string
	net      network
	pki      pki
	programs programs
	progress *progress
	control  *Machine
	nodes    []*Machine
}

// Up makes a cluster and returns when its nodes and its DNS are ready. What an
// Up left behind that did not come to its end is removed first; if a cluster is
// up in the folder already, that is an error. If a component does not start,
// the error is a *Failure with the last lines of its log; then everything is
// ended but the logs stay in the folder until Down.
func Up(ctx context.Context, options Options) (*Cluster, error) {
	if err := requireRoot(); err != nil {
		return nil, err
	}
	if err := options.complete(); err != nil {
		return nil, err
	}
	say := newProgress(options.Progress)
	programs, err := findPrograms(ctx, say)
	if err != nil {
		return nil, err
	}
	unlock, err := lock(ctx, options.State)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if running, err := machines(options.State); err != nil {
		return nil, err
	} else if len(running) > 0 && isComplete(options.State) {
		return nil, fmt.Errorf("a cluster is up in %s already: end it with `make cluster-down`, or use another folder", options.State)
	}
	if err := clear(ctx, options.State); err != nil {
		return nil, err
	}
	c := newCluster(options.State, programs)
	c.options, c.progress = options, say
	if err := c.start(ctx); err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("interrupted: %w", context.Cause(ctx)) // whatever it met first
		}
		// Not with ctx, which may be what ended the start.
		return nil, errors.Join(err, halt(context.WithoutCancel(ctx), c.state))
	}
	return c, nil
}

func newCluster(state string, programs programs) *Cluster {
	return &Cluster{state: state, programs: programs, pki: pki{filepath.Join(state, "pki")}, progress: newProgress(nil), net: noNetwork}
}

// start makes the machines and starts what runs on them, in parallel as far as
// one thing does not need the other.
func (c *Cluster) start(ctx context.Context) error {
	if err := c.makeMachines(ctx); err != nil {
		return err
	}
	c.progress.say("%d machines joined in network %s/24", 1+len(c.nodes), c.net.address(0))
	group, groupCtx := errgroup.WithContext(ctx)
	var archives []string
	group.Go(func() error { return c.startControl(groupCtx) })
	group.Go(func() (err error) {
		archives, err = c.buildImages(groupCtx)
		return err
	})
	for k := range c.nodes {
		group.Go(func() error { return c.startRuntime(groupCtx, k) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	c.progress.say("containerd runs, images are built")
	if err := c.startNodes(ctx, append(archives, c.options.Images...)); err != nil {
		return err
	}
	c.progress.say("%d nodes are ready", len(c.nodes))
	if err := c.startDNS(ctx); err != nil {
		return err
	}
	c.progress.say("DNS is ready")
	return os.WriteFile(filepath.Join(c.state, completeFile), nil, 0o644)
}

// makeMachines makes the machines, their network and their certificates.
func (c *Cluster) makeMachines(ctx context.Context) (err error) {
	if err := os.MkdirAll(c.state, 0o700); err != nil {
		return err
	}
	c.nodes = make([]*Machine, c.options.Nodes)
	if err := c.writeRecord(); err != nil {
		return err
	}
	if c.control, err = startMachine(filepath.Join(c.state, controlName), settings{}); err != nil {
		return err
	}
	if c.net, err = claimNetwork(ctx, c.control.pid, c.state); err != nil {
		return err
	}
	if err := c.writeRecord(); err != nil {
		return err
	}
	for k := range c.nodes {
		if c.nodes[k], err = startMachine(filepath.Join(c.state, nodeName(k)), settings{c.nodeSysctls()}); err != nil {
			return err
		}
	}
	c.setAddresses()
	if err := c.connect(ctx); err != nil {
		return err
	}
	return c.writePKI()
}

const controlName = "control"

func nodeName(k int) string { return fmt.Sprintf("node%d", k+1) }

func (c *Cluster) setAddresses() {
	c.control.Address = c.net.control()
	for k, node := range c.nodes {
		node.Address = c.net.node(k + 1)
	}
}

// startNodes starts kubelets and proxies, loads images meanwhile, and returns
// when all nodes are ready.
func (c *Cluster) startNodes(ctx context.Context, archives []string) error {
	client, err := c.Client()
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	for k := range c.nodes {
		group.Go(func() error {
			if err := c.startNode(ctx, k); err != nil {
				return err
			}
			return c.awaitNode(ctx, client, k)
		})
	}
	for _, archive := range archives {
		group.Go(func() error { return c.LoadImage(ctx, archive) })
	}
	return group.Wait()
}

// Open returns the cluster that is up in the folder, StateDir if empty.
func Open(state string) (*Cluster, error) {
	state, err := checkState(state)
	if err != nil {
		return nil, err
	}
	r, ok, err := readRecord(state)
	if err != nil {
		return nil, err
	}
	running, err := machines(state)
	if err != nil {
		return nil, err
	}
	if !ok || !isComplete(state) || len(running) != r.Nodes+1 {
		return nil, fmt.Errorf("no cluster is up in %s: start one with `make cluster-up`", state)
	}
	c := newCluster(state, programs{Kube: r.Kube})
	c.net = r.Network
	for _, name := range sortedNames(running) {
		m := &Machine{Name: name, dir: filepath.Join(state, name), pid: running[name]}
		if name == controlName {
			c.control = m
		} else {
			c.nodes = append(c.nodes, m)
		}
	}
	c.setAddresses()
	return c, nil
}

// Down ends the cluster, as the function does.
func (c *Cluster) Down(ctx context.Context) error { return Down(ctx, c.state) }

// Control is the machine that etcd, kube-apiserver, kube-controller-manager and
// kube-scheduler run on, which are the names of its processes.
func (c *Cluster) Control() *Machine { return c.control }

// Nodes are the nodes, whose names are those of their Node objects. Their
// processes are containerd, kubelet, and kube-proxy or portico-node.
func (c *Cluster) Nodes() []*Machine { return c.nodes }

// State is the cluster's folder.
func (c *Cluster) State() string { return c.state }

// Host is the host's address in the network of the nodes.
func (c *Cluster) Host() netip.Addr { return c.net.host() }

// Balancer returns an address for a Service of type LoadBalancer, 1 to 254: to
// be set in its status by the test, as a cloud would.
func (c *Cluster) Balancer(i byte) netip.Addr {
	return netip.AddrFrom4([4]byte{198, 19, byte(c.net), i})
}

// Kubeconfig is the file of the cluster's administrator.
func (c *Cluster) Kubeconfig() string { return c.pki.Kubeconfig("admin") }

func (c *Cluster) api() string { return fmt.Sprintf("https://%s:6443", c.net.control()) }

// Config is Kubeconfig for client-go, without a limit of requests a second.
func (c *Cluster) Config() (*rest.Config, error) {
	config, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig())
	if err != nil {
		return nil, err
	}
	config.QPS = -1
	return config, nil
}

// Client is a client with every right.
func (c *Cluster) Client() (kubernetes.Interface, error) {
	config, err := c.Config()
	if err != nil {
		return nil, err
	}
	return kubernetes.NewForConfig(config)
}

func (c *Cluster) httpClient() (*http.Client, error) {
	config, err := c.Config()
	if err != nil {
		return nil, err
	}
	return rest.HTTPClientFor(config)
}

// Tools is the folder with kubectl, of the cluster's version.
func (c *Cluster) Tools() string { return c.programs.Kube }

// Kubectl runs kubectl as the administrator, with the standard input, and
// returns what it printed. An error has that too.
func (c *Cluster) Kubectl(ctx context.Context, stdin string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, c.programs.kube("kubectl"), append([]string{"--kubeconfig", c.Kubeconfig()}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("kubectl %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return string(out), nil
}
