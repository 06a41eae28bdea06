package upstream

import (
	"context"
	"errors"
	"slices"
	"time"
)

// maxSessions bounds the HTTP/2 connections of a lane: a backend that allows few
// requests on each is not to be drowned in them.
const maxSessions = 64

// maxDials bounds how many new sessions one request asks for: the backend may
// end each at once, or others fill them.
const maxDials = 16

// seeker is a request that waits for room on a session. It is called once, and
// is not in line any more then.
type seeker chan word

// word is what a seeker is told: to look again, if nothing is set.
type word struct {
	err  *Error   // why there is no session
	last *session // of a lane that is retired: for those who wait, and nobody else
}

// stream begins a request on a session that has room for it, on a new one if
// need be. Requests that find none wait in line, for one and the same new
// session or for another request's end.
func (l *lane) stream(ctx context.Context, req *Request) (*call, *Error) {
	if c, _ := l.begin(ctx, req); c != nil {
		return c, nil
	}
	// Twice what a dial takes: its failure is told before this is over.
	patience := time.NewTimer(2 * l.addr.reg.opts.Timeouts.Connect)
	defer patience.Stop()
	k := l.join(false)
	for dials := 0; dials < maxDials; k = l.join(true) {
		// There may be room since before it was in line.
		c, seen := l.begin(ctx, req)
		if c != nil {
			l.depart(k)
			return c, nil
		}
		if l.demand(seen) {
			dials++
		}
		said, err := l.listen(ctx, k, patience.C)
		if err != nil {
			return nil, err
		}
		if said.last != nil {
			if c := said.last.begin(ctx, req); c != nil {
				return c, nil
			}
		}
	}
	l.depart(k)
	return nil, l.noRoom(Broken)
}

// listen returns what a seeker is told.
func (l *lane) listen(ctx context.Context, k seeker, patience <-chan time.Time) (word, *Error) {
	select {
	case said := <-k:
		if said.err != nil {
			e := *said.err // several requests have it
			return said, &e
		}
		return said, nil
	case <-patience:
		l.depart(k)
		l.addr.reg.stats.overloaded.Add(1)
		return word{}, l.noRoom(Overloaded)
	case <-ctx.Done():
		l.depart(k)
		return word{}, &Error{Kind: Canceled, Endpoint: l.addr.name, Err: context.Cause(ctx)}
	}
}

func (l *lane) noRoom(kind Kind) *Error {
	return &Error{Kind: kind, Endpoint: l.addr.name, dialing: true, mismatch: true, Err: errors.New("no HTTP/2 connection has room for the request")}
}

// begin opens a stream on the first session with room, and returns how many it
// looked at.
func (l *lane) begin(ctx context.Context, req *Request) (*call, int) {
	l.addr.mu.Lock()
	sessions := l.sessions // never written
	l.addr.mu.Unlock()
	for _, s := range sessions {
		if c := s.begin(ctx, req); c != nil {
			return c, len(sessions)
		}
	}
	return nil, len(sessions)
}

// join puts a new seeker in line, in front if it was called already.
func (l *lane) join(again bool) seeker {
	l.addr.mu.Lock()
	defer l.addr.mu.Unlock()
	k := make(seeker, 1)
	if again {
		l.line(slices.Insert(l.seekers, 0, k))
	} else {
		l.line(append(l.seekers, k))
	}
	return k
}

// line sets who is in line. a.mu is held.
func (l *lane) line(seekers []seeker) {
	l.seekers = seekers
	l.seeking.Store(int32(len(seekers)))
}

// depart takes k out of line and calls the next one: there may be room for it
// too, or k was called and has not used it.
func (l *lane) depart(k seeker) {
	l.addr.mu.Lock()
	defer l.addr.mu.Unlock()
	if i := slices.Index(l.seekers, k); i >= 0 {
		l.line(slices.Delete(l.seekers, i, i+1))
	}
	l.callNext()
}

// next calls the first seeker to look again.
func (l *lane) next() {
	l.addr.mu.Lock()
	defer l.addr.mu.Unlock()
	l.callNext()
}

// callNext is next with a.mu held.
func (l *lane) callNext() {
	if len(l.seekers) > 0 {
		l.seekers[0] <- word{}
		l.line(slices.Delete(l.seekers, 0, 1))
	}
}

// callAll tells every seeker the same. a.mu is held.
func (l *lane) callAll(what word) {
	for _, k := range l.seekers {
		k <- what
	}
	l.line(nil)
}

// demand gets a new session, unless there is one that was not seen, or enough.
func (l *lane) demand(seen int) bool {
	l.addr.mu.Lock()
	defer l.addr.mu.Unlock()
	if n := len(l.sessions); l.dialing || n > seen || n >= maxSessions {
		return false
	}
	l.dialing = true
	go l.dialSession()
	return true
}

// dialSession is not any request's own: the others that wait would lose theirs
// when that one is cancelled.
func (l *lane) dialSession() {
	s, err := l.newSession()
	l.addr.mu.Lock()
	defer l.addr.mu.Unlock()
	l.dialing = false
	switch {
	case err != nil:
		l.callAll(word{err: err})
		l.dissolve()
	case l.retired:
		l.callAll(word{last: s})
		go s.expire()
	default:
		l.sessions = append(l.sessions[:len(l.sessions):len(l.sessions)], s)
		l.callNext()
	}
}

// newSession returns a session that takes requests.
func (l *lane) newSession() (*session, *Error) {
	// The timeout is no request's: its end would pass for that of a client.
	ctx, cancel := context.WithTimeout(context.Background(), l.addr.reg.opts.Timeouts.Connect)
	defer cancel()
	nc, remote, err := l.dial(context.Background())
	if err != nil {
		return nil, err
	}
	s := newSession(l, nc, remote)
	if cause := s.settled(ctx); cause != nil {
		s.lose(cause)
		return nil, l.addr.unreachable(context.Background(), cause, true)
	}
	return s, nil
}

// drop takes a session off the list.
func (l *lane) drop(s *session) {
	l.addr.mu.Lock()
	defer l.addr.mu.Unlock()
	if i := slices.Index(l.sessions, s); i >= 0 {
		l.sessions = slices.Concat(l.sessions[:i], l.sessions[i+1:])
		l.callNext()
		l.dissolve()
	}
}
