package upstream

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/portico-ingress/portico/router/policy"
	"github.com/portico-ingress/portico/test/backend"
	"github.com/portico-ingress/portico/test/testcert"
)

var quiet = log.New(io.Discard, "", 0)

const caRef = "ca"

func keyPair(t testing.TB, cert, key []byte) tls.Certificate {
	t.Helper()
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

// whoami tells what the backend learnt of the connection.
func whoami(w http.ResponseWriter, r *http.Request) {
	client := ""
	if certs := r.TLS.PeerCertificates; len(certs) > 0 {
		client = certs[0].DNSNames[0]
	}
	fmt.Fprintf(w, "%s sni=%s client=%s", r.Proto, r.TLS.ServerName, client)
}

func credentials(t testing.TB, ca *testcert.CA, names ...string) *Credentials {
	t.Helper()
	var cert, key []byte
	if len(names) > 0 {
		cert, key = ca.Leaf(names...)
	}
	c, err := ParseCredentials(testcert.PEM(ca.Cert), cert, key)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestTLS(t *testing.T) {
	ours, theirs := testcert.New(t), testcert.New(t)
	cert, key := ours.Leaf("web.shop.svc", "special.example")
	addr := tlsBackend(t, &tls.Config{Certificates: []tls.Certificate{keyPair(t, cert, key)}, ClientAuth: tls.RequestClientCert}, whoami)
	long, longKey := ours.Leaf("web.shop.svc.cluster.local")
	longAddr := tlsBackend(t, &tls.Config{Certificates: []tls.Certificate{keyPair(t, long, longKey)}}, whoami)
	good, bad, shown := credentials(t, ours), credentials(t, theirs), credentials(t, ours, "portico")
	https, secret := policy.HTTPS, caRef
	for name, tc := range map[string]struct {
		backend policy.Backend
		creds   *Credentials
		strict  bool
		long    bool
		want    string
		kind    Kind
	}{
		"unverified":               {policy.Backend{Protocol: https}, nil, false, false, "HTTP/1.1 sni=web.shop.svc client=", 0},
		"unverified, refused":      {policy.Backend{Protocol: https}, nil, true, false, "", Unverified},
		"verification demanded":    {policy.Backend{Protocol: https, Verify: policy.On}, nil, false, false, "", Unverified},
		"verification without TLS": {policy.Backend{Protocol: policy.HTTP, Secret: secret, Verify: policy.On}, good, false, false, "", Unverified},
		"verified":                 {policy.Backend{Protocol: https, Secret: secret}, good, true, false, "HTTP/1.1 sni=web.shop.svc client=", 0},
		"verified by long name":    {policy.Backend{Protocol: https, Secret: secret}, good, true, true, "HTTP/1.1 sni=web.shop.svc client=", 0},
		"verified h2":              {policy.Backend{Protocol: policy.GRPCS, Secret: secret}, good, true, false, "HTTP/2.0 sni=web.shop.svc client=", 0},
		"another name":             {policy.Backend{Protocol: https, Secret: secret, Name: "special.example"}, good, true, false, "HTTP/1.1 sni=special.example client=", 0},
		"wrong name":               {policy.Backend{Protocol: https, Secret: secret, Name: "wrong.example"}, good, false, false, "", Unverified},
		"wrong CA":                 {policy.Backend{Protocol: https, Secret: secret}, bad, false, false, "", Unverified},
		"wrong CA h2":              {policy.Backend{Protocol: policy.GRPCS, Secret: secret}, bad, false, false, "", Unverified},
		"wrong CA, not verified":   {policy.Backend{Protocol: https, Secret: secret, Verify: policy.Off}, bad, false, false, "HTTP/1.1 sni=web.shop.svc client=", 0},
		"off and required":         {policy.Backend{Protocol: https, Secret: secret, Verify: policy.Off}, good, true, false, "", Unverified},
		"no such Secret":           {policy.Backend{Protocol: https, Secret: secret}, nil, false, false, "", Unverified},
		"client certificate":       {policy.Backend{Protocol: https, Secret: secret}, shown, false, false, "HTTP/1.1 sni=web.shop.svc client=portico", 0},
		"client certificate h2":    {policy.Backend{Protocol: policy.GRPCS, Secret: secret}, shown, false, false, "HTTP/2.0 sni=web.shop.svc client=portico", 0},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRegistry(t, Options{RequireVerification: tc.strict})
			s := ready(addr)
			if tc.long {
				s = ready(longAddr)
			}
			s.Names = []string{"web.shop.svc", "web.shop.svc.cluster.local"}
			r.Set(web, s)
			r.SetCredentials(SecretRef{"shop", caRef}, tc.creds)
			for range 2 { // the second on the connection of the first
				req := simple()
				req.Backend = tc.backend
				got, err := get(t, r.Pool(web), req)
				var e *Error
				if tc.want == "" && (!errors.As(err, &e) || e.Kind != tc.kind) || tc.want != "" && (got != tc.want || err != nil) {
					t.Errorf("%q, %v", got, err)
				}
			}
		})
	}
}

// TestMismatch: a route that speaks to an endpoint in a way that does not suit it
// takes it from no other route.
func TestMismatch(t *testing.T) {
	ours, theirs := testcert.New(t), testcert.New(t)
	cert, key := ours.Leaf("web.shop.svc")
	secure := func() netip.AddrPort {
		return tlsBackend(t, &tls.Config{Certificates: []tls.Certificate{keyPair(t, cert, key)}}, whoami)
	}
	plain := backend.Serve(t, func(c *backend.Conn) { _ = c.Send("HTTP/1.1 400 Bad Request\r\n\r\n") })
	t.Cleanup(plain.Close)
	another := backend.Serve(t, backend.OK("another"))
	t.Cleanup(another.Close)
	for name, tc := range map[string]struct {
		addr netip.AddrPort
		way  policy.Backend
		kind Kind
	}{
		"wrong CA":      {secure(), policy.Backend{Protocol: policy.HTTPS, Secret: caRef}, Unverified},
		"wrong CA h2":   {secure(), policy.Backend{Protocol: policy.GRPCS, Secret: caRef}, Unverified},
		"TLS to none":   {plain.Addr, policy.Backend{Protocol: policy.HTTPS}, Unreachable},
		"HTTP/2 to 1.1": {plain.Addr, policy.Backend{Protocol: policy.GRPC}, Unreachable},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRegistry(t, Options{EjectAfter: 1})
			s := ready(tc.addr, another.Addr)
			s.Names = []string{"web.shop.svc"}
			r.Set(web, s)
			r.SetCredentials(SecretRef{"shop", caRef}, credentials(t, theirs))
			target := r.Pool(web).live.Load().targets[0]
			w, _ := r.Pool(web).way(r.Pool(web).live.Load(), &tc.way)
			for range 3 {
				req := simple()
				req.Backend = tc.way
				_, err := r.Pool(web).roundTrip(t.Context(), target.addr.lane(&w, s.Names), req)
				r.Pool(web).judge(r.Pool(web).live.Load(), target, nil, err)
				if err == nil || err.Kind != tc.kind || !err.dialing {
					t.Errorf("%v", err)
				}
			}
			if target.addr.down() {
				t.Error("the endpoint is passed over")
			}
		})
	}
}

// TestServicePortSaysProtocol: where the route says nothing.
func TestServicePortSaysProtocol(t *testing.T) {
	cert, key := testcert.New(t).Leaf("web.shop.svc")
	addr := tlsBackend(t, &tls.Config{Certificates: []tls.Certificate{keyPair(t, cert, key)}}, whoami)
	r := newRegistry(t, Options{})
	for protocol, want := range map[policy.Protocol]string{policy.HTTPS: "HTTP/1.1", policy.GRPCS: "HTTP/2.0"} {
		s := ready(addr)
		s.Protocol, s.Names = protocol, []string{"web.shop.svc"}
		r.Set(web, s)
		if got, err := get(t, r.Pool(web), simple()); !strings.HasPrefix(got, want) || err != nil {
			t.Errorf("%s: %q, %v", protocol, got, err)
		}
	}
}

// TestNewCredentialsNewConnections: what was verified against a CA that is no
// longer there carries no request.
func TestNewCredentialsNewConnections(t *testing.T) {
	ours, theirs := testcert.New(t), testcert.New(t)
	cert, key := ours.Leaf("web.shop.svc")
	addr := tlsBackend(t, &tls.Config{Certificates: []tls.Certificate{keyPair(t, cert, key)}}, whoami)
	ref := SecretRef{"shop", caRef}
	for _, protocol := range []policy.Protocol{policy.HTTPS, policy.GRPCS} {
		r := newRegistry(t, Options{})
		s := ready(addr)
		s.Names = []string{"web.shop.svc"}
		r.Set(web, s)
		req := simple()
		req.Backend = policy.Backend{Protocol: protocol, Secret: caRef}
		for i, step := range []struct {
			creds *Credentials
			works bool
		}{{credentials(t, ours), true}, {credentials(t, theirs), false}, {credentials(t, ours), true}, {nil, false}} {
			r.SetCredentials(ref, step.creds)
			if _, err := get(t, r.Pool(web), req); (err == nil) != step.works {
				t.Errorf("%s, step %d: %v", protocol, i, err)
			}
		}
	}
}

// TestBytesBehindAResponseOverTLS: they are in the record that the body came
// in, where no look at the socket finds them.
func TestBytesBehindAResponseOverTLS(t *testing.T) {
	cert, key := testcert.New(t).Leaf("web.shop.svc")
	config := &tls.Config{Certificates: []tls.Certificate{keyPair(t, cert, key)}}
	big := strings.Repeat("x", 3*bufferSize)
	srv := backend.Serve(t, func(c *backend.Conn) {
		tc := tls.Server(c, config)
		buf := make([]byte, 1<<10)
		if _, err := tc.Read(buf); err != nil {
			return
		}
		if c.Number == 0 {
			_, _ = fmt.Fprintf(tc, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", len(big))
			_, _ = io.WriteString(tc, big+"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
		} else {
			_, _ = io.WriteString(tc, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
		_, _ = io.Copy(io.Discard, tc)
	})
	r := newRegistry(t, Options{})
	defer srv.Close()
	s := ready(srv.Addr)
	s.Protocol = policy.HTTPS
	r.Set(web, s)
	for i, want := range []string{big, "ok"} {
		if got, err := get(t, r.Pool(web), simple()); got != want || err != nil {
			t.Fatalf("request %d: %d bytes %.60q, %v", i, len(got), got, err)
		}
	}
}

func TestParseCredentials(t *testing.T) {
	ca := testcert.New(t)
	cert, key := ca.Leaf("client")
	pem := testcert.PEM(ca.Cert)
	for name, tc := range map[string]struct {
		ca, cert, key []byte
		ok            bool
	}{
		"nothing":          {nil, nil, nil, false},
		"CA":               {pem, nil, nil, true},
		"two CAs":          {append(pem[:len(pem):len(pem)], pem...), nil, nil, true},
		"certificate":      {nil, cert, key, true},
		"both":             {pem, cert, key, true},
		"no key":           {pem, cert, nil, false},
		"no PEM":           {[]byte("x"), nil, nil, false},
		"rest is not PEM":  {append(pem[:len(pem):len(pem)], "x"...), nil, nil, false},
		"a key for a CA":   {key, nil, nil, false},
		"foreign key":      {nil, cert, []byte("x"), false},
		"white space only": {[]byte(" \n"), nil, nil, false},
	} {
		if _, err := ParseCredentials(tc.ca, tc.cert, tc.key); (err == nil) != tc.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}
