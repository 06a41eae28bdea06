package listen

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/portico-ingress/portico/router/view"
	"github.com/portico-ingress/portico/test/testcert"
)

// last is a handler that holds its last bytes back.
type last [][]byte

func (l last) ServeConn(_ context.Context, c net.Conn, _ *view.Conn, over func()) {
	defer over()
	c.(*tls.Conn).NetConn().(*farewell).Hold(time.Minute)
	for _, p := range l {
		_, _ = c.Write(p)
	}
}

// cutting is a handler whose connection is cut while it holds its last bytes back.
type cutting struct{ done chan struct{} }

func (h cutting) ServeConn(_ context.Context, c net.Conn, _ *view.Conn, over func()) {
	defer over()
	defer close(h.done)
	var wg sync.WaitGroup
	wg.Go(func() { c.Close() })
	c.(*tls.Conn).NetConn().(*farewell).Hold(time.Minute)
	_, _ = c.Write([]byte("bye"))
	wg.Wait()
}

// counted counts the reads that returned something.
type counted struct {
	net.Conn
	reads int
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.reads++
	}
	return n, err
}

// secured returns the two sides of TLS for a.example.
func secured(t *testing.T) (*TLS, *tls.Config) {
	t.Helper()
	ca := testcert.New(t)
	certPEM, keyPEM := ca.Leaf("a.example")
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	return &TLS{
		Config: &tls.Config{Certificates: []tls.Certificate{cert}, SessionTicketsDisabled: true},
		Covers: func(name string) (string, func(string) bool) { return name, nil },
	}, &tls.Config{ServerName: "a.example", RootCAs: ca.Pool()}
}

// TestFarewell: what is held back arrives whole, with the end behind it.
func TestFarewell(t *testing.T) {
	secure, client := secured(t)
	for name, parts := range map[string]last{
		"little": {[]byte("one"), []byte("two")},
		"much":   {bytes.Repeat([]byte("x"), 3*holdMost), []byte("end")},
		"both":   {[]byte("one"), bytes.Repeat([]byte("y"), 3*holdMost)},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, Options{Listeners: []Listener{{Socket: socket(t), TLS: secure}}, Handler: parts})
			nc, err := net.Dial("tcp", s.addr())
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			raw := &counted{Conn: nc}
			c := tls.Client(raw, client)
			if err := c.Handshake(); err != nil {
				t.Fatal(err)
			}
			raw.reads = 0
			got, err := io.ReadAll(c)
			if want := bytes.Join(parts, nil); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d of %d bytes, %v", len(got), len(want), err)
			}
			if name == "little" && raw.reads > 2 { // a record's head is read first
				t.Errorf("they came in %d parts", raw.reads)
			}
		})
	}
}

// TestFarewellIsCut: closing it meanwhile is no race.
func TestFarewellIsCut(t *testing.T) {
	secure, client := secured(t)
	h := cutting{make(chan struct{})}
	s := start(t, Options{Listeners: []Listener{{Socket: socket(t), TLS: secure}}, Handler: h})
	c, err := tls.Dial("tcp", s.addr(), client)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	<-h.done
}

// slowTaker takes half of what is written until its deadline, and room more when it is
// asked once more.
type slowTaker struct {
	net.Conn
	room   int
	writes int
}

func (*slowTaker) SetWriteDeadline(time.Time) error { return nil }

func (c *slowTaker) Write(p []byte) (int, error) {
	n := len(p) / 2
	if c.writes++; c.writes > 1 {
		n = min(c.room, len(p))
	}
	if n == len(p) {
		return n, nil
	}
	return n, os.ErrDeadlineExceeded
}

// TestSlowTaker: a write that was too slow to be noticed is none that has failed.
func TestSlowTaker(t *testing.T) {
	record := make([]byte, 16<<10)
	for room, want := range map[int]int{0: 8 << 10, 1000: 8<<10 + 1000, 8 << 10: 16 << 10} {
		n, err := (&farewell{Conn: &slowTaker{room: room}}).Write(record)
		if n != want || (err == nil) != (n == len(record)) {
			t.Errorf("with room for %d: %d, %v", room, n, err)
		}
	}
}
