//go:build linux

package cluster

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// serveMachine runs the supervisor in this process, without namespaces, until
// the test ends. It takes any child of this process: tests that start processes
// do not run in parallel.
func serveMachine(t *testing.T) *Machine {
	t.Helper()
	dir := t.TempDir()
	listener, err := net.Listen("unix", filepath.Join(dir, socketFile))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		supervise(listener)
	}()
	t.Cleanup(func() {
		listener.Close()
		<-done
	})
	return &Machine{Name: "test", dir: dir}
}

func TestSupervise(t *testing.T) {
	m := serveMachine(t)
	ctx := t.Context()
	start := func(name string, script string) {
		t.Helper()
		if err := m.Start(ctx, Process{Name: name, Args: []string{"/bin/sh", "-c", script}}); err != nil {
			t.Fatal(err)
		}
	}
	ended := func(name, want string) {
		t.Helper()
		err := poll(ctx, func(ctx context.Context) error {
			got, err := m.Ended(ctx, name)
			if err == nil && got != want {
				return os.ErrDeadlineExceeded
			}
			return err
		})
		if err != nil {
			t.Errorf("%s has not %s", name, want)
		}
	}
	start("fails", "echo what is wrong; exit 7")
	ended("fails", "exited with code 7")
	start("runs", "echo begun; exec sleep 600")
	if err := m.Start(ctx, Process{Name: "runs", Args: []string{"/bin/true"}}); err == nil || !strings.Contains(err.Error(), "running already") {
		t.Errorf("a second process of the same name: %v", err)
	}
	if err := m.Signal(ctx, "runs", syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	ended("runs", "killed by SIGKILL")
	if err := m.Signal(ctx, "runs", syscall.SIGTERM); err == nil || !strings.Contains(err.Error(), "has ended: killed by SIGKILL") {
		t.Errorf("a signal to a process that has ended: %v", err)
	}
	if err := m.Restart(ctx, "runs"); err != nil {
		t.Fatal(err)
	}
	ended("runs", "")
	if err := m.Stop(ctx, "runs"); err != nil {
		t.Fatal(err)
	}
	ended("runs", "killed by SIGTERM")
	if _, err := m.Ended(ctx, "other"); err == nil || !strings.Contains(err.Error(), "no process named other") {
		t.Errorf("a process that never was: %v", err)
	}
	if err := m.Start(ctx, Process{Name: "missing", Args: []string{"/does/not/exist"}}); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("a program that does not exist: %v", err)
	}
}

// A component that ends is blamed at once, with its last words.
func TestAwait(t *testing.T) {
	m := serveMachine(t)
	never := func(context.Context) error { return os.ErrNotExist }
	if err := m.Start(t.Context(), Process{Name: "etcd", Args: []string{"/bin/sh", "-c", "echo disk full; exit 1"}}); err != nil {
		t.Fatal(err)
	}
	err := m.await(t.Context(), "etcd", never)
	for _, words := range []string{"etcd on test", "exited with code 1", "disk full"} {
		if err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("got %v, want %q in it", err, words)
		}
	}
	if err := m.Start(t.Context(), Process{Name: "slow", Args: []string{"/bin/sleep", "600"}}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := m.await(ctx, "slow", never); err != context.DeadlineExceeded {
		t.Errorf("interrupted: %v", err)
	}
	if err := m.Stop(t.Context(), "slow"); err != nil {
		t.Error(err)
	}
}

func TestTail(t *testing.T) {
	file := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(file, []byte("a\nb\nc\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := tail(file, 2); got != "  b\n  c" {
		t.Errorf("got %q", got)
	}
	if got := tail(file+".gone", 2); !strings.Contains(got, "no such file") {
		t.Errorf("got %q", got)
	}
}

func TestRemoveTree(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "portico0-node1")
	if err := os.MkdirAll(filepath.Join(dir, "kubepods", "pod1"), 0o755); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second finds nothing
		if err := removeTree(dir); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("it is still there")
	}
}
