package main

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"testing"
)

// TestBallast: garbage may grow before it is collected, but not where memory is
// scarce.
func TestBallast(t *testing.T) {
	defer func() { ballast = nil }()
	goal := func() uint64 {
		runtime.GC()
		s := []metrics.Sample{{Name: "/gc/heap/goal:bytes"}}
		metrics.Read(s)
		return s[0].Value.Uint64()
	}
	loadBallast()
	if got := goal(); got < 2*ballastSize {
		t.Errorf("the next collection is at %d bytes", got)
	}
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(64 << 20))
	loadBallast()
	if len(ballast) != 8<<20 {
		t.Errorf("of a limit of 64 MiB it takes %d", len(ballast))
	}
}
