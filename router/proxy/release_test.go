package proxy

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestMemoryRelease: memory is given back when many connections were parked, and
// again only when they are many more.
func TestMemoryRelease(t *testing.T) {
	r := &memoryRelease{}
	state := func() (count int, pending bool) {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.count, r.timer != nil && r.timer.Stop()
	}
	r.note(releaseFrom - 1)
	if _, pending := state(); pending {
		t.Error("few connections are enough")
	}
	r.note(releaseFrom)
	eventually(t, "memory is given back", func() bool { r.mu.Lock(); defer r.mu.Unlock(); return r.count == 1 })
	r.note(releaseFrom + 1)
	r.note(releaseFrom + releaseFrom/2 - 1 + releaseFrom)
	r.note(releaseFrom)
	if _, pending := state(); pending {
		t.Error("a few more are enough")
	}
	r.note(2*releaseFrom + releaseFrom/2)
	if _, pending := state(); !pending {
		t.Error("many more are not enough")
	}
}

// TestMemoryReleaseWhileBusy: connections that are parked one behind the other do not
// put it off for ever.
func TestMemoryReleaseWhileBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &memoryRelease{}
		for parked := releaseFrom; parked < 2*releaseFrom; parked++ {
			r.note(parked)
			time.Sleep(releaseAfter / 2)
		}
		if r.mu.Lock(); r.count != 1 {
			t.Errorf("memory was given back %d times", r.count)
		}
		r.mu.Unlock()
	})
}
