package proxy

import (
	"runtime"
	"runtime/debug"
	"sync"
	"time"
)

// When memory is given back to the system.
const (
	releaseAfter = 500 * time.Millisecond // without a further connection that is parked
	releaseFrom  = 512                    // connections
	releaseEvery = time.Minute            // at most
)

// memoryRelease gives back to the system what many connections have left when they
// were parked: the runtime would keep as much room as there is in use, until it is
// full again. It is for a time when little happens, and for a number of parked
// connections that has grown by half. The zero value is ready.
type memoryRelease struct {
	mu    sync.Mutex // protects the following
	timer *time.Timer
	now   int       // parked connections
	then  int       // of them, at the last release or fewer
	next  time.Time // not before
	count int       // of releases
}

// note tells how many connections are parked.
func (r *memoryRelease) note(parked int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	more := parked > r.now
	r.now, r.then = parked, min(r.then, parked)
	if !more || parked < r.then+r.then/2+releaseFrom {
		return
	}
	wait := max(releaseAfter, time.Until(r.next))
	if r.timer == nil {
		r.timer = time.AfterFunc(wait, r.release)
	} else {
		r.timer.Reset(wait)
	}
}

func (r *memoryRelease) release() {
	runtime.GC() // of what is in pools the second one frees most
	debug.FreeOSMemory()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.then, r.next = r.now, time.Now().Add(releaseEvery)
	r.count++
}
