package proxy

import (
	"runtime"
	"runtime/debug"
	"sync"
	"time"
)

// When memory is given back to the system.
const (
	releaseAfter  = 500 * time.Millisecond // without a further connection that is parked
	releaseWithin = 10 * time.Second       // although there are further ones
	releaseFrom   = 512                    // connections
	releaseEvery  = time.Minute            // at most
)

// memoryRelease gives back to the system what many connections have left when they
// were parked: the runtime would keep as much room as there is in use, until it is
// full again. It is for a time when little happens, if one comes soon, and for a number of parked
// connections that has grown by half. The zero value is ready.
type memoryRelease struct {
	mu    sync.Mutex // protects the following
	timer *time.Timer
	now   int       // parked connections
	then  int       // of them, at the last release or fewer
	next  time.Time // not before
	since time.Time // when there were enough for a release; zero: none is due
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
	now := time.Now()
	if r.since.IsZero() {
		r.since = now
	}
	wait := max(min(releaseAfter, r.since.Add(releaseWithin).Sub(now)), r.next.Sub(now))
	if r.timer == nil {
		r.timer = time.AfterFunc(wait, r.release)
	} else {
		r.timer.Reset(wait)
	}
}

func (r *memoryRelease) release() {
	r.mu.Lock()
	if r.since.IsZero() { // put off when it was under way already
		r.mu.Unlock()
		return
	}
	r.then, r.next, r.since = r.now, time.Now().Add(releaseEvery), time.Time{}
	r.mu.Unlock()
	runtime.GC() // of what is in pools the second one frees most
	debug.FreeOSMemory()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.count++
}
