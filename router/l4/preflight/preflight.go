//go:build linux

// Package preflight looks at a node before anything is programmed on it: what
// its kernel offers, how it is set, and what other proxies left. It changes
// nothing but the settings that Write is given.
package preflight

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// A Finding is one thing that was looked at.
type Finding struct {
	Grade   Grade
	Subject string
	Message string
	// Remedy is the command or the setting that changes it; empty: none needed.
	Remedy string
}

// Grade is how bad a finding is.
type Grade int

// The grades.
const (
	Fine   Grade = iota
	Note         // works, but not as well as it could, or not everything
	Defect       // does not work
)

func (g Grade) String() string { return [...]string{"ok", "note", "FAULT"}[g] }

// Host is where a node shows its settings.
type Host struct {
	// Proc is where /proc is; Sysctls is where /proc/sys is, which a container
	// that may write it has elsewhere; Sys is where /sys is.
	Proc, Sysctls, Sys string
}

// ThisHost is the node that we are on.
func ThisHost() Host { return Host{Proc: "/proc", Sysctls: "/proc/sys", Sys: "/sys"} }

// oldest is the kernel that the layout needs.
const oldestMajor, oldestMinor = 5, 13

// Kernel looks at the version of the kernel and at what the process may do.
func (h Host) Kernel() []Finding {
	var out []Finding
	release, err := h.sysctl("kernel/osrelease")
	var major, minor int
	_, scanned := fmt.Sscanf(release, "%d.%d", &major, &minor)
	switch {
	case err != nil || scanned != nil:
		out = append(out, Finding{Note, "kernel", fmt.Sprintf("the version %q cannot be read", release), "Linux 5.13 or newer is needed"})
	case major < oldestMajor || major == oldestMajor && minor < oldestMinor:
		out = append(out, Finding{Defect, "kernel", "Linux " + release + " is too old", "use Linux 5.13 or newer"})
	default:
		out = append(out, Finding{Grade: Fine, Subject: "kernel", Message: "Linux " + release})
	}
	if h.hasNetAdmin() {
		return append(out, Finding{Grade: Fine, Subject: "privilege", Message: "CAP_NET_ADMIN"})
	}
	return append(out, Finding{Defect, "privilege", "the capability NET_ADMIN is missing",
		"run as root, or give the container securityContext.capabilities.add: [NET_ADMIN] and runAsUser: 0"})
}

// netAdmin is the number of CAP_NET_ADMIN.
const netAdmin = 12

func (h Host) hasNetAdmin() bool {
	status, err := os.ReadFile(filepath.Join(h.Proc, "self/status"))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(status)) {
		if mask, ok := strings.CutPrefix(line, "CapEff:"); ok {
			n, err := strconv.ParseUint(strings.TrimSpace(mask), 16, 64)
			return err == nil && n&(1<<netAdmin) != 0
		}
	}
	return false
}

// sysctl reads a setting, without the blanks around it.
func (h Host) sysctl(path string) (string, error) {
	text, err := os.ReadFile(filepath.Join(h.Sysctls, path))
	return strings.TrimSpace(string(text)), err
}

// IPv6 reports whether the node has IPv6 at all.
func (h Host) IPv6() bool {
	_, err := os.Stat(filepath.Join(h.Proc, "sys/net/ipv6"))
	return err == nil
}
