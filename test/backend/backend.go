// Package backend has backends that misbehave on purpose, for tests: each
// connection is played by a function that sees raw bytes and answers with raw
// bytes.
package backend

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// Server is a backend on loopback. It stops, and its connections close, at the
// end of the test.
type Server struct {
	Addr netip.AddrPort
	ln   net.Listener
	wg   sync.WaitGroup

	mu    sync.Mutex // protects the following
	conns []*Conn
}

// Conn is one connection as the backend sees it.
type Conn struct {
	net.Conn
	// Number counts the server's connections from 0.
	Number int
	br     *bufio.Reader

	mu       sync.Mutex // protects the following
	received bytes.Buffer
}

// Serve starts a backend that plays every connection by play, in a goroutine of
// its own, and closes it when play returns.
func Serve(t testing.TB, play func(c *Conn)) *Server {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{ln: ln, Addr: ln.Addr().(*net.TCPAddr).AddrPort()}
	s.wg.Go(func() { s.accept(play) })
	t.Cleanup(s.Close)
	return s
}

func (s *Server) accept(play func(c *Conn)) {
	for {
		nc, err := s.ln.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		c := &Conn{Conn: nc, Number: len(s.conns)}
		c.br = bufio.NewReader(tee{c})
		s.conns = append(s.conns, c)
		s.mu.Unlock()
		s.wg.Go(func() {
			defer nc.Close()
			play(c)
		})
	}
}

// tee keeps a copy of what is read.
type tee struct{ c *Conn }

func (t tee) Read(p []byte) (int, error) {
	n, err := t.c.Conn.Read(p)
	t.c.mu.Lock()
	defer t.c.mu.Unlock()
	t.c.received.Write(p[:n])
	return n, err
}

// Close stops the backend and waits for its connections to end.
func (s *Server) Close() {
	s.ln.Close()
	s.mu.Lock()
	for _, c := range s.conns {
		c.Conn.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
}

// Conns returns the number of connections accepted so far.
func (s *Server) Conns() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// Received returns every byte that arrived, connection after connection.
func (s *Server) Received() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var b strings.Builder
	for _, c := range s.conns {
		c.mu.Lock()
		b.Write(c.received.Bytes())
		c.mu.Unlock()
	}
	return b.String()
}

// Read reads the connection behind what Head and Body took.
func (c *Conn) Read(p []byte) (int, error) { return c.br.Read(p) }

// Head reads a request head, up to its empty line.
func (c *Conn) Head() (string, error) {
	var b strings.Builder
	for {
		line, err := c.br.ReadString('\n')
		b.WriteString(line)
		if err != nil || line == "\r\n" {
			return b.String(), err
		}
	}
}

// Line reads one line, without its end.
func (c *Conn) Line() (string, error) {
	line, err := c.br.ReadString('\n')
	return strings.TrimSuffix(line, "\r\n"), err
}

// Body reads the body that head announces and returns its content.
func (c *Conn) Body(head string) (string, error) {
	lower := strings.ToLower(head)
	if strings.Contains(lower, "\r\ntransfer-encoding: chunked\r\n") {
		return c.chunks()
	}
	_, rest, ok := strings.Cut(lower, "\r\ncontent-length: ")
	if !ok {
		return "", nil
	}
	digits, _, _ := strings.Cut(rest, "\r\n")
	n, err := strconv.Atoi(digits)
	if err != nil {
		return "", err
	}
	b := make([]byte, n)
	_, err = io.ReadFull(c.br, b)
	return string(b), err
}

func (c *Conn) chunks() (string, error) {
	var b strings.Builder
	for {
		line, err := c.Line()
		if err != nil {
			return b.String(), err
		}
		n, err := strconv.ParseUint(line, 16, 32)
		if err != nil {
			return b.String(), err
		}
		if n == 0 {
			_, err := c.Head() // the trailer section has the form of a head
			return b.String(), err
		}
		if _, err := io.CopyN(&b, c.br, int64(n)); err != nil {
			return b.String(), err
		}
		if _, err := c.Line(); err != nil {
			return b.String(), err
		}
	}
}

// Send writes s as it is.
func (c *Conn) Send(s string) error {
	_, err := io.WriteString(c.Conn, s)
	return err
}

// Wait reads until the other side closes.
func (c *Conn) Wait() { io.Copy(io.Discard, c.br) }

// Reset closes the connection with a RST.
func (c *Conn) Reset() {
	if tc, ok := c.Conn.(*net.TCPConn); ok {
		tc.SetLinger(0)
	}
	c.Conn.Close()
}

// OK answers every request with 200 and the given body, on connections that
// persist.
func OK(body string) func(*Conn) {
	return Always("HTTP/1.1 200 OK\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\n\r\n" + body)
}

// Always answers every request with the same bytes.
func Always(response string) func(*Conn) {
	return func(c *Conn) {
		for {
			head, err := c.Head()
			if err != nil {
				return
			}
			if _, err := c.Body(head); err != nil {
				return
			}
			body := response
			if strings.HasPrefix(head, "HEAD ") {
				body = response[:strings.Index(response, "\r\n\r\n")+4]
			}
			if c.Send(body) != nil {
				return
			}
		}
	}
}

// Once answers the first request with the given bytes and closes.
func Once(response string) func(*Conn) {
	return func(c *Conn) {
		if head, err := c.Head(); err == nil {
			c.Body(head)
			c.Send(response)
		}
	}
}
