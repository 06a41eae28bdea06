package proxy

import (
	"context"
	"time"
)

// farewellWait bounds the wait for clients to answer that they have seen the
// first GOAWAY.
const farewellWait = time.Second

// goAway ends every HTTP/2 connection in two steps, and again those that were
// about to begin.
func (e *Engine) goAway(ctx context.Context) {
	again := time.NewTicker(farewellWait)
	defer again.Stop()
	for {
		e.askAll(ctx)
		e.h2cfg.Shutdown(ctx) // has no listeners, so it only tells connections
		select {
		case <-again.C:
		case <-ctx.Done():
			return
		}
	}
}

// askAll sends the notice on every connection and waits until all have answered,
// but not for those that do not.
func (e *Engine) askAll(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, farewellWait)
	defer cancel()
	all := e.allH2()
	for _, c := range all {
		go c.ask() // one that does not read must not hold up the others
	}
	for _, c := range all {
		select {
		case <-c.silent:
		case <-c.gone:
		case <-ctx.Done():
			return
		}
	}
}

func (e *Engine) allH2() (all []*farewell) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for c := range e.h2conns {
		all = append(all, c)
	}
	return all
}

func (e *Engine) trackH2(c *farewell) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.h2conns[c] = struct{}{}
}

func (e *Engine) untrackH2(c *farewell) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.h2conns, c)
	close(c.gone)
}
