//go:build e2e && linux

package cluster_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/portico-ingress/portico/test/cluster"
)

// A stock is what a cluster may not leave behind on the computer, or change
// for it: sorted lines by kind.
type stock map[string][]string

// sysctls are those of the whole computer that kubelet or kube-proxy would set.
var sysctls = []string{
	"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops", "kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes",
	"net/ipv4/ip_forward", "net/netfilter/nf_conntrack_max",
}

func takeStock(t *testing.T) stock {
	t.Helper()
	s := stock{}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		fields := strings.Fields(line)
		s["mounts"] = append(s["mounts"], fields[4])
	}
	s["named namespaces"] = glob(t, "/run/netns/*")
	s["machines"] = slices.DeleteFunc(glob(t, "/proc/[0-9]*/cmdline"), func(path string) bool {
		line, _ := os.ReadFile(path) // of a process that has ended, none
		return !strings.HasPrefix(string(line), "portico-machine\x00"+statePrefix())
	})
	s["links"] = slices.DeleteFunc(glob(t, "/sys/class/net/portico*"), others)
	s["cgroups"] = cgroups(t)
	// That of the first thread, which Machine.DialContext must leave alone.
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	s["network of the test"] = []string{own}
	for _, key := range sysctls {
		value, err := os.ReadFile(filepath.Join("/proc/sys", key))
		s["sysctls"] = append(s["sysctls"], fmt.Sprintf("%s = %s %v", key, value, err))
	}
	for _, lines := range s {
		slices.Sort(lines)
	}
	return s
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	paths, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

// others tells whether a link is of a cluster that is not of these tests: one
// may be up at the same time.
func others(link string) bool {
	alias, err := os.ReadFile(filepath.Join(link, "ifalias"))
	return err == nil && len(alias) > 1 && !strings.HasPrefix(string(alias), statePrefix())
}

// cgroups returns those with our name, in every hierarchy.
func cgroups(t *testing.T) (found []string) {
	t.Helper()
	err := filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		network, _, ok := strings.Cut(d.Name(), "-node")
		if err == nil && ok && strings.HasPrefix(network, "portico") && !others(filepath.Join("/sys/class/net", network)) {
			found = append(found, path)
		}
		return nil // others' cgroups come and go
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func (s stock) compare(t *testing.T, after stock) {
	t.Helper()
	for kind := range after {
		if !slices.Equal(s[kind], after[kind]) {
			t.Errorf("%s differ\nbefore %q\nafter  %q", kind, s[kind], after[kind])
		}
	}
}

// processes are some, by pid and the time they were started at, and the
// network namespaces they are in.
type processes map[string]string

// descendants returns every process in the machines of the cluster.
func descendants(t *testing.T, c *cluster.Cluster) processes {
	t.Helper()
	parents := map[string]string{} // pid → its parent's
	machine := map[string]bool{}
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range dirs {
		line, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		machine[filepath.Base(dir)] = strings.HasPrefix(string(line), "portico-machine\x00"+c.State()+"\x00")
		if fields := stat(dir); fields != nil {
			parents[filepath.Base(dir)] = fields[1]
		}
	}
	found := processes{}
	for pid := range parents {
		for above := pid; above != ""; above = parents[above] {
			if machine[above] {
				found[pid] = startOf(pid)
				break
			}
		}
	}
	// Three first processes, four of the control plane, three a node, and pods.
	if len(found) < 16 {
		t.Fatalf("only %d processes found: %v", len(found), found)
	}
	return found
}

// stat returns the fields of /proc/PID/stat after the name: state, parent, ….
func stat(dir string) []string {
	content, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return nil
	}
	return strings.Fields(string(content[strings.LastIndex(string(content), ")")+1:]))
}

// startOf returns when a process was started; empty if there is none or only a
// zombie, whose parent has yet to collect it.
func startOf(pid string) string {
	fields := stat(filepath.Join("/proc", pid))
	if fields == nil || fields[0] == "Z" {
		return ""
	}
	return fields[19]
}

func (p processes) checkGone(t *testing.T) {
	t.Helper()
	for pid, started := range p {
		if started != "" && startOf(pid) == started {
			line, _ := os.ReadFile(filepath.Join("/proc", pid, "cmdline"))
			t.Errorf("process %s is still there: %q", pid, line)
		}
	}
}
