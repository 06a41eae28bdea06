package acme

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/portico-ingress/portico/test/pebble"
	"github.com/portico-ingress/portico/tls/acme"
)

const patience = time.Minute

// rig is a Manager with files, and listeners that answer challenges.
type rig struct {
	t       testing.TB
	tokens  *acme.Tokens
	storage acme.Storage
	addrs   acme.Addrs
	manager *acme.Manager
	http    net.Listener
	https   net.Listener

	mu    sync.Mutex // protects the following
	steps []string
	news  chan struct{}
}

func newRig(t testing.TB) *rig {
	t.Helper()
	r := &rig{t: t, tokens: acme.NewTokens(nil), news: make(chan struct{})}
	files, err := acme.NewFiles(t.TempDir(), r.tokens)
	if err != nil {
		t.Fatal(err)
	}
	r.storage = files
	r.listen()
	return r
}

// listen answers challenges as the engine does.
func (r *rig) listen() {
	var err error
	if r.http, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		r.t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		host, _, _ := net.SplitHostPort(q.Host)
		if host == "" {
			host = q.Host
		}
		body, ok := r.tokens.Respond(q.Context(), host, strings.TrimPrefix(q.URL.Path, "/.well-known/acme-challenge/"))
		if !ok {
			http.NotFound(w, q)
			return
		}
		_, _ = w.Write([]byte(body))
	})}
	go func() { _ = server.Serve(r.http) }()
	r.t.Cleanup(func() { _ = server.Close() })
	if r.https, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		r.t.Fatal(err)
	}
	go r.serveALPN()
	r.t.Cleanup(func() { _ = r.https.Close() })
	r.addrs = acme.Addrs{HTTP: r.http.Addr().String(), HTTPS: r.https.Addr().String()}
}

func (r *rig) serveALPN() {
	config := &tls.Config{GetConfigForClient: r.tokens.ServerConfig}
	for {
		conn, err := r.https.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			_ = tls.Server(conn, config).Handshake()
		}()
	}
}

func port(ln net.Listener) int { return ln.Addr().(*net.TCPAddr).Port }

// pebble starts a CA that validates at the rig's listeners.
func (r *rig) pebble(o pebble.Options) *pebble.Server {
	o.HTTPPort, o.TLSPort = port(r.http), port(r.https)
	return pebble.Start(r.t, o)
}

// issuer configures an issuer at a CA.
func issuer(t testing.TB, ca *pebble.Server, change ...func(*acme.IssuerConfig)) *acme.Issuer {
	t.Helper()
	c := acme.IssuerConfig{Name: "pebble", Directory: ca.URL, Email: "someone@example.com", CABundle: ca.Bundle(), Challenges: []string{acme.HTTP01}}
	for _, f := range change {
		f(&c)
	}
	all, err := (&acme.Config{Issuers: []acme.IssuerConfig{c}}).Open()
	if err != nil {
		t.Fatal(err)
	}
	return all.Default
}

// start runs the Manager until the test ends or stop is called.
func (r *rig) start(change ...func(*acme.Options)) (stop func()) {
	o := acme.Options{
		Storage: r.storage, Tokens: r.tokens, Addrs: r.addrs, Identity: "test", Observe: r.observe,
		Changed: func(rec *acme.Record) { r.tokens.Flight(rec); r.tell() },
		Log:     zaptest.NewLogger(r.t, zaptest.Level(zap.InfoLevel)),
	}
	for _, f := range change {
		f(&o)
	}
	r.manager = acme.New(o)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := r.manager.Start(ctx); err != nil {
			r.t.Error(err)
		}
	}()
	stop = sync.OnceFunc(func() { cancel(); <-done })
	r.t.Cleanup(stop)
	return stop
}

func (r *rig) observe(rec *acme.Record, s acme.Step) {
	r.mu.Lock()
	r.steps = append(r.steps, s.Reason+" "+strings.Join(rec.Names, ",")+": "+s.Message)
	r.mu.Unlock()
	r.tell()
}

// told reports whether there was a step that begins with a text.
func (r *rig) told(text string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(r.steps, func(s string) bool { return strings.HasPrefix(s, text) })
}

func (r *rig) tell() {
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.news)
	r.news = make(chan struct{})
}

// until waits for a condition, which is asked after each step.
func (r *rig) until(what string, condition func() bool) {
	r.t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for {
		r.mu.Lock()
		news := r.news
		r.mu.Unlock()
		if condition() {
			return
		}
		select {
		case <-news:
		case <-time.After(100 * time.Millisecond):
		case <-deadline.C:
			r.mu.Lock()
			defer r.mu.Unlock()
			r.t.Fatalf("after %v still not: %s; steps: %s", patience, what, strings.Join(r.steps, "\n"))
		}
	}
}

// certificate waits for the certificate of something wanted.
func (r *rig) certificate(w acme.Wanted) *acme.Record {
	r.t.Helper()
	var rec *acme.Record
	r.until("a certificate for "+strings.Join(w.Names, ","), func() bool {
		got, err := r.storage.Record(r.t.Context(), w.ID())
		if err != nil || got.Leaf() == nil {
			return false
		}
		rec = got
		return true
	})
	return rec
}

// leads reports whether a chain leads to a root.
func leads(chain []byte, root *x509.Certificate) bool {
	opts := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool()}
	opts.Roots.AddCert(root)
	opts.Intermediates.AppendCertsFromPEM(chain)
	block, _ := pem.Decode(chain)
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err == nil {
		_, err = leaf.Verify(opts)
	}
	return err == nil
}
