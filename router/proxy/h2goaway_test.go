package proxy

import (
	"bytes"
	"crypto/tls"
	"io"
	"math/rand/v2"
	"net"
	"testing"

	"golang.org/x/net/http2"

	"github.com/portico-ingress/portico/test/backend"
)

// TestH2GoAwayOnDrain sends a request after the drain has begun, as a client
// does whose request crosses the GOAWAY on its way: it is answered, and only
// then does the server name the last stream.
func TestH2GoAwayOnDrain(t *testing.T) {
	g := newRig(t, backend.OK("ok"))
	c := g.dialTLS("", "h2")
	fr := handshakeH2(t, c)
	next := func(kind http2.FrameType) http2.Frame {
		t.Helper()
		for {
			f, err := fr.ReadFrame()
			if err != nil {
				t.Fatalf("no %v: %v", kind, err)
			}
			if f.Header().Type == kind {
				return f
			}
		}
	}
	next(http2.FrameSettings)
	close(g.drain)
	if last := next(http2.FrameGoAway).(*http2.GoAwayFrame).LastStreamID; last != 1<<31-1 {
		t.Errorf("the first GOAWAY names stream %d", last)
	}
	ping := next(http2.FramePing).(*http2.PingFrame).Data
	fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndStream: true, EndHeaders: true,
		BlockFragment: block(":method", "GET", ":scheme", "https", ":authority", "h", ":path", "/")})
	if status := next(http2.FrameHeaders).(*http2.MetaHeadersFrame).PseudoValue("status"); status != "200" {
		t.Errorf("status %s of a request that was on its way", status)
	}
	fr.WritePing(true, ping)
	if last := next(http2.FrameGoAway).(*http2.GoAwayFrame).LastStreamID; last != 1 {
		t.Errorf("the last GOAWAY names stream %d", last)
	}
}

// sink is a connection that keeps what is written.
type sink struct {
	net.Conn
	bytes.Buffer
}

func (*sink) ConnectionState() (s tls.ConnectionState) { return s }
func (s *sink) Write(p []byte) (int, error)            { return s.Buffer.Write(p) }
func (s *sink) Read(p []byte) (int, error)             { return s.Buffer.Read(p) }

// FuzzFarewell writes frames in pieces and asks for the notice at any moment: it
// comes once, between two frames, never within a header block.
func FuzzFarewell(f *testing.F) {
	for seed := range uint64(20) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		random := rand.New(rand.NewPCG(seed, 0))
		var sent bytes.Buffer
		fr := http2.NewFramer(&sent, nil)
		fr.WriteSettings()
		for range 1 + random.IntN(8) {
			writeSome(fr, random)
		}
		out := new(sink)
		c := newFarewell(out)
		stream := sent.Bytes()
		when := random.IntN(len(stream) + 1)
		for done := 0; done < len(stream); {
			n := min(len(stream)-done, 1+random.IntN(40))
			if when >= done && when < done+n {
				c.ask()
			}
			if m, err := c.Write(stream[done : done+n]); m != n || err != nil {
				t.Fatalf("%d of %d, %v", m, n, err)
			}
			done += n
		}
		c.ask()
		notices := 0
		for fr := http2.NewFramer(io.Discard, out); ; {
			frame, err := fr.ReadFrame() // refuses a foreign frame within a header block
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if frame.Header().Type == http2.FrameGoAway {
				notices++
			}
		}
		if notices != 1 {
			t.Errorf("%d notices", notices)
		}
	})
}

func writeSome(fr *http2.Framer, random *rand.Rand) {
	payload := make([]byte, random.IntN(50))
	switch random.IntN(3) {
	case 0:
		fr.WriteData(1, false, payload)
	case 1:
		fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: payload, EndHeaders: true})
	case 2:
		fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: payload})
		fr.WriteContinuation(1, false, payload)
		fr.WriteContinuation(1, true, nil)
	}
}
