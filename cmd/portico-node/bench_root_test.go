//go:build linux && root

package main

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/portico-ingress/portico/router/l4"
	"github.com/portico-ingress/portico/test/kubeproxy"
	"github.com/portico-ingress/portico/test/many"
	"github.com/portico-ingress/portico/test/netns"
	"github.com/portico-ingress/portico/test/nodeapi"
)

// bench is a node of a cluster with many Services.
type bench struct {
	ns       *netns.Namespace
	node     l4.Node
	services []*l4.Service
	api      *nodeapi.Server
}

func newBench(b *testing.B, services, endpoints int) *bench {
	m := &bench{ns: netns.New(b), node: many.Node()}
	m.node.Name = nodeName
	for i := range services {
		m.services = append(m.services, many.Services{Endpoints: endpoints, Group: endpoints}.Service(i))
	}
	m.api = nodeapi.Serve(b, m.ns, kubeproxy.Objects(m.node, m.services))
	return m
}

// replaceOne moves the first endpoint of a Service to the i-th unused address.
func (m *bench) replaceOne(b *testing.B, s *l4.Service, i int) {
	s.Ports[0].Groups[0].Endpoints[0].Address = many.Endpoint(1<<23 + i)
	m.api.Modify(b, "endpointslices", kubeproxy.EndpointSlice(m.node, s, 0, 0))
}

// BenchmarkNode has portico-node and the real kube-proxy each start on a node
// with many Services, and then replaces one endpoint after the other:
// s-to-start from the start of the process, s-to-program without the lists, and
// what a change takes from the event of the watch to the commit. Of kube-proxy,
// whose pauses between commits are at least as long as it is told, that is
// 10 ms, not the second of its defaults. It does not get the largest size: it
// would take the better part of an hour.
func BenchmarkNode(b *testing.B) {
	for _, size := range []struct{ services, endpoints int }{{1000, 5}, {10_000, 5}, {50_000, 10}} {
		for _, program := range []struct {
			name  string
			start func(*testing.B, *bench)
		}{{"kube-proxy", startPeer}, {"portico-node", startOurs}} {
			if program.name == "kube-proxy" && size.services > 10_000 {
				continue
			}
			b.Run(fmt.Sprintf("%dx%d/%s", size.services, size.endpoints, program.name), func(b *testing.B) {
				m := newBench(b, size.services, size.endpoints)
				began := time.Now()
				program.start(b, m)
				started, programmed := time.Since(began), m.fullSync(b)
				m.changes(b)
				b.ReportMetric(started.Seconds(), "s-to-start")
				b.ReportMetric(programmed, "s-to-program")
			})
		}
	}
}

func startPeer(b *testing.B, m *bench) { kubeproxy.StartAt(b, m.ns, m.node, m.api) }

func startOurs(b *testing.B, m *bench) {
	p := start(b, m.ns, nil, "--kubeconfig="+kubeconfig(b, m.api.URL), "--cluster-cidr="+m.node.Pods.CIDRs[0].String())
	p.until(b, "everything is programmed")
}

// fullSyncs is the time of all transactions that programmed everything, and how
// many they were; both programs have it.
var fullSyncs = regexp.MustCompile(`(?m)^kubeproxy_sync_full_proxy_rules_duration_seconds_(sum|count)\{ip_family="IPv4"\} (\S+)$`)

func (m *bench) fullSync(b *testing.B) float64 {
	found := map[string]float64{}
	for _, f := range fullSyncs.FindAllStringSubmatch(get(b, m.ns, "127.0.0.1:10249/metrics"), -1) {
		v, err := strconv.ParseFloat(f[2], 64)
		if err != nil {
			b.Fatal(err)
		}
		found[f[1]] = v
	}
	if found["count"] == 0 {
		b.Fatalf("the metrics tell of no transaction: %v", found)
	}
	return found["sum"]
}

func (m *bench) changes(b *testing.B) {
	commits := commits(b, m.ns)
	var took []time.Duration
	for i := 0; b.Loop(); i++ {
		for len(commits) > 0 {
			<-commits
		}
		began := time.Now()
		m.replaceOne(b, m.services[i*7919%len(m.services)], i)
		took = append(took, (<-commits).Sub(began))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
}

// commits receives when transactions of nftables in a namespace ended.
func commits(b *testing.B, n *netns.Namespace) <-chan time.Time {
	var c *netlink.Conn
	var err error
	n.Do(func() { c, err = netlink.Dial(unix.NETLINK_NETFILTER, nil) })
	if err != nil {
		b.Fatal(err)
	}
	const typeOffset = 4                                               // in the netlink header
	const end = (unix.NFNL_SUBSYS_NFTABLES << 8) | unix.NFT_MSG_NEWGEN // says how a transaction ends
	filter, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: typeOffset, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: end>>8 | end&0xff<<8, SkipFalse: 1},
		bpf.RetConstant{Val: ^uint32(0)},
		bpf.RetConstant{Val: 0},
	})
	if err == nil {
		err = c.SetBPF(filter)
	}
	if err == nil {
		err = c.JoinGroup(unix.NFNLGRP_NFTABLES)
	}
	if err != nil {
		b.Fatal(err)
	}
	out, done := make(chan time.Time, 1024), make(chan struct{})
	go func() {
		defer close(done)
		for {
			messages, err := c.Receive()
			if err != nil {
				return
			}
			for range messages {
				out <- time.Now()
			}
		}
	}()
	b.Cleanup(func() { _ = c.Close(); <-done })
	return out
}
