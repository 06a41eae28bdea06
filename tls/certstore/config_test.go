package certstore_test

import (
	"crypto/tls"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/portico-ingress/portico/test/testcert"
	"github.com/portico-ingress/portico/tls/certstore"
)

// serveTLS answers every handshake and sends one byte, so that clients receive
// their TLS 1.3 tickets.
func serveTLS(t *testing.T, cfg func() *tls.Config) (addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			raw, err := ln.Accept()
			if err != nil {
				return
			}
			conn := tls.Server(raw, cfg())
			_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
			if conn.Handshake() == nil {
				_, _ = conn.Write([]byte("x"))
			}
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() { _ = ln.Close(); <-done })
	return ln.Addr().String()
}

func dial(t *testing.T, addr string, cfg *tls.Config) (tls.ConnectionState, error) {
	t.Helper()
	conn, err := tls.Dial("tcp", addr, cfg)
	if err != nil {
		return tls.ConnectionState{}, err
	}
	defer conn.Close()
	_, _ = io.ReadAll(conn)
	return conn.ConnectionState(), nil
}

func TestHandshake(t *testing.T) {
	ca, s := testcert.New(t), newStore(t)
	for kind, host := range map[testcert.Kind]string{testcert.ECDSA: "ecdsa.example", testcert.RSA: "rsa.example", testcert.Ed25519: "ed.example"} {
		certPEM, keyPEM := ca.LeafOf(kind, time.Now().Add(-time.Hour), time.Now().Add(time.Hour), host)
		s.SetSecret(ref("a/"+host), parse(t, certPEM, keyPEM), "")
		s.SetClaims([]certstore.Claim{claim(host, "a", "a/"+host)}, nil)
	}
	cfg := s.ServerConfig(certstore.DefaultPolicy)
	addr := serveTLS(t, func() *tls.Config { return cfg })
	for _, host := range []string{"ecdsa.example", "rsa.example", "ed.example", "RSA.example"} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			state, err := dial(t, addr, &tls.Config{ServerName: host, RootCAs: ca.Pool(), MinVersion: version, MaxVersion: version, NextProtos: []string{"h2"}})
			if err != nil || state.NegotiatedProtocol != "h2" || state.Version != version {
				t.Errorf("%s, version %x: %v, protocol %q", host, version, err, state.NegotiatedProtocol)
			}
		}
	}
	if _, err := dial(t, addr, &tls.Config{ServerName: "other.example", RootCAs: ca.Pool()}); err == nil {
		t.Error("a client trusts the default certificate")
	}
	if _, err := dial(t, addr, &tls.Config{ServerName: "rsa.example", RootCAs: ca.Pool(), MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}); err == nil {
		t.Error("TLS 1.1 was accepted")
	}
	if _, err := dial(t, addr, &tls.Config{ServerName: "rsa.example", RootCAs: ca.Pool(), MaxVersion: tls.VersionTLS12,
		CipherSuites: []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA}}); err == nil {
		t.Error("a CBC suite was accepted")
	}
}

// TestResumption: sessions are resumed for the same name under the same policy,
// and for nothing else.
func TestResumption(t *testing.T) {
	s := newStore(t)
	first, second := s.ServerConfig("first"), s.ServerConfig("second")
	var serving atomic.Pointer[tls.Config]
	addr := serveTLS(t, serving.Load)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		serving.Store(first)
		// A cache under one fixed key offers the ticket whatever the name is.
		cache := &oneSession{}
		client := func(name string) bool {
			state, err := dial(t, addr, &tls.Config{
				ServerName: name, InsecureSkipVerify: true, ClientSessionCache: cache, MinVersion: version, MaxVersion: version,
			})
			if err != nil {
				t.Fatal(err)
			}
			return state.DidResume
		}
		client("a.example")
		if !client("a.example") {
			t.Errorf("version %x: the session was not resumed", version)
		}
		if client("b.example") {
			t.Errorf("version %x: a session was resumed for another name", version)
		}
		client("a.example")
		serving.Store(second)
		if client("a.example") {
			t.Errorf("version %x: a session was resumed under another policy", version)
		}
	}
}

// oneSession is a client cache that ignores the key.
type oneSession struct{ session *tls.ClientSessionState }

func (c *oneSession) Get(string) (*tls.ClientSessionState, bool) {
	return c.session, c.session != nil
}
func (c *oneSession) Put(_ string, s *tls.ClientSessionState) { c.session = s }
