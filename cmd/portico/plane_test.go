package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	"github.com/spf13/pflag"

	"github.com/portico-ingress/portico/router/admin"
	"github.com/portico-ingress/portico/router/listen"
)

// source is one that has not been read yet.
type source struct{}

func (source) Start(ctx context.Context) error { <-ctx.Done(); return nil }

// plainPlane listens for HTTP on a free port.
func plainPlane(t *testing.T, adminAddr string, flags ...string) *plane {
	t.Helper()
	var f proxyFlags
	var rf routingFlags
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	f.register(fs, proxyDefaults{logFormat: "json"})
	rf.register(fs)
	if err := fs.Parse(append(flags, "--http-addr=127.0.0.1:0", "--https-addr=", "--admin-addr="+adminAddr, "--debug-addr=")); err != nil {
		t.Fatal(err)
	}
	o, err1 := f.options()
	r, err2 := rf.options()
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	p, err := newPlane(&f, o, r, true, io.Discard, logr.Discard())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestBeforeTheFirstTable: a request that comes too early waits for the table.
func TestBeforeTheFirstTable(t *testing.T) {
	p := plainPlane(t, "127.0.0.1:0")
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- p.run(ctx, source{}, func() []admin.Check { return []admin.Check{{Name: "table", Ready: p.publisher.Snapshot() != nil}} })
	}()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	get := func(url string) string {
		resp, err := client.Get(url)
		if err != nil {
			return err.Error()
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		return fmt.Sprintf("%d %s %v", resp.StatusCode, body, err)
	}
	early := make(chan string, 1)
	go func() { early <- get(fmt.Sprintf("http://%s/", listen.Addr(p.sockets.http))) }()
	if got := get(fmt.Sprintf("http://%s/readyz", listen.Addr(p.sockets.admin))); !strings.HasPrefix(got, "503 [-] table") {
		t.Errorf("/readyz: %s", got)
	}
	select {
	case got := <-early:
		t.Fatalf("answered before there was a table: %s", got)
	default:
	}
	p.publisher.Release()
	if got := <-early; !strings.HasPrefix(got, "404 ") {
		t.Errorf("want 404 by the first table, which is empty; got %s", got)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestManagedIsShown: certificates that are got are in the metrics, although what
// gets them is made after what serves.
func TestManagedIsShown(t *testing.T) {
	p := plainPlane(t, "127.0.0.1:0")
	p.managed = func() []admin.ManagedCertificate { return []admin.ManagedCertificate{{Issuer: "le"}} }
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.run(ctx, source{}, func() []admin.Check { return nil }) }()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(fmt.Sprintf("http://%s/metrics", listen.Addr(p.sockets.admin)))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err != nil || !strings.Contains(string(body), `portico_certificate_entries{issuer="le",state="waiting"} 1`) {
		t.Errorf("%v\n%s", err, body)
	}
	p.publisher.Release()
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestMaxConnections: the flag limits connections of clients, and the metrics tell of
// those that are turned away.
func TestMaxConnections(t *testing.T) {
	p := plainPlane(t, "127.0.0.1:0", "--max-connections=1")
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.run(ctx, source{}, func() []admin.Check { return nil }) }()
	p.publisher.Release()
	ask := func(c net.Conn) (string, error) {
		fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n")
		line, err := bufio.NewReader(c).ReadString('\n')
		return strings.TrimSpace(line), err
	}
	var conns [2]net.Conn
	for i := range conns {
		var err error
		if conns[i], err = net.Dial("tcp", listen.Addr(p.sockets.http).String()); err != nil {
			t.Fatal(err)
		}
		defer conns[i].Close()
		if got, err := ask(conns[i]); (err == nil) != (i == 0) {
			t.Errorf("connection %d: %q, %v", i, got, err)
		}
	}
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(httptest.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://%s/metrics", listen.Addr(p.sockets.admin)), nil))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	for _, want := range []string{"portico_connections 1\n", "portico_connections_limit 1\n", "portico_refused_connections_total 1\n"} {
		if err != nil || !strings.Contains(string(body), want) {
			t.Errorf("%v: no %q in\n%s", err, want, body)
		}
	}
	conns[0].Close()
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestRoomForConnections: without the flag descriptors are the limit, and a limit
// that they do not suffice for is served, and told.
func TestRoomForConnections(t *testing.T) {
	room, err := listen.Room()
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ flag, want, told int }{{0, room, 0}, {room, room, 0}, {room + 1, room + 1, 1}} {
		told := 0
		f := limitFlags{Connections: tc.flag}
		got, err := f.listen(listen.Options{Log: funcr.New(func(_, _ string) { told++ }, funcr.Options{})})
		if err != nil || got.MaxConns != tc.want || told != tc.told {
			t.Errorf("--max-connections=%d: %d connections (%v), told %d times; want %d, %d", tc.flag, got.MaxConns, err, told, tc.want, tc.told)
		}
	}
}

// TestStopBeforeTheFirstTable: who is stopped while waiting for it ends.
func TestStopBeforeTheFirstTable(t *testing.T) {
	p := plainPlane(t, "")
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := p.run(ctx, source{}, func() []admin.Check { return nil }); err != nil {
		t.Error(err)
	}
}
