package proxy

import (
	"io"
	"net"
	"net/http"
	"net/textproto"
	"strconv"
	"sync"
	"time"

	"github.com/portico-ingress/portico/router/view"
	"github.com/portico-ingress/portico/router/wire"
)

// h2Stream is one HTTP/2 stream as a front.
type h2Stream struct {
	c       *h2Conn
	w       http.ResponseWriter
	rc      *http.ResponseController
	r       *http.Request
	pace    pace
	aborted bool
	wrote   bool // body bytes, which the client may be slow to take

	read, write alarm
}

func newH2Stream(c *h2Conn, w http.ResponseWriter, r *http.Request) *h2Stream {
	s := &h2Stream{c: c, w: w, rc: http.NewResponseController(w), r: r}
	s.pace.begin(&c.e.opts.Timeouts)
	s.read.ring = func() { s.rc.SetReadDeadline(longAgo) }
	s.write.ring = func() { s.rc.SetWriteDeadline(longAgo) }
	return s
}

// finish silences the alarms; the response writer dies with the handler.
func (s *h2Stream) finish() {
	s.read.stop()
	s.write.stop()
}

// Read implements upstream.Body.
func (s *h2Stream) Read(p []byte) (int, error) {
	s.read.set(time.Until(s.pace.deadline(time.Now())))
	n, err := s.r.Body.Read(p)
	s.read.stop()
	s.pace.got(n, time.Now())
	if err != nil && err != io.EOF {
		err = cutShort(err)
	}
	return n, err
}

// Trailers implements upstream.Body.
func (s *h2Stream) Trailers() view.Fields {
	var fs view.Fields
	for name, values := range s.r.Trailer {
		for _, v := range values {
			if wire.TrailerAllowed(name) && wire.ValidName(name) && wire.ValidValue(v) {
				fs = fs.Add(name, v)
			}
		}
	}
	return fs
}

// Close implements upstream.Body.
func (s *h2Stream) Close() error { return s.r.Body.Close() }

// Inform implements front. The library answers Expect itself when the body is
// first read, so a 100 of the backend is not passed on.
func (s *h2Stream) Inform(status int, fields view.Fields) error {
	if status == 100 {
		return nil
	}
	h := s.w.Header()
	addFields(h, fields)
	s.w.WriteHeader(status)
	clear(h)
	return s.r.Context().Err()
}

// Begin implements front.
func (s *h2Stream) Begin(head *responseHead) error {
	s.pace.talk.Store(true)
	h := s.w.Header()
	addFields(h, head.Fields)
	delete(h, "Trailer") // the library would take header fields for trailers
	for _, name := range [...]string{"Content-Type", "Date"} {
		if _, ok := h[name]; !ok {
			h[name] = nil // not for the library to guess
		}
	}
	if head.Length >= 0 && head.Status != http.StatusNoContent {
		h["Content-Length"] = []string{strconv.FormatInt(head.Length, 10)}
	}
	if s.c.nc.answered() {
		h["Connection"] = []string{"close"} // becomes the last GOAWAY
	}
	s.w.WriteHeader(head.Status)
	return nil
}

func addFields(h http.Header, fields view.Fields) {
	for _, f := range fields {
		name := textproto.CanonicalMIMEHeaderKey(f.Name)
		h[name] = append(h[name], f.Value)
	}
}

// Write implements front. A client that opens no window for WriteStall loses
// the stream.
func (s *h2Stream) Write(p []byte) error {
	s.write.set(s.c.e.opts.Timeouts.WriteStall)
	defer s.write.stop()
	s.wrote = true
	_, err := s.w.Write(p)
	return err
}

// Flush implements front.
func (s *h2Stream) Flush() error {
	s.write.set(s.c.e.opts.Timeouts.WriteStall)
	defer s.write.stop()
	return s.rc.Flush()
}

// End implements front.
func (s *h2Stream) End(trailers view.Fields) error {
	for _, f := range trailers {
		s.w.Header().Add(http.TrailerPrefix+f.Name, f.Value)
	}
	if s.wrote {
		if err := s.Flush(); err != nil {
			return err
		}
	}
	return s.r.Context().Err()
}

// Abort implements front.
func (s *h2Stream) Abort() { s.aborted = true }

// Tunnel implements front. HTTP/2 has no Upgrade, so none was ever offered.
func (s *h2Stream) Tunnel(*responseHead) (net.Conn, error) { return nil, http.ErrNotSupported }

// alarm calls ring if it is not stopped in time.
type alarm struct {
	ring func() // const

	mu    sync.Mutex // protects the following, and ring runs under it
	timer *time.Timer
	until time.Time // zero: off
}

func (a *alarm) set(d time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.until = time.Now().Add(d)
	if a.timer == nil {
		a.timer = time.AfterFunc(d, a.fire)
	} else {
		a.timer.Reset(d)
	}
}

func (a *alarm) fire() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.until.IsZero() && !time.Now().Before(a.until) {
		a.ring()
	}
}

// stop puts the alarm off. When it returns, ring does not run; a fire that is
// on its way finds the alarm off, or set to a later time.
func (a *alarm) stop() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.until = time.Time{}
	if a.timer != nil {
		a.timer.Stop()
	}
}
