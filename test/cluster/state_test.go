//go:build linux

package cluster

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCheckState(t *testing.T) {
	t.Setenv("PORTICO_CACHE", "/srv/cache")
	for state, want := range map[string]string{
		"":                       "/srv/cache/cluster",
		"/srv/a/../b":            "/srv/b",
		"/srv/run":               "/srv/run",
		"/runner":                "/runner",
		"/run":                   "error: cannot be in /run",
		"/var/lib/x":             "error: cannot be in /var/lib",
		"/sys/fs/x":              "error: cannot be in /sys",
		strings.Repeat("/a", 36): "error: longer than 70 bytes",
	} {
		got, err := checkState(state)
		if words, wantErr := strings.CutPrefix(want, "error: "); wantErr {
			if err == nil || !strings.Contains(err.Error(), words) {
				t.Errorf("%s: got %q, %v; want an error with %q", state, got, err, words)
			}
		} else if got != want || err != nil {
			t.Errorf("%s: got %q, %v; want %q", state, got, err, want)
		}
	}
}

// Down must not remove what is no cluster's.
func TestClearForeignFolder(t *testing.T) {
	state := filepath.Join(t.TempDir(), "home")
	if err := os.MkdirAll(filepath.Join(state, "documents"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := clear(t.Context(), state); err == nil || !strings.Contains(err.Error(), "will not be removed") {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(filepath.Join(state, "documents")); err != nil {
		t.Error(err)
	}
}

// What a killed Up leaves as its first traces is removed.
func TestClear(t *testing.T) {
	for name, record := range map[string]string{
		"no folder": "-", "empty folder": "", "record cut off": `{"Network":`, "record without network": `{"Network":-1,"Nodes":2}`,
	} {
		state := filepath.Join(t.TempDir(), "cluster")
		if record != "-" {
			if err := os.Mkdir(state, 0o700); err != nil {
				t.Fatal(err)
			}
		}
		if len(record) > 1 {
			if err := os.WriteFile(filepath.Join(state, recordFile), []byte(record), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if err := clear(t.Context(), state); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Stat(state); err == nil {
			t.Errorf("%s: the folder is still there", name)
		}
	}
}

func TestLock(t *testing.T) {
	state := filepath.Join(t.TempDir(), "cluster")
	unlock, err := lock(t.Context(), state)
	if err != nil {
		t.Fatal(err)
	}
	done, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := lock(done, state); err == nil || !strings.Contains(err.Error(), "by another program") {
		t.Errorf("a second lock: %v", err)
	}
	unlock()
	unlock, err = lock(t.Context(), state)
	if err != nil {
		t.Fatalf("after it was unlocked: %v", err)
	}
	unlock()
}

func TestOptions(t *testing.T) {
	for want, options := range map[string]Options{
		"10 nodes":        {Nodes: 10},
		"proxy \"ipvs\"":  {Proxy: "ipvs"},
		"cannot be in /r": {State: "/run/x"},
		"-1 nodes":        {Nodes: -1},
	} {
		if err := options.complete(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: got %v, want %q", options, err, want)
		}
	}
	t.Setenv("PORTICO_CACHE", "/srv/cache")
	var options Options
	if err := options.complete(); err != nil || options.Nodes != 2 || options.Proxy != ProxyNFTables || options.State != "/srv/cache/cluster" {
		t.Errorf("defaults: %+v, %v", options, err)
	}
}
