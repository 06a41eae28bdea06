//go:build linux

package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/portico-ingress/portico/cmd/internal/program"
	"github.com/portico-ingress/portico/controllers/node"
	"github.com/portico-ingress/portico/controllers/translate"
	"github.com/portico-ingress/portico/router/l4/nft"
	"github.com/portico-ingress/portico/router/l4/preflight"
)

// defaultDebugAddr is where a running portico-node is asked.
const defaultDebugAddr = "127.0.0.1:10247"

const debugAddrUsage = "address of the running portico-node's /show, /trace, /readyz and /livez"

// nodeFlags say what is forwarded, and how. Where kube-proxy has the same, the
// name is its.
type nodeFlags struct {
	nodeName     string
	proxyName    string
	externalIPs  []string
	lbIPs        []string
	nodePorts    []string
	localMode    string
	clusterCIDR  []string
	bridge       string
	prefix       string
	masquerade   bool
	masqueradeAt int
}

func (f *nodeFlags) register(fs *pflag.FlagSet) {
	fs.StringVar(&f.nodeName, "node-name", "", "name of this node's Node object (default: the hostname, in lower case)")
	fs.StringVar(&f.proxyName, "service-proxy-name", "", "forward only Services whose label "+translate.LabelServiceProxyName+" is this (default: those without it)")
	fs.StringSliceVar(&f.externalIPs, "external-ips", []string{"allow"}, grantUsage("externalIPs"))
	fs.StringSliceVar(&f.lbIPs, "lb-ips", []string{"allow"}, grantUsage("load balancer addresses"))
	fs.StringSliceVar(&f.nodePorts, "nodeport-addresses", []string{"primary"}, `addresses that answer NodePorts: "primary" for those of the Node object, "all" for all but loopback ones, or CIDRs; of a family without a CIDR, all`)
	fs.StringVar(&f.localMode, "detect-local-mode", string(node.LocalClusterCIDR), "how connections of this node's pods are known: ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix; the source of others to a ClusterIP is replaced by the node's address")
	fs.StringSliceVar(&f.clusterCIDR, "cluster-cidr", nil, "CIDRs of the pods' addresses, for ClusterCIDR; without it no pod is known, and no source is replaced")
	fs.StringVar(&f.bridge, "pod-bridge-interface", "", "name of the pods' bridge, for BridgeInterface")
	fs.StringVar(&f.prefix, "pod-interface-name-prefix", "", "what the names of the pods' interfaces begin with, for InterfaceNamePrefix")
	fs.BoolVar(&f.masquerade, "masquerade-all", false, "give every connection to a ClusterIP the node's address as its source")
	fs.IntVar(&f.masqueradeAt, "masquerade-bit", 14, "bit of packet marks, 0 to 31, that marks connections whose source is to be replaced")
}

func grantUsage(what string) string {
	return what + ` of Services that are answered: "allow", "deny", or addresses and CIDRs. Whoever may write a Service can take over any address that is allowed (CVE-2020-8554)`
}

// options reads them; every fault is reported.
func (f *nodeFlags) options() (o node.Options, k nft.Options, err error) {
	var errs []error
	check := func(flag string, err error) {
		if err != nil {
			errs = append(errs, program.FlagError(flag, err))
		}
	}
	o.Translate.NodeName, err = hostName(f.nodeName)
	check("node-name", err)
	o.Translate.ProxyName = f.proxyName
	if faults := validation.IsValidLabelValue(f.proxyName); len(faults) > 0 {
		check("service-proxy-name", fmt.Errorf("%q is no value of a label: %s", f.proxyName, strings.Join(faults, ", ")))
	}
	o.Translate.ExternalIPs, err = grant(f.externalIPs)
	check("external-ips", err)
	o.Translate.LoadBalancerIPs, err = grant(f.lbIPs)
	check("lb-ips", err)
	switch {
	case slices.Equal(f.nodePorts, []string{"primary"}):
		o.NodePorts.Primary = true
	case slices.Equal(f.nodePorts, []string{"all"}):
	case len(f.nodePorts) == 0:
		check("nodeport-addresses", errors.New(`give "primary", "all" or CIDRs`))
	default:
		o.NodePorts.Within, err = program.ParsePrefixes(f.nodePorts)
		check("nodeport-addresses", err)
	}
	o.Local, err = f.local()
	errs = append(errs, err)
	o.MasqueradeAll = f.masquerade
	if f.masqueradeAt < 0 || f.masqueradeAt > 31 {
		check("masquerade-bit", fmt.Errorf("%d is not from 0 to 31", f.masqueradeAt))
	} else {
		k.MasqueradeMark = 1 << f.masqueradeAt
	}
	return o, k, errors.Join(errs...)
}

// local reads how pods are recognised.
func (f *nodeFlags) local() (node.Local, error) {
	out := node.Local{Mode: node.LocalMode(f.localMode), Interface: f.bridge}
	if out.Mode == node.LocalPrefix {
		out.Interface = f.prefix
	}
	var err, invalid error
	if out.ClusterCIDRs, err = program.ParsePrefixes(f.clusterCIDR); err != nil {
		err = program.FlagError("cluster-cidr", err)
	}
	if invalid = out.Validate(); invalid != nil {
		invalid = program.FlagError("detect-local-mode", invalid)
	}
	return out, errors.Join(err, invalid)
}

// hostName is the name that a kubelet gives its node unless told otherwise.
func hostName(name string) (string, error) {
	if name != "" {
		return name, nil
	}
	name, err := os.Hostname()
	return strings.ToLower(strings.TrimSpace(name)), err
}

func grant(list []string) (translate.AddressRule, error) {
	switch {
	case slices.Equal(list, []string{"allow"}):
		return translate.AddressRule{}, nil
	case len(list) == 0 || slices.Equal(list, []string{"deny"}):
		return translate.AddressRule{Deny: true}, nil
	}
	only, err := program.ParsePrefixes(list)
	if err != nil {
		err = fmt.Errorf(`%w; give "allow", "deny", or addresses and CIDRs`, err)
	}
	return translate.AddressRule{Only: only}, err
}

// conntrackFlags are the settings of the table of connections.
type conntrackFlags struct {
	preflight.Conntrack
	sysctls string
}

func (f *conntrackFlags) register(fs *pflag.FlagSet) {
	d := preflight.DefaultConntrack()
	fs.IntVar(&f.MaxPerCore, "conntrack-max-per-core", d.MaxPerCore, "connections to track for each core; 0, with --conntrack-min 0: as the kernel has it")
	fs.IntVar(&f.Min, "conntrack-min", d.Min, "connections to track at least")
	fs.DurationVar(&f.Established, "conntrack-tcp-timeout-established", d.Established, "how long idle TCP connections are remembered; 0: as the kernel has it")
	fs.DurationVar(&f.CloseWait, "conntrack-tcp-timeout-close-wait", d.CloseWait, "the same for those that the peer has closed")
	fs.DurationVar(&f.UDP, "conntrack-udp-timeout", 0, "the same for UDP flows without an answer")
	fs.DurationVar(&f.UDPStream, "conntrack-udp-timeout-stream", 0, "the same for UDP flows with answers")
	fs.BoolVar(&f.Liberal, "conntrack-tcp-be-liberal", false, "take packets outside of a connection's window as its own")
	fs.StringVar(&f.sysctls, "sysctl-dir", preflight.ThisHost().Sysctls, "where the node's /proc/sys is")
}

func (f *conntrackFlags) validate() error {
	var errs []error
	for flag, negative := range map[string]bool{
		"conntrack-max-per-core": f.MaxPerCore < 0, "conntrack-min": f.Min < 0,
		"conntrack-tcp-timeout-established": f.Established < 0, "conntrack-tcp-timeout-close-wait": f.CloseWait < 0,
		"conntrack-udp-timeout": f.UDP < 0, "conntrack-udp-timeout-stream": f.UDPStream < 0,
	} {
		if negative {
			errs = append(errs, program.FlagError(flag, errors.New("must not be negative")))
		}
	}
	slices.SortFunc(errs, func(a, b error) int { return cmp.Compare(a.Error(), b.Error()) })
	return errors.Join(errs...)
}

func (f *conntrackFlags) host() preflight.Host {
	h := preflight.ThisHost()
	h.Sysctls = f.sysctls
	return h
}

// settings are for this node's number of cores, whatever part of them we may
// use.
func (f *conntrackFlags) settings() []preflight.Setting {
	return f.Conntrack.Settings(runtime.NumCPU())
}
