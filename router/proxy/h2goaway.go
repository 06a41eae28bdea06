package proxy

import (
	"crypto/tls"
	"encoding/binary"
	"net"
	"sync"

	"golang.org/x/net/http2"
)

// tlsConn is what HTTP/2 is spoken over: browsers negotiate it by TLS only.
type tlsConn interface {
	net.Conn
	ConnectionState() tls.ConnectionState
}

// farewell is a client connection as the HTTP/2 library sees it. The library
// ends a connection in one step, with a GOAWAY that names the last stream it has
// seen; a request that is on its way at that moment is lost unless the client
// sends it again. RFC 9113 §6.8 wants two steps: first a GOAWAY that names no
// stream, and the other one a round trip later. The first step is done here, by
// slipping frames between those of the library.
type farewell struct {
	tlsConn
	in frames // what the client sends; owned by who reads

	mu    sync.Mutex // protects the following, and orders writes
	out   frames     // what the library sends
	asked bool       // that the notice be sent
	sent  bool

	silent chan struct{} // closed when the client has answered the notice
	gone   chan struct{} // closed when the connection has ended
}

// The notice is a GOAWAY with the highest stream number, and a PING: when that
// is answered, the client has seen the GOAWAY.
var notice = []byte{
	0, 0, 8, byte(http2.FrameGoAway), 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0,
	0, 0, 8, byte(http2.FramePing), 0, 0, 0, 0, 0, 'f', 'a', 'r', 'e', 'w', 'e', 'l', 'l',
}

var noticed = [frameHead + 8]byte{0, 0, 8, byte(http2.FramePing), byte(http2.FlagPingAck), 0, 0, 0, 0, 'f', 'a', 'r', 'e', 'w', 'e', 'l', 'l'}

func newFarewell(c tlsConn) *farewell {
	f := &farewell{tlsConn: c, silent: make(chan struct{}), gone: make(chan struct{})}
	f.in.left = len(http2.ClientPreface)
	return f
}

// ask sends the notice, once, as soon as no other frame is under way. It may
// block as a write may.
func (f *farewell) ask() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = true
	if f.sent || !f.out.boundary() || f.out.count == 0 { // the first frame is SETTINGS
		return
	}
	f.sent = true
	_, _ = f.tlsConn.Write(notice) // who writes or reads next sees the error
}

// answered reports whether the client knows that it should go.
func (f *farewell) answered() bool {
	select {
	case <-f.silent:
		return true
	default:
		return false
	}
}

// Write implements net.Conn.
func (f *farewell) Write(p []byte) (n int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	end := 0
	for end < len(p) {
		end += f.out.next(p[end:])
		if f.asked && !f.sent && f.out.boundary() {
			f.sent = true
			if n, err = f.tlsConn.Write(p[:end]); err != nil {
				return n, err
			}
			if _, err = f.tlsConn.Write(notice); err != nil {
				return n, err
			}
		}
	}
	if n == end {
		return n, nil
	}
	m, err := f.tlsConn.Write(p[n:])
	return n + m, err
}

// Read implements net.Conn.
func (f *farewell) Read(p []byte) (n int, err error) {
	n, err = f.tlsConn.Read(p)
	for rest := p[:n]; len(rest) > 0; {
		rest = rest[f.in.next(rest):]
		if f.in.boundary() && f.in.start == noticed && !f.answered() {
			close(f.silent)
		}
	}
	return n, err
}

const frameHead = 9

// frames follows a stream of HTTP/2 frames (RFC 9113 §4.1) as it passes.
type frames struct {
	start [frameHead + 8]byte // of the current frame, or of the last one
	have  int                 // bytes of it
	left  int                 // bytes of the payload to come
	open  bool                // a header block goes on in the next frame
	count int                 // complete frames
}

// boundary reports whether another frame may begin here.
func (f *frames) boundary() bool { return f.have == 0 && f.left == 0 && !f.open }

// next takes bytes up to the end of the current frame, and returns their number.
func (f *frames) next(p []byte) (n int) {
	if f.left == 0 {
		if f.have == 0 {
			f.start = [len(f.start)]byte{}
		}
		n = copy(f.start[f.have:frameHead], p)
		if f.have += n; f.have < frameHead {
			return n
		}
		f.left = int(binary.BigEndian.Uint32(f.start[:4]) >> 8)
	}
	m := min(f.left, len(p)-n)
	if f.have >= frameHead && f.have < len(f.start) {
		f.have += copy(f.start[f.have:], p[n:n+m])
	}
	if f.left -= m; f.left == 0 {
		f.end()
	}
	return n + m
}

// end is the end of a frame, or of the client's preface.
func (f *frames) end() {
	if f.have < frameHead {
		return // the preface
	}
	switch http2.FrameType(f.start[3]) {
	case http2.FrameHeaders, http2.FramePushPromise, http2.FrameContinuation:
		f.open = http2.Flags(f.start[4])&http2.FlagHeadersEndHeaders == 0
	}
	f.have = 0
	f.count++
}
