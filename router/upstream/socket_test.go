package upstream

import (
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"testing"
	"time"
)

// pair is the two ends of a TCP connection.
func pair(t *testing.T) (near, far *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	nc, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	other, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close(); other.Close() })
	return nc.(*net.TCPConn), other.(*net.TCPConn)
}

// reply reads a line of four bytes and says s, for each of ss.
func reply(far *net.TCPConn, ss ...string) {
	var b [4]byte
	for _, s := range ss {
		if _, err := io.ReadFull(far, b[:]); err != nil {
			return
		}
		io.WriteString(far, s)
	}
	far.Close()
}

// arrival waits until there is something to read.
func arrival(s *socket) {
	for s.quiet() {
		runtime.Gosched()
	}
}

func TestAsk(t *testing.T) {
	near, far := pair(t)
	s := socketOf(near)
	go reply(far, "one", "two")
	buf := make([]byte, 16)
	for _, want := range []string{"one", "two"} {
		sent, n, err := s.ask([]byte("ask\n"), buf, true)
		if sent != 4 || string(buf[:n]) != want || err != nil {
			t.Fatalf("%d sent, %q, %v", sent, buf[:n], err)
		}
	}
	arrival(s) // of the end
	if sent, n, err := s.ask([]byte("ask\n"), buf, true); sent != 0 || n != 0 || err != errStale {
		t.Errorf("after the end: %d sent, %d, %v", sent, n, err)
	}
}

// TestAskStale: what nobody asked for is not the answer.
func TestAskStale(t *testing.T) {
	near, far := pair(t)
	s := socketOf(near)
	io.WriteString(far, "poison")
	arrival(s)
	if sent, n, err := s.ask([]byte("ask\n"), make([]byte, 16), true); sent != 0 || n != 0 || err != errStale {
		t.Errorf("%d sent, %d, %v", sent, n, err)
	}
}

// TestAskEarly: a backend that speaks first on a new connection is heard.
func TestAskEarly(t *testing.T) {
	near, far := pair(t)
	s := socketOf(near)
	io.WriteString(far, "early")
	arrival(s)
	buf := make([]byte, 16)
	if sent, n, err := s.ask([]byte("ask\n"), buf, false); sent != 4 || string(buf[:n]) != "early" || err != nil {
		t.Errorf("%d sent, %q, %v", sent, buf[:n], err)
	}
	far.CloseWrite()
	arrival(s)
	if _, n, err := s.ask([]byte("ask\n"), buf, false); n != 0 || err != io.EOF {
		t.Errorf("at the end: %d, %v", n, err)
	}
}

// TestAskInVain: a wait ends with the read deadline, and when somebody closes.
func TestAskInVain(t *testing.T) {
	near, far := pair(t)
	s := socketOf(near)
	buf := make([]byte, 16)
	near.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	if sent, n, err := s.ask([]byte("ask\n"), buf, false); sent != 4 || n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%d sent, %d, %v", sent, n, err)
	}
	near.SetReadDeadline(time.Time{})
	go func() {
		io.ReadFull(far, make([]byte, 8)) // both questions
		near.Close()
	}()
	if sent, n, err := s.ask([]byte("ask\n"), buf, false); sent != 4 || n != 0 || !errors.Is(err, net.ErrClosed) {
		t.Errorf("%d sent, %d, %v", sent, n, err)
	}
	if sent, _, err := s.ask([]byte("ask\n"), buf, false); sent != 0 || err == nil {
		t.Errorf("closed: %d sent, %v", sent, err)
	}
}

// TestAskTooMuch: what the socket does not take at once is left to the caller, who then
// waits for nothing.
func TestAskTooMuch(t *testing.T) {
	near, _ := pair(t)
	s := socketOf(near)
	large := make([]byte, 64<<20)
	sent, n, err := s.ask(large, make([]byte, 16), false)
	if sent == 0 || sent == len(large) || n != 0 || err != nil {
		t.Errorf("%d of %d sent, %d, %v", sent, len(large), n, err)
	}
}
