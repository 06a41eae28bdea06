//go:build linux

// Package netns gives tests network namespaces of their own, without an uplink:
// what is done there, nobody else sees. It needs root.
package netns

import (
	"fmt"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Namespace is a network namespace that lives as long as its test, with a
// thread that works there.
type Namespace struct {
	tid  int
	work chan func() // to the thread
}

// New makes a namespace whose loopback interface is up.
func New(t testing.TB) *Namespace {
	t.Helper()
	n := &Namespace{work: make(chan func())}
	ready, ended := make(chan error), make(chan struct{})
	go n.run(ready, ended)
	if err := <-ready; err != nil {
		t.Fatalf("a network namespace: %v; these tests need root: make test-root", err)
	}
	t.Cleanup(func() { close(n.work); <-ended })
	n.IP(t, "link set lo up")
	return n
}

// run is the thread. It is never used for anything else, and ends with the
// goroutine that is locked to it.
func (n *Namespace) run(ready chan<- error, ended chan<- struct{}) {
	defer close(ended)
	runtime.LockOSThread()
	n.tid = unix.Gettid()
	err := unix.Unshare(unix.CLONE_NEWNET)
	ready <- err
	if err != nil {
		return
	}
	for f := range n.work {
		f()
	}
}

// Do runs f in the namespace: sockets that it opens, and commands that it
// starts, are there. One after another.
func (n *Namespace) Do(f func()) {
	done := make(chan struct{})
	n.work <- func() { defer close(done); f() }
	<-done
}

// Output runs a command in the namespace and returns what it prints.
func (n *Namespace) Output(name string, args ...string) (string, error) {
	var out []byte
	var err error
	n.Do(func() { out, err = exec.Command(name, args...).CombinedOutput() })
	if err != nil {
		err = fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return string(out), err
}

// Run runs a command that must succeed, and returns what it prints.
func (n *Namespace) Run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := n.Output(name, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// IP runs ip(8) for each line.
func (n *Namespace) IP(t testing.TB, lines ...string) {
	t.Helper()
	for _, l := range lines {
		n.Run(t, "ip", strings.Fields(l)...)
	}
}

// Link joins two namespaces with a pair of interfaces that are up.
func Link(t testing.TB, a *Namespace, nameA string, b *Namespace, nameB string) {
	t.Helper()
	a.IP(t, "link add "+nameA+" type veth peer name "+nameB+" netns "+strconv.Itoa(b.tid))
	a.IP(t, "link set "+nameA+" up")
	b.IP(t, "link set "+nameB+" up")
}

// Set writes a sysctl of the namespace, named as a path below /proc/sys/net.
func (n *Namespace) Set(t testing.TB, name, value string) {
	t.Helper()
	n.Run(t, "sh", "-c", `printf %s "$2" > "/proc/sys/net/$1"`, "sh", name, value)
}
