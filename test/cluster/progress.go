//go:build linux

package cluster

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// progress tells a person how far Up is. It is safe for concurrent use.
type progress struct {
	started time.Time

	mu sync.Mutex
	w  io.Writer // mu is held while it is written to
}

func newProgress(w io.Writer) *progress {
	if w == nil {
		w = io.Discard
	}
	return &progress{started: time.Now(), w: w}
}

// say writes a line with the time since the start.
func (p *progress) say(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintf(p.w, "%5.1f s  %s\n", time.Since(p.started).Seconds(), fmt.Sprintf(format, args...))
}

// Write passes on what a script says.
func (p *progress) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.w.Write(b)
}
