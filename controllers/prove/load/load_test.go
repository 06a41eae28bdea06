package load

import (
	"bufio"
	"context"
	"crypto/sha1"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func server(t *testing.T, h http.Handler) (*httptest.Server, Options) {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	return s, Options{
		Addr: s.Listener.Addr().String(), Host: "example.com", TLS: &tls.Config{InsecureSkipVerify: true}, Pace: time.Millisecond, Timeout: 20 * time.Second,
	}
}

// until runs the load until the backend has seen enough.
func until(t *testing.T, opts Options, enough <-chan struct{}) *Result {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan *Result, 1)
	go func() { done <- Run(ctx, opts) }()
	<-enough
	cancel()
	return <-done
}

func after(n int64) (http.HandlerFunc, <-chan struct{}) {
	var seen atomic.Int64
	enough := make(chan struct{})
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if seen.Add(1) == n {
			close(enough)
		}
		fmt.Fprint(w, "ok")
	}, enough
}

func TestNothingLost(t *testing.T) {
	h, enough := after(200)
	_, opts := server(t, h)
	opts.H1, opts.H2, opts.Post = 2, 2, 3
	r := until(t, opts, enough)
	if r.Lost() != 0 || r.Sent != r.Answered || r.Sent < 200 || r.Connections != 4 {
		t.Error(r)
	}
}

// TestEveryFailureCounts: a server that breaks off, refuses or hangs up loses
// each request once, in the phase where it happened.
func TestEveryFailureCounts(t *testing.T) {
	for phase, breakIt := range map[Phase]http.HandlerFunc{
		FirstByte: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		Status:    func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) },
		Mid: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			fmt.Fprint(w, "half")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		},
	} {
		for _, protocol := range []string{"h1", "h2"} {
			t.Run(string(phase)+" "+protocol, func(t *testing.T) {
				h, enough := after(20)
				var n atomic.Int64
				_, opts := server(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if n.Add(1)%5 == 0 {
						breakIt(w, r)
					}
					h(w, r)
				}))
				if opts.H1 = 1; protocol == "h2" {
					opts.H1, opts.H2 = 0, 1
				}
				r := until(t, opts, enough)
				if r.Lost() == 0 || r.Lost()+r.Answered != r.Sent {
					t.Error(r)
				}
				for _, f := range r.Failures {
					if f.Phase != phase {
						t.Errorf("want phase %s: %s", phase, f)
					}
				}
			})
		}
	}
}

func TestDialFails(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	_ = ln.Close()
	ctx, cancel := context.WithCancel(t.Context())
	tried := make(chan struct{})
	first := true
	r := make(chan *Result, 1)
	go func() {
		r <- Run(ctx, Options{Addr: addr, Host: "x", H1: 1, Pace: time.Millisecond, Dial: func(ctx context.Context, addr string) (net.Conn, error) {
			if first {
				first = false
				close(tried)
			}
			return new(net.Dialer).DialContext(ctx, "tcp", addr)
		}})
	}()
	<-tried
	cancel()
	if got := <-r; got.Lost() != got.Sent || got.Failures[0].Phase != Dial {
		t.Error(got)
	}
}

func TestWebSocket(t *testing.T) {
	var messages atomic.Int64
	enough := make(chan struct{})
	_, opts := server(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
		fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %s\r\n\r\n", base64.StdEncoding.EncodeToString(sum[:]))
		echo(conn, rw.Reader, func() {
			if messages.Add(1) == 20 {
				close(enough)
			}
		})
	}))
	opts.WebSockets, opts.Echo = 1, "/echo"
	if r := until(t, opts, enough); r.Lost() != 0 || r.Connections != 1 || r.Answered < 19 {
		t.Error(r)
	}
}

// echo sends every frame back, unmasked.
func echo(conn net.Conn, r *bufio.Reader, got func()) {
	for {
		head := make([]byte, 6)
		if _, err := io.ReadFull(r, head); err != nil {
			return
		}
		payload := make([]byte, head[1]&0x7f)
		if _, err := io.ReadFull(r, payload); err != nil {
			return
		}
		if _, err := conn.Write(append([]byte{head[0], byte(len(payload))}, payload...)); err != nil {
			return
		}
		got()
	}
}

// TestGRPC: messages go to and fro on one stream; a stream that the server ends
// counts once, and the next message opens another.
func TestGRPC(t *testing.T) {
	var messages, streams atomic.Int64
	enough := make(chan struct{})
	_, opts := server(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		first := streams.Add(1) == 1
		for buf := make([]byte, 1024); ; {
			n, err := r.Body.Read(buf)
			if err != nil || first && messages.Load() == 10 {
				return
			}
			_, _ = w.Write(buf[:n])
			_ = http.NewResponseController(w).Flush()
			if messages.Add(1) == 20 {
				close(enough)
			}
		}
	}))
	opts.GRPC, opts.Stream = 1, "/echo.Echo/Stream"
	r := until(t, opts, enough)
	if r.Lost() != 1 || r.Connections != 2 || r.Answered < 19 || r.Failures[0].Phase != Mid {
		t.Error(r)
	}
}
