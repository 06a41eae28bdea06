package main

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr/funcr"

	"github.com/portico-ingress/portico/router/admin"
)

// TestUnready: what is waited for is logged, less and less often, until it came.
func TestUnready(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lines []string
		log := funcr.New(func(_, args string) { lines = append(lines, args) }, funcr.Options{})
		var ready atomic.Bool
		checks := func() []admin.Check {
			return []admin.Check{{Name: "services", Ready: ready.Load(), Detail: "forbidden"}, {Name: "table", Ready: true, Detail: "fine"}}
		}
		ctx, end := context.WithCancel(t.Context())
		defer end()
		done := make(chan struct{})
		go func() { defer close(done); announceUnready(ctx, checks, log) }()
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(lines) != 2 || !strings.Contains(lines[0], "services: forbidden") || strings.Contains(lines[0], "fine") {
			t.Errorf("after a minute: %q", lines)
		}
		ready.Store(true)
		<-done
		if len(lines) != 2 {
			t.Errorf("once ready: %q", lines)
		}
	})
}
