//go:build linux

package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// module is the main module, whose folder has the scripts and sources that a
// cluster is made of.
const module = "github.com/portico-ingress/portico"

// programs is where everything is that a cluster runs.
type programs struct {
	Root       string // folder of the main module
	Kube       string // folder with etcd and the programs of Kubernetes
	CoreDNS    string
	Containerd string
	CNI        string // folder with the plugins
}

func (p programs) kube(name string) string { return filepath.Join(p.Kube, name) }

// debian are the packages that the programs come from which are not built.
var debian = []struct{ program, pkg string }{
	{"containerd", "containerd"},
	{"containerd-shim-runc-v2", "containerd"},
	{"ctr", "containerd"},
	{"runc", "runc"},
	{"/usr/lib/cni/bridge", "containernetworking-plugins"},
	{"/usr/lib/cni/portmap", "containernetworking-plugins"},
	{"ip", "iproute2"},
	{"iptables", "iptables"}, // of portmap, which makes hostPort work
	{"nft", "nftables"},
	{"conntrack", "conntrack"},
	{"nsenter", "util-linux"},
}

// findPrograms installs and builds what is missing.
func findPrograms(ctx context.Context, say *progress) (programs, error) {
	if err := installPackages(ctx, say); err != nil {
		return programs{}, err
	}
	if err := bridgeFilter(ctx); err != nil {
		return programs{}, err
	}
	root, err := moduleRoot(ctx)
	if err != nil {
		return programs{}, err
	}
	p := programs{Root: root, CNI: "/usr/lib/cni"}
	if p.Containerd, err = exec.LookPath("containerd"); err != nil {
		return programs{}, err
	}
	if p.Kube, err = build(ctx, say, root, "kube"); err != nil {
		return programs{}, err
	}
	dns, err := build(ctx, say, root, "coredns")
	p.CoreDNS = filepath.Join(dns, "coredns")
	return p, err
}

// moduleRoot finds the sources from the working directory.
func moduleRoot(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	if err != nil {
		return "", fmt.Errorf("a cluster is built from the sources: run this in a clone of %s: %w", module, err)
	}
	return string(bytes.TrimSpace(out)), nil
}

// build returns the folder with a set of tools. The first time takes minutes.
func build(ctx context.Context, say *progress, root, set string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(root, "test", "tools", "assets.sh"), set)
	// The script's progress is shown; if nobody looks, what it said is the error.
	var said bytes.Buffer
	cmd.Stderr = io.MultiWriter(say, &said)
	// A control plane for tests that somebody has set would lack kubelet.
	cmd.Env = slices.DeleteFunc(os.Environ(), func(e string) bool { return strings.HasPrefix(e, "KUBEBUILDER_ASSETS=") })
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("building %s: %w\n%s", set, err, said.Bytes())
	}
	return string(bytes.TrimSpace(out)), nil
}

// missingPackages returns the packages whose programs are not there.
func missingPackages() []string {
	var missing []string
	for _, d := range debian {
		if _, err := exec.LookPath(d.program); err != nil && !slices.Contains(missing, d.pkg) {
			missing = append(missing, d.pkg)
		}
	}
	return missing
}

func installPackages(ctx context.Context, say *progress) error {
	missing := missingPackages()
	if len(missing) == 0 {
		return nil
	}
	names := strings.Join(missing, " ")
	if _, err := exec.LookPath("apt-get"); err != nil {
		return fmt.Errorf("programs of these packages (by their names in Debian) are missing: %s", names)
	}
	say.say("installing %s", names)
	for _, args := range [][]string{{"update"}, append([]string{"install", "--yes", "--no-install-recommends"}, missing...)} {
		cmd := exec.CommandContext(ctx, "apt-get", append([]string{"-qq"}, args...)...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("apt-get %s: %w\n%s\nInstall these packages, then try again: %s", args[0], err, bytes.TrimSpace(out), names)
		}
	}
	if missing := missingPackages(); len(missing) > 0 {
		return fmt.Errorf("installed, and yet their programs are not in PATH: %s", strings.Join(missing, " "))
	}
	return nil
}

// bridgeFilter loads the kernel module that nodeSysctls needs; many kernels
// have it built in.
func bridgeFilter(ctx context.Context) error {
	const proof = "/proc/sys/net/bridge/bridge-nf-call-iptables"
	if _, err := os.Stat(proof); err == nil {
		return nil
	}
	if out, err := exec.CommandContext(ctx, "modprobe", "br_netfilter").CombinedOutput(); err != nil {
		return fmt.Errorf("the kernel module br_netfilter is needed and cannot be loaded: %w: %s", err, bytes.TrimSpace(out))
	}
	_, err := os.Stat(proof)
	return err
}

// errNotRoot says what to do instead.
var errNotRoot = errors.New("a cluster needs root: it makes network namespaces, cgroups and containers. Run this with sudo, or without a cluster: make run")

func requireRoot() error {
	if os.Geteuid() != 0 {
		return errNotRoot
	}
	return nil
}
