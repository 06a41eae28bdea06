package proxy

import (
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/net/http2"

	"github.com/portico-ingress/portico/test/backend"
)

// TestH2Floods: what costs the engine more than the client, without end, ends the
// connection before it has cost the backend much, and others are served.
func TestH2Floods(t *testing.T) {
	var reached atomic.Int64
	g := newRig(t, func(c *backend.Conn) {
		for {
			head, err := c.Head()
			if err != nil {
				return
			}
			if !strings.Contains(head, "/canary") {
				reached.Add(1)
				c.Wait()
				return
			}
			c.Send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
	})
	request := block(":method", "POST", ":scheme", "http", ":authority", "h", ":path", "/x")
	open := func(fr *http2.Framer, id uint32) error {
		return fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: request, EndHeaders: true})
	}
	for name, next := range map[string]func(fr *http2.Framer, n uint32) error{
		"SETTINGS":       func(fr *http2.Framer, _ uint32) error { return fr.WriteSettings() },
		"table size":     func(fr *http2.Framer, n uint32) error { return fr.WriteSettings(http2.Setting{ID: 1, Val: n}) },
		"PING":           func(fr *http2.Framer, _ uint32) error { return fr.WritePing(false, [8]byte{}) },
		"PING ack":       func(fr *http2.Framer, _ uint32) error { return fr.WritePing(true, [8]byte{}) },
		"PRIORITY":       func(fr *http2.Framer, n uint32) error { return fr.WritePriority(2*n+1, http2.PriorityParam{}) },
		"WINDOW_UPDATE":  func(fr *http2.Framer, _ uint32) error { return fr.WriteWindowUpdate(0, 1) },
		"unknown frames": func(fr *http2.Framer, _ uint32) error { return fr.WriteRawFrame(0xfa, 0, 0, nil) },
		"streams":        func(fr *http2.Framer, n uint32) error { return open(fr, 2*n+1) },
		"empty DATA": func(fr *http2.Framer, n uint32) error {
			if n == 0 {
				return open(fr, 1)
			}
			return fr.WriteData(1, false, nil)
		},
		"CONTINUATION": func(fr *http2.Framer, n uint32) error {
			if n == 0 {
				return fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: request})
			}
			return fr.WriteContinuation(1, false, block("a", "b"))
		},
		"made to reset by a window": func(fr *http2.Framer, n uint32) error {
			open(fr, 2*n+1)
			return fr.WriteRawFrame(http2.FrameWindowUpdate, 0, 2*n+1, make([]byte, 4))
		},
		"made to reset by DATA": func(fr *http2.Framer, n uint32) error {
			open(fr, 2*n+1)
			fr.WriteData(2*n+1, true, nil)
			return fr.WriteData(2*n+1, true, nil)
		},
		"made to reset by a length": func(fr *http2.Framer, n uint32) error {
			return fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*n + 1, EndHeaders: true, EndStream: true,
				BlockFragment: block(":method", "POST", ":scheme", "http", ":authority", "h", ":path", "/x", "content-length", "1")})
		},
	} {
		t.Run(name, func(t *testing.T) {
			reached.Store(0)
			c := g.dial()
			fr := handshakeH2(t, c)
			fr.AllowIllegalWrites = true
			said := make(chan *http2.GoAwayFrame)
			go func() {
				defer close(said)
				for {
					switch f, err := fr.ReadFrame(); f := f.(type) {
					case *http2.GoAwayFrame:
						said <- f
						return
					default:
						if err != nil {
							return
						}
					}
				}
			}()
			for n := range uint32(1_000_000) {
				if next(fr, n) != nil {
					break
				}
			}
			if f := <-said; f == nil || f.ErrCode != http2.ErrCodeEnhanceYourCalm {
				t.Errorf("the connection ends with %v", f)
			}
			g.checkCanary()
			if n := reached.Load(); n > 250 {
				t.Errorf("the backend saw %d requests", n)
			}
		})
	}
}

// TestH2EveryFrame: no type of frame on no stream does more than end its connection.
func TestH2EveryFrame(t *testing.T) {
	g := newRig(t, backend.OK("ok"))
	for kind := range 256 {
		for _, id := range []uint32{0, 1} {
			for _, opened := range []bool{false, true} {
				c := g.dial()
				fr := handshakeH2(t, c)
				if opened {
					fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndHeaders: true,
						BlockFragment: block(":method", "POST", ":scheme", "http", ":authority", "h", ":path", "/x")})
				}
				fr.WriteRawFrame(http2.FrameType(kind), 0, id, make([]byte, 8))
				c.Conn.(*net.TCPConn).CloseWrite()
				io.Copy(io.Discard, c.br)
				c.Close()
			}
		}
	}
	g.checkCanary()
	if n := g.engine.Panics(); n > 0 {
		t.Errorf("%d panics", n)
	}
}
