package listen

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"testing"
	"time"

	"github.com/portico-ingress/portico/router/view"
	"github.com/portico-ingress/portico/test/testcert"
)

// last is a handler that holds its last bytes back.
type last [][]byte

func (l last) ServeConn(_ context.Context, c net.Conn, _ *view.Conn) {
	c.(*tls.Conn).NetConn().(*farewell).Hold(time.Minute)
	for _, p := range l {
		_, _ = c.Write(p)
	}
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

// TestFarewell: what is held back arrives whole, with the end behind it.
func TestFarewell(t *testing.T) {
	ca := testcert.New(t)
	certPEM, keyPEM := ca.Leaf("a.example")
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	config := &tls.Config{Certificates: []tls.Certificate{cert}, SessionTicketsDisabled: true}
	covers := func(name string) (string, func(string) bool) { return name, nil }
	for name, parts := range map[string]last{
		"little": {[]byte("one"), []byte("two")},
		"much":   {bytes.Repeat([]byte("x"), 3*holdMost), []byte("end")},
		"both":   {[]byte("one"), bytes.Repeat([]byte("y"), 3*holdMost)},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, Options{Listeners: []Listener{{Socket: socket(t), TLS: &TLS{Config: config, Covers: covers}}}, Handler: parts})
			nc, err := net.Dial("tcp", s.addr())
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			raw := &counted{Conn: nc}
			c := tls.Client(raw, &tls.Config{ServerName: "a.example", RootCAs: ca.Pool()})
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
