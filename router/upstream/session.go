package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/portico-ingress/portico/router/view"
	"github.com/portico-ingress/portico/router/wire/h2"
)

// What one HTTP/2 connection to a backend carries.
const (
	sessionStreams = 250 // at once, unless the backend allows fewer
	// streamWindow is what a client that reads slowly makes us hold. The
	// connection's window is large enough for all streams, so that none of
	// them holds up the others.
	streamWindow  = 64 << 10
	sessionWindow = sessionStreams * streamWindow
	sessionOut    = 64 << 10 // bytes that wait for the connection before streams wait too
)

// How a silent connection with streams on it is told from a dead one.
const (
	pingAfter = time.Minute
	pongWait  = 15 * time.Second
)

// session drives wire/h2 on one connection to a backend. One goroutine reads;
// one writes, while there is something to write. Nobody who holds mu takes
// address.mu.
type session struct {
	lane   *lane          // const
	nc     net.Conn       // const
	remote netip.AddrPort // const

	mu       sync.Mutex // protects the following, and what is in the calls
	conn     *h2.Conn
	settings chan struct{} // closed when the backend's settings have come, or nothing will
	open     bool          // settings is not closed
	writing  bool          // a goroutine writes
	waiting  []*call       // for room in the buffer
	leaving  bool          // no further stream
	expiring bool          // leaves when its streams end
	busy     bool          // streams are open
	closing  bool          // to be closed when everything is sent
	lost     error         // why nothing can be sent or received any more
	armed    time.Time     // the read deadline
	lastRead time.Time
	idle     time.Time // when the last stream ended
	pinged   time.Time // zero: no answer is due
}

func newSession(l *lane, nc net.Conn, remote netip.AddrPort) *session {
	now := time.Now()
	s := &session{lane: l, nc: nc, remote: remote, settings: make(chan struct{}), open: true, lastRead: now, idle: now}
	s.conn = h2.New(h2.Options{Client: true, Limits: &l.addr.reg.opts.Limits, StreamWindow: streamWindow, ConnWindow: sessionWindow}, s)
	s.flush()
	go s.read()
	return s
}

// settled waits for the backend's settings, and says why there are none.
func (s *session) settled(ctx context.Context) error {
	select {
	case <-s.settings:
	case <-ctx.Done():
		return fmt.Errorf("the backend does not speak HTTP/2: %w", context.Cause(ctx))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.lost != nil:
		return s.lost
	case !s.conn.CanOpen():
		return errors.New("the backend allows no requests on an HTTP/2 connection")
	}
	return nil
}

// begin opens a stream, or returns nil if there is no room for it.
func (s *session) begin(ctx context.Context, req *Request) *call {
	fresh := s.lane.addr.key.host == "" || s.current(ctx)
	if !fresh && ctx.Err() != nil {
		return nil // the client did not wait for the answer
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !fresh {
		s.leaveLocked()
	}
	if s.leaving {
		go s.lane.drop(s) // in case it left before it was on the list
	}
	if !s.room() {
		return nil
	}
	st, err := s.conn.Open(req.streamHead(s.lane.way.scheme()), req.Length == 0)
	if err != nil {
		return nil
	}
	now := time.Now()
	c := newCall(ctx, s, st, req, now)
	s.busy = true
	s.arm(now)
	s.flush()
	return c
}

// room reports whether another stream may be opened. mu is held.
func (s *session) room() bool {
	return !s.leaving && s.conn.Streams() < sessionStreams && s.conn.CanOpen()
}

// current reports whether the name still leads to where s is connected.
func (s *session) current(ctx context.Context) bool {
	c := conn{lane: s.lane, remote: s.remote}
	return c.current(ctx)
}

// read feeds the connection until it ends.
func (s *session) read() {
	buf := make([]byte, bufferSize)
	r, w := 0, 0
	for {
		n, err := s.nc.Read(buf[w:])
		w += n
		if n == 0 && err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) && s.patient() {
				continue
			}
			s.end(err)
			return
		}
		n, err = s.feed(buf[r:w])
		if err != nil {
			s.end(err)
			return
		}
		if r += n; r == w {
			r, w = 0, 0
		} else if len(buf)-w < bufferSize/2 { // at most one frame is left over
			w = copy(buf, buf[r:w])
			r = 0
		}
	}
}

// feed takes received bytes, and sends what they lead to.
func (s *session) feed(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	s.lastRead, s.pinged = now, time.Time{}
	n, err := s.conn.Feed(p, now.UnixNano())
	if err != nil {
		s.flush() // GOAWAY says why
		return n, fmt.Errorf("the backend broke HTTP/2: %w", err)
	}
	s.rest(now)
	s.arm(now)
	s.flush()
	return n, nil
}

// rest notes that no stream is open any more. mu is held.
func (s *session) rest(now time.Time) {
	if s.lane.seeking.Load() > 0 && s.room() {
		go s.lane.next() // which has a lock that is taken first
	}
	if s.conn.Streams() > 0 {
		return
	}
	if s.busy {
		s.busy, s.idle = false, now
	}
	if s.leaving || s.expiring && s.idle.Equal(now) {
		s.leaveLocked()
		s.goodbye()
	}
}

// deadline is until when something must come. mu is held.
func (s *session) deadline() time.Time {
	switch {
	case !s.pinged.IsZero():
		return s.pinged.Add(pongWait)
	case s.conn.Streams() > 0:
		return s.lastRead.Add(pingAfter)
	}
	return s.idle.Add(s.lane.addr.reg.opts.Timeouts.KeepAlive)
}

// arm sets the read deadline, if the one that is set is too late: one that is
// too early only looks at the clock again. mu is held.
func (s *session) arm(now time.Time) {
	d := s.deadline()
	if s.armed.Before(now) || d.Before(s.armed) {
		s.armed = d
		s.nc.SetReadDeadline(d)
	}
}

// patient decides at a deadline whether the connection may stay.
func (s *session) patient() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if s.lost != nil {
		return false
	}
	if !now.Before(s.deadline()) {
		switch {
		case !s.pinged.IsZero():
			return false
		case s.conn.Streams() > 0:
			s.conn.Ping()
			s.pinged = now
		default:
			s.leaveLocked()
		}
	}
	s.armed = time.Time{}
	s.arm(now)
	s.flush()
	return true
}

// expire has it leave when the streams end that are begun within a second.
func (s *session) expire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expiring = true
	if !s.busy {
		now := time.Now()
		s.idle = now.Add(time.Second - s.lane.addr.reg.opts.Timeouts.KeepAlive)
		s.arm(now)
	}
}

// leave has the connection end with its last stream.
func (s *session) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leaveLocked()
}

func (s *session) leaveLocked() {
	if s.leaving {
		return
	}
	s.leaving = true
	go s.lane.drop(s) // which has a lock that is taken first
	if s.conn.Streams() == 0 {
		s.goodbye()
	}
}

// goodbye closes a connection without streams. mu is held.
func (s *session) goodbye() {
	if s.closing || s.lost != nil {
		return
	}
	s.closing = true
	s.conn.GoAway()
	s.flush()
}

// end is the end of reading.
func (s *session) end(why error) {
	s.mu.Lock()
	writing := s.writing
	s.closing = true // a writer at work sends what there is, and closes
	s.mu.Unlock()
	if writing {
		s.nc.SetWriteDeadline(time.Now().Add(time.Second))
	}
	s.lose(why)
}

// lose ends the connection; requests that are under way learn why.
func (s *session) lose(why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.loseLocked(why)
}

func (s *session) loseLocked(why error) {
	if s.lost != nil {
		return
	}
	s.lost = why
	if !s.leaving {
		s.leaving = true
		go s.lane.drop(s)
	}
	s.conn.Abandon(why.Error())
	s.wake()
	s.arrived()
	if !s.writing {
		closeQuietly(s.nc)
	}
}

func (s *session) arrived() {
	if s.open {
		s.open = false
		close(s.settings)
	}
}

// flush starts the writer if there is something to do for it. mu is held.
func (s *session) flush() {
	if s.writing || s.lost != nil || len(s.conn.Out()) == 0 {
		return
	}
	s.writing = true
	go s.write()
}

// write sends all that there is, as often as there is more.
func (s *session) write() {
	runtime.Gosched() // streams that are ready add their frames: one write for all
	s.mu.Lock()
	defer s.mu.Unlock()
	var used []byte
	for len(s.conn.Out()) > 0 {
		out := s.conn.TakeOut(used)
		if s.lost == nil {
			s.nc.SetWriteDeadline(time.Now().Add(s.lane.addr.reg.opts.Timeouts.Stall))
		}
		s.mu.Unlock()
		_, err := s.nc.Write(out)
		s.mu.Lock()
		used = out
		s.wake()
		if err != nil {
			s.loseLocked(err)
			break
		}
	}
	s.writing = false
	if s.closing || s.lost != nil {
		closeQuietly(s.nc)
	}
}

// wake lets the requests go on that waited for room. mu is held.
func (s *session) wake() {
	for _, c := range s.waiting {
		c.writable.ring()
	}
	s.waiting = s.waiting[:0]
}

// closeQuietly closes without a farewell, which could wait for a backend that
// takes nothing.
func closeQuietly(nc net.Conn) {
	if tc, ok := nc.(interface{ NetConn() net.Conn }); ok {
		nc = tc.NetConn()
	}
	nc.Close()
}

// The methods of h2.Handler run in the goroutine that calls the h2.Conn, with
// mu held.

// Head implements h2.Handler.
func (s *session) Head(st *h2.Stream, h *h2.Head, end bool) {
	c := st.Owner.(*call)
	c.answered = true
	switch {
	case h.Status >= 200:
		c.head, c.ended = h, end
	case c.informs < maxInformational:
		c.informs++
		c.informed = append(c.informed, h)
	default:
		st.Reset(h2.EnhanceYourCalm)
		c.err = &h2.StreamError{Code: h2.EnhanceYourCalm, Detail: "informational responses without end"}
	}
	c.readable.ring()
}

// Data implements h2.Handler.
func (s *session) Data(st *h2.Stream, p []byte) {
	c := st.Owner.(*call)
	if c.over {
		st.Consume(len(p))
		return
	}
	c.body.Put(p)
	c.readable.ring()
}

// End implements h2.Handler.
func (s *session) End(st *h2.Stream, trailers view.Fields) {
	c := st.Owner.(*call)
	c.ended, c.trailers = true, trailers
	c.readable.ring()
}

// Closed implements h2.Handler.
func (s *session) Closed(st *h2.Stream, err *h2.StreamError) {
	c := st.Owner.(*call)
	c.err = err
	c.readable.ring()
	c.writable.ring()
}

// Writable implements h2.Handler.
func (s *session) Writable(st *h2.Stream) { st.Owner.(*call).writable.ring() }

// Malformed implements h2.Handler. It is about streams that nobody owns any
// more.
func (s *session) Malformed(string) {}

// Settings implements h2.Handler.
func (s *session) Settings() { s.arrived() }

// Noticed implements h2.Handler. Nothing is noticed here: a client needs no
// notice to go.
func (s *session) Noticed() {}

// GoAway implements h2.Handler. Streams up to the last go on.
func (s *session) GoAway(uint32, h2.Code) {
	if !s.leaving {
		s.leaving = true
		go s.lane.drop(s)
	}
}

// Pong implements h2.Handler.
func (s *session) Pong() {}
