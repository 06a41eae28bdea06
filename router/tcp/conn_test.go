package tcp_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/portico-ingress/portico/router/tcp"
)

// pair returns the two ends of a connection on loopback.
func pair(t *testing.T) (*tcp.Conn, *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	near, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	far, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close(); far.Close() })
	c, err := tcp.New(near.(*net.TCPConn))
	if err != nil {
		t.Fatal(err)
	}
	return c, far.(*net.TCPConn)
}

// TestBothWays: more than the kernel's buffers hold arrives, both ways at once.
func TestBothWays(t *testing.T) {
	c, far := pair(t)
	sent := make([]byte, 8<<20)
	rand.Read(sent)
	done := make(chan error, 2)
	go func() { // an echo
		_, err := io.Copy(far, far)
		far.CloseWrite()
		done <- err
	}()
	go func() {
		_, err := c.Write(sent)
		c.CloseWrite()
		done <- err
	}()
	got, err := io.ReadAll(struct{ io.Reader }{c})
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// TestEnds: what ends a connection or a wait is told as the net package tells it.
func TestEnds(t *testing.T) {
	c, far := pair(t)
	c.SetReadDeadline(time.Now().Add(-time.Second))
	if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a read deadline: %d, %v", n, err)
	}
	var ne net.Error
	large := make([]byte, 64<<20)
	c.SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
	n, err := c.Write(large)
	if n == 0 || n == 64<<20 || !errors.As(err, &ne) || !ne.Timeout() {
		t.Errorf("a write deadline: %d, %v", n, err)
	}
	c.SetDeadline(time.Time{})
	far.SetLinger(0)
	far.Close()
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a reset: %v", err)
	}
	if _, err := c.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("a write after that: %v", err)
	}
	c.Close()
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// TestWaits: a read that waits is ended by the end of the other side, by a deadline
// and by Close.
func TestWaits(t *testing.T) {
	for name, tc := range map[string]struct {
		end  func(c *tcp.Conn, far *net.TCPConn)
		want error
	}{
		"end":      {func(_ *tcp.Conn, far *net.TCPConn) { far.CloseWrite() }, io.EOF},
		"deadline": {func(c *tcp.Conn, _ *net.TCPConn) { c.SetReadDeadline(time.Unix(1, 0)) }, os.ErrDeadlineExceeded},
		"close":    {func(c *tcp.Conn, _ *net.TCPConn) { c.Close() }, net.ErrClosed},
	} {
		c, far := pair(t)
		ended := make(chan error)
		go func() {
			_, err := c.Read(make([]byte, 1))
			ended <- err
		}()
		tc.end(c, far)
		if err := <-ended; !errors.Is(err, tc.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestSilent: bytes and the end are seen, and stay.
func TestSilent(t *testing.T) {
	c, far := pair(t)
	silent := func() (yes bool) {
		raw, err := c.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		raw.Control(func(fd uintptr) { yes = tcp.Silent(fd) })
		return yes
	}
	if !silent() {
		t.Error("nothing has come, and it is not silent")
	}
	far.Write([]byte("x"))
	for silent() { // until it has come
	}
	if n, err := c.Read(make([]byte, 2)); n != 1 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if !silent() {
		t.Error("everything has been read, and it is not silent")
	}
	far.CloseWrite()
	for silent() {
	}
	if n, err := c.Read(nil); n != 0 || err != nil {
		t.Errorf("an empty read: %d, %v", n, err)
	}
}
