package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	"github.com/spf13/pflag"

	"github.com/portico-ingress/portico/router/admin"
	"github.com/portico-ingress/portico/router/listen"
)

// source is one that has not been read yet.
type source struct{}

func (source) Start(ctx context.Context) error { <-ctx.Done(); return nil }

// plainPlane listens for HTTP on a free port.
func plainPlane(t *testing.T, adminAddr string) *plane {
	t.Helper()
	var f proxyFlags
	var rf routingFlags
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	f.register(fs, proxyDefaults{logFormat: "json"})
	rf.register(fs)
	if err := fs.Parse([]string{"--http-addr=127.0.0.1:0", "--https-addr=", "--admin-addr=" + adminAddr, "--debug-addr="}); err != nil {
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

// TestStopBeforeTheFirstTable: who is stopped while waiting for it ends.
func TestStopBeforeTheFirstTable(t *testing.T) {
	p := plainPlane(t, "")
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := p.run(ctx, source{}, func() []admin.Check { return nil }); err != nil {
		t.Error(err)
	}
}
