//go:build linux

package preflight

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Conntrack is how the table of connections is to be set; what is 0 is left as
// it is. Meaning and defaults are those of kube-proxy's flags.
type Conntrack struct {
	// MaxPerCore is how many connections to track for each core, and Min how
	// many at least; both 0: as the kernel has it.
	MaxPerCore, Min int
	// How long idle TCP connections are remembered: established ones, and
	// those that the peer has closed.
	Established, CloseWait time.Duration
	// The same for UDP, and for UDP with answers.
	UDP, UDPStream time.Duration
	// Liberal has packets outside of the window of a TCP connection taken as
	// its own, not as invalid.
	Liberal bool
}

// mostTracked is kube-proxy's limit on what a number of cores may ask for.
const mostTracked = 1 << 20

// DefaultConntrack is kube-proxy's default.
func DefaultConntrack() Conntrack {
	return Conntrack{MaxPerCore: 32 << 10, Min: 128 << 10, Established: 24 * time.Hour, CloseWait: time.Hour}
}

// A Setting is what a sysctl should be. It is compared as a number.
type Setting struct {
	Path string // below /proc/sys
	Want int
	// AtLeast: more is as good.
	AtLeast bool
	// Grade is what another value is.
	Grade Grade
	// Why is what another value does.
	Why string
}

// Name is the setting as sysctl(8) writes it.
func (s Setting) Name() string { return strings.ReplaceAll(s.Path, "/", ".") }

func (s Setting) met(value int) bool { return value == s.Want || s.AtLeast && value > s.Want }

// Settings are what Write may set: those of the table of connections.
func (c Conntrack) Settings(cores int) []Setting {
	const dir = "net/netfilter/nf_conntrack_"
	var out []Setting
	add := func(name string, want int, atLeast bool, why string) {
		if want > 0 {
			out = append(out, Setting{dir + name, want, atLeast, Note, why})
		}
	}
	most := max(c.Min, min(c.MaxPerCore*cores, mostTracked))
	if c.MaxPerCore == 0 && c.Min == 0 {
		most = 0
	}
	add("max", most, true, "new connections are dropped when the table is full")
	add("buckets", most/4, true, "looking up connections takes longer")
	seconds := func(d time.Duration) int { return int(d / time.Second) }
	const idle = "idle connections are forgotten earlier or later than elsewhere"
	add("tcp_timeout_established", seconds(c.Established), false, idle)
	add("tcp_timeout_close_wait", seconds(c.CloseWait), false, idle)
	add("udp_timeout", seconds(c.UDP), false, idle)
	add("udp_timeout_stream", seconds(c.UDPStream), false, idle)
	if c.Liberal {
		add("tcp_be_liberal", 1, false, "packets outside of a window are not translated")
	}
	return out
}

// Routing lists the settings without which pods are not reached. They are the
// node's, and never written.
func (h Host) Routing() []Setting {
	out := []Setting{{"net/ipv4/ip_forward", 1, false, Defect, "connections to pods are not forwarded"}}
	if h.IPv6() {
		out = append(out, Setting{"net/ipv6/conf/all/forwarding", 1, false, Note, "IPv6 connections to pods are not forwarded"})
	}
	if len(h.bridges()) > 0 {
		out = append(out, Setting{"net/bridge/bridge-nf-call-iptables", 1, false, Note,
			"if pods are on a bridge (" + strings.Join(h.bridges(), ", ") + "), answers between two pods of it are not translated back, so that they cannot reach each other through a Service"})
	}
	return append(out, Setting{"net/ipv4/conf/all/route_localnet", 0, false, Note,
		"packets for 127/8 are routed: other tables may expose what listens at loopback; ours drops them"})
}

func (h Host) bridges() []string {
	found, _ := filepath.Glob(filepath.Join(h.Sys, "class/net/*/bridge"))
	for i, f := range found {
		found[i] = filepath.Base(filepath.Dir(f))
	}
	return found
}

// Check compares settings with what they should be.
func (h Host) Check(settings []Setting) []Finding {
	var out []Finding
	for _, s := range settings {
		value, err := h.number(s)
		subject := "sysctl " + s.Name()
		switch {
		case err != nil:
			out = append(out, Finding{Note, subject, fmt.Sprintf("cannot be read (%v); should be %d: else %s", err, s.Want, s.Why), ""})
		case s.met(value):
			out = append(out, Finding{Grade: Fine, Subject: subject, Message: strconv.Itoa(value)})
		default:
			out = append(out, Finding{s.Grade, subject, fmt.Sprintf("is %d, should be %d: %s", value, s.Want, s.Why), fmt.Sprintf("sysctl -w %s=%d", s.Name(), s.Want)})
		}
	}
	return out
}

// Write sets what is not as it should be, and reports each name that it set.
// What cannot be set is an error; the others are set all the same.
func (h Host) Write(settings []Setting) (set []string, err error) {
	var errs []error
	for _, s := range settings {
		value, err := h.number(s)
		if err == nil && s.met(value) {
			continue
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(h.Sysctls, s.Path), []byte(strconv.Itoa(s.Want)), 0)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s cannot be set to %d: %w", s.Name(), s.Want, err))
			continue
		}
		set = append(set, fmt.Sprintf("%s=%d", s.Name(), s.Want))
	}
	return set, errors.Join(errs...)
}

func (h Host) number(s Setting) (int, error) {
	text, err := h.sysctl(s.Path)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(text)
}
