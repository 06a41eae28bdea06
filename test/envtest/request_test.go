package envtest_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/portico-ingress/portico/router/listen"
	"github.com/portico-ingress/portico/router/proxy"
	"github.com/portico-ingress/portico/tls/certstore"
)

// A front is the engine of an instance on two sockets, and clients of both.
type front struct {
	plain, secure string // addresses
	client        *http.Client
}

// serve opens the sockets of an instance and serves until ctx ends.
func (in *instance) serve(ctx context.Context, group *errgroup.Group) {
	in.t.Helper()
	engine := proxy.New(proxy.Options{Snapshots: in.publisher})
	plain, secure := in.socket(), in.socket()
	server := listen.New(listen.Options{
		Handler: engine,
		Listeners: []listen.Listener{{Socket: plain}, {Socket: secure, TLS: &listen.TLS{
			Config: in.certs.ServerConfig(certstore.DefaultPolicy),
			Policy: certstore.DefaultPolicy,
			Covers: func(sni string) (string, func(string) bool) {
				name := certstore.ServerName(sni)
				return name, in.certs.Select(name).Certificate.Covers
			},
		}}},
	})
	in.plain, in.secure = plain.Addr().String(), secure.Addr().String()
	in.client = &http.Client{
		Transport:     in.transport(&tls.Config{InsecureSkipVerify: true}), // tests of certificates verify them
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	group.Go(func() error { return server.Serve(ctx) })
	group.Go(func() error { return engine.Start(ctx) })
}

func (in *instance) socket() net.Listener {
	in.t.Helper()
	ln, err := listen.Listen("127.0.0.1:0")
	if err != nil {
		in.t.Fatal(err)
	}
	return ln
}

// transport connects to the instance whatever the host is.
func (in *instance) transport(config *tls.Config) *http.Transport {
	return &http.Transport{
		TLSClientConfig:   config,
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
			to := in.plain
			if _, port, _ := net.SplitHostPort(address); port == "443" {
				to = in.secure
			}
			var d net.Dialer
			return d.DialContext(ctx, "tcp", to)
		},
	}
}

// An answer is what a client saw; echo is zero unless a backend answered.
type answer struct {
	status int
	echo   echo
}

// do sends a request without a body.
func (in *instance) do(method, url string, headers ...string) answer {
	in.t.Helper()
	req, err := http.NewRequestWithContext(in.t.Context(), method, url, nil)
	if err != nil {
		in.t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	resp, err := in.client.Do(req)
	if err != nil {
		in.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		in.t.Fatal(err)
	}
	a := answer{status: resp.StatusCode}
	if resp.StatusCode == http.StatusOK && method != http.MethodHead {
		if err := json.Unmarshal(body, &a.echo); err != nil {
			in.t.Fatalf("%s %s: %v in %q", method, url, err, body)
		}
	}
	return a
}

// served tells what answers a GET: the backend's name, or the status.
func (in *instance) served(host, path string) string {
	in.t.Helper()
	return in.servedURL("http://" + host + path)
}

func (in *instance) servedURL(url string) string {
	in.t.Helper()
	a := in.do(http.MethodGet, url)
	if a.status != http.StatusOK {
		return strconv.Itoa(a.status)
	}
	return a.echo.Backend
}

// wait waits until a GET is answered by that backend, or with that status.
func (in *instance) wait(host, path, want string) {
	in.t.Helper()
	in.waitURL("http://"+host+path, want)
}

func (in *instance) waitURL(url, want string) {
	in.t.Helper()
	eventually(in.t, func() error {
		if got := in.servedURL(url); got != want {
			return fmt.Errorf("%s is answered by %s, want %s", url, got, want)
		}
		return nil
	})
}

// quiet passes on log lines until the test has ended: testing panics on later
// ones, and managers have goroutines that outlive their stop.
type quiet struct {
	testing.TB
}

// Log passes on one line.
func (q quiet) Log(args ...any) {
	if q.Context().Err() == nil {
		q.TB.Log(args...)
	}
}
