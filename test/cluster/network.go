//go:build linux

package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// A network is the numbers of one cluster. 198.18.0.0/15 is set aside for
// benchmarks (RFC 2544), so it is nobody's real network:
//
//	198.18.N.1      the host, on a link porticoN
//	198.18.N.2      the control plane
//	198.18.N.11…    the nodes
//	198.19.N.0/24   what load balancers hand out; the host sends it to the nodes
//	10.244.K.0/24   pods of node K
//	10.96.0.0/16    Services
//
// With Options.DualStack the machines have IPv6 addresses as well, and nodes,
// pods and Services addresses of both families:
//
//	fd00:198:18:N::/64    as 198.18.N.0/24
//	fd00:10:244:K::/64    pods of node K
//	fd00:10:96::/112      Services
//
// Several clusters of one computer differ in N. The machines are joined by a
// bridge on the control machine and have no way out: their default route leads
// to 198.18.N.254, which is nobody. They have one all the same, because
// kube-apiserver and packets for Services want one.
type network int

// Ranges that are the same in every cluster, as they are not seen from outside.
const (
	podRange      = "10.244.0.0/16"
	podRange6     = "fd00:10:244::/48"
	serviceRange  = "10.96.0.0/16"
	serviceRange6 = "fd00:10:96::/112"
	dnsAddress    = "10.96.0.10"
	apiAddress    = "10.96.0.1" // of the Service kubernetes: the first of the range
)

// noNetwork is that of a cluster that got no further than its folder.
const noNetwork network = -1

func (n network) address(host int) netip.Addr {
	return netip.AddrFrom4([4]byte{198, 18, byte(n), byte(host)})
}

// address6 is the IPv6 address of who has address(host).
func (n network) address6(host int) netip.Addr {
	return netip.MustParseAddr(fmt.Sprintf("fd00:198:18:%x::%x", int(n), host))
}
func (n network) host() netip.Addr    { return n.address(1) }
func (n network) control() netip.Addr { return n.address(2) }
func (n network) node(k int) netip.Addr {
	return n.address(10 + k)
}
func (n network) pods(k int) string   { return fmt.Sprintf("10.244.%d.0/24", k) }
func (n network) pods6(k int) string  { return fmt.Sprintf("fd00:10:244:%x::/64", k) }
func (n network) balancers() string   { return fmt.Sprintf("198.19.%d.0/24", int(n)) }
func (n network) link() string        { return linkPrefix + strconv.Itoa(int(n)) }
func (n network) cgroup(k int) string { return fmt.Sprintf("portico%d-node%d", int(n), k) }

const (
	interfaces = "/sys/class/net"
	linkPrefix = "portico"
)

// claimNetwork makes the link between the host and the control machine, whose
// name no other cluster of this computer has.
func claimNetwork(ctx context.Context, control int, state string) (network, error) {
	for n := network(0); n < 256; n++ {
		if exists(n) {
			continue
		}
		err := ip(ctx, control, []string{fmt.Sprintf("link add uplink type veth peer name %s netns %d", n.link(), os.Getpid())})
		if err == nil {
			return n, ip(ctx, os.Getpid(), []string{fmt.Sprintf("link set %s alias %s", n.link(), state)})
		}
		if !exists(n) { // else somebody was faster
			return noNetwork, err
		}
	}
	return noNetwork, errors.New("256 clusters are up: end one with `make cluster-down`")
}

func exists(n network) bool {
	_, err := os.Stat(filepath.Join(interfaces, n.link()))
	return err == nil
}

// connect joins the machines, and the host.
func (c *Cluster) connect(ctx context.Context) error {
	n, control := c.net, c.Control()
	lines := []string{
		"link set lo up",
		"link add cluster type bridge",
		fmt.Sprintf("addr add %s/24 dev cluster", control.Address),
		"link set cluster up",
		"link set uplink master cluster up",
		fmt.Sprintf("route add default via %s", n.address(254)),
	}
	for k, node := range c.nodes {
		lines = append(lines,
			fmt.Sprintf("link add %s type veth peer name eth0 netns %d", node.Name, node.pid),
			fmt.Sprintf("link set %s master cluster up", node.Name),
			fmt.Sprintf("route add %s via %s", n.pods(k+1), node.Address))
	}
	if err := ip(ctx, control.pid, lines); err != nil {
		return err
	}
	if c.options.DualStack {
		if err := c.connect6(ctx); err != nil {
			return err
		}
	}
	for k := range c.nodes {
		if err := c.connectNode(ctx, k); err != nil {
			return err
		}
	}
	return ip(ctx, os.Getpid(), []string{
		fmt.Sprintf("addr add %s/24 dev %s", n.host(), n.link()),
		fmt.Sprintf("link set %s up", n.link()),
		fmt.Sprintf("route add %s via %s", n.balancers(), n.node(1)),
	})
}

func (c *Cluster) connectNode(ctx context.Context, k int) error {
	lines := []string{
		"link set lo up",
		fmt.Sprintf("addr add %s/24 dev eth0", c.nodes[k].Address),
		"link set eth0 up",
		fmt.Sprintf("route add default via %s", c.net.address(254)),
	}
	for other, node := range c.nodes {
		if other != k {
			lines = append(lines, fmt.Sprintf("route add %s via %s", c.net.pods(other+1), node.Address))
		}
	}
	return ip(ctx, c.nodes[k].pid, lines)
}

// connect6 gives every machine its IPv6 address and the ways to the pods.
// Duplicates are not looked for: that takes a second, and there are none.
func (c *Cluster) connect6(ctx context.Context) error {
	for m, machine := range append([]*Machine{c.control}, c.nodes...) {
		device, host := "eth0", 10+m
		if machine == c.control {
			device, host = "cluster", 2
		}
		lines := []string{
			fmt.Sprintf("addr add %s/64 dev %s nodad", c.net.address6(host), device),
			fmt.Sprintf("link set %s up", device),
			fmt.Sprintf("route add ::/0 via %s", c.net.address6(254)),
		}
		for k, node := range c.nodes {
			if node != machine {
				lines = append(lines, fmt.Sprintf("route add %s via %s", c.net.pods6(k+1), c.net.address6(11+k)))
			}
		}
		if err := ip(ctx, machine.pid, lines); err != nil {
			return err
		}
	}
	return nil
}

// families returns the value of IPv4, and with Options.DualStack that of IPv6.
func (c *Cluster) families(v4, v6 string) []string {
	if c.options.DualStack {
		return []string{v4, v6}
	}
	return []string{v4}
}

// ip runs commands of iproute2 in the network of a process.
func ip(ctx context.Context, pid int, lines []string) error {
	cmd := exec.CommandContext(ctx, "nsenter", "--target", strconv.Itoa(pid), "--net", "--", "ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("ip: %w: %s\nof these commands:\n%s", err, bytes.TrimSpace(out), strings.Join(lines, "\n"))
	}
	return nil
}

// RouteBalancers sends what the host sends to addresses of load balancers to
// the given node, as a router in front of the cluster would. After Up that is
// the first node.
func (c *Cluster) RouteBalancers(ctx context.Context, to *Machine) error {
	return ip(ctx, os.Getpid(), []string{fmt.Sprintf("route replace %s via %s", c.net.balancers(), to.Address)})
}

// disconnect removes the link of the cluster in the folder, and returns when it
// is gone. The machines must be gone.
func disconnect(ctx context.Context, state string) error {
	return poll(ctx, func(ctx context.Context) error {
		links, err := filepath.Glob(filepath.Join(interfaces, linkPrefix+"*"))
		if err != nil {
			return err
		}
		for _, link := range links {
			if err := disconnectLink(ctx, link, state); err != nil {
				return err
			}
		}
		return nil
	})
}

func disconnectLink(ctx context.Context, link, state string) error {
	alias, err := os.ReadFile(filepath.Join(link, "ifalias"))
	if err != nil {
		return nil // gone
	}
	switch strings.TrimSpace(string(alias)) {
	case state:
		// It goes with its network, but only some time later.
		if out, err := exec.CommandContext(ctx, "ip", "link", "delete", filepath.Base(link)).CombinedOutput(); err != nil {
			return fmt.Errorf("removing %s: %w: %s", filepath.Base(link), err, bytes.TrimSpace(out))
		}
	case "":
		// Made a moment ago by another Up, which will name it; or by one that was
		// killed before it could, whose link goes by itself.
		return fmt.Errorf("network interface %s belongs to no cluster, and stays", filepath.Base(link))
	}
	return nil
}
