// Package pebble runs a real ACME server for tests: pebble, the DNS server
// that it asks, and in front of it a proxy that sees every request and can
// answer in its place, hold it up, or tell when it was answered.
package pebble

import (
	"bytes"
	"cmp"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/portico-ingress/portico/test/testcert"
)

// Variable names the directory with pebble and pebble-challtestsrv.
const Variable = "PORTICO_PEBBLE"

// Assets returns an error that says how to get pebble, if it is not there.
func Assets() error {
	if _, err := os.Stat(filepath.Join(os.Getenv(Variable), "pebble")); os.Getenv(Variable) == "" || err != nil {
		return fmt.Errorf("%s does not name a directory with pebble: these tests need a real ACME server. "+
			"Run them with `make test`, which builds it, or set it to $(test/tools/assets.sh pebble)", Variable)
	}
	return nil
}

// Options of a Server. The zero value issues for 90 days without delays.
type Options struct {
	// HTTPPort and TLSPort are where challenges are validated.
	HTTPPort, TLSPort int
	NonceReject       int // per cent of good nonces that are refused
	AuthzReuse        int // per cent of valid authorizations that are used again
	Sleep             int // at most so many seconds before a validation
	RetryAfter        int // seconds, of authorizations and orders
	AlternateRoots    int
	EAB               map[string]string // key ID: MAC key; nil: none needed
	OCSP              string            // URL of a responder
	Lifetime          time.Duration     // of the profile "default"; 0: 90 days
	DNS               string            // a DNS server in place of challtestsrv
}

// Server is a running pebble. Its methods are safe for concurrent use.
type Server struct {
	t      testing.TB
	CA     *testcert.CA // of the servers' own certificates
	URL    string       // the directory, by way of the proxy
	Direct string       // pebble itself, https://host:port
	manage string
	client *http.Client
	proxy  *httputil.ReverseProxy

	mu    sync.Mutex // protects the following
	calls []Call
	hook  func(*Call) Verdict
	down  bool
}

// Call is one request that came by the proxy.
type Call struct {
	Kind   string // directory, nonce, account, order, authz, challenge, finalize, poll, certificate, renewal, other
	Path   string
	From   string          // User-Agent
	Body   json.RawMessage // payload of the JWS; nil: none
	Status int             // 0 until it is answered
	Header http.Header     // of the answer, which a hook may change
	After  bool            // the hook is asked after the answer came from pebble
}

// Verdict is what a hook has done with a call. The zero Verdict lets it pass.
type Verdict struct {
	Status  int // answer with this instead; 0: pass
	Problem string
	Detail  string // empty: "the test says so"
	Header  http.Header
	Drop    bool                       // close the connection without an answer
	Rewrite func(answer []byte) []byte // of pebble's answer; nil: as it is
}

// Start runs a server until the test ends.
func Start(t testing.TB, o Options) *Server {
	t.Helper()
	if err := Assets(); err != nil {
		t.Fatal(err)
	}
	s := &Server{t: t, CA: testcert.New(t)}
	dns := o.DNS
	if dns == "" {
		dns = s.challtestsrv()
	}
	dir := t.TempDir()
	certPEM, keyPEM := s.CA.Leaf("localhost", "127.0.0.1")
	write(t, filepath.Join(dir, "cert.pem"), certPEM)
	write(t, filepath.Join(dir, "key.pem"), keyPEM)
	listen, manage := FreeAddress(t), FreeAddress(t)
	write(t, filepath.Join(dir, "config.json"), o.config(dir, listen, manage))
	cmd := exec.Command(filepath.Join(os.Getenv(Variable), "pebble"), "-strict", "-config", filepath.Join(dir, "config.json"), "-dnsserver", dns)
	cmd.Env = append(os.Environ(), o.env()...)
	s.run(cmd, filepath.Join(dir, "log"))
	s.client = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.CA.Pool()}}}
	t.Cleanup(s.client.CloseIdleConnections)
	s.Direct, s.manage = "https://"+listen, "https://"+manage
	s.await(s.Direct + "/dir")
	s.await(s.manage + "/roots/0")
	s.front(certPEM, keyPEM)
	return s
}

func (o *Options) config(dir, listen, manage string) []byte {
	lifetime := o.Lifetime
	if lifetime == 0 {
		lifetime = 90 * 24 * time.Hour
	}
	algorithm := map[bool]string{true: "ecdsa", false: "rsa"}[o.OCSP == ""]
	p := map[string]any{
		"listenAddress": listen, "managementListenAddress": manage,
		"certificate": filepath.Join(dir, "cert.pem"), "privateKey": filepath.Join(dir, "key.pem"),
		"httpPort": o.HTTPPort, "tlsPort": o.TLSPort, "ocspResponderURL": o.OCSP,
		"externalAccountBindingRequired": o.EAB != nil, "externalAccountMACKeys": o.EAB,
		"keyAlgorithm": algorithm, "domainBlocklist": []string{"blocked.example"},
		"retryAfter": map[string]int{"authz": o.RetryAfter, "order": o.RetryAfter},
		"profiles": map[string]any{
			"default":    map[string]any{"description": "as usual", "validityPeriod": int(lifetime / time.Second)},
			"shortlived": map[string]any{"description": "six days", "validityPeriod": 518400},
		},
	}
	text, _ := json.Marshal(map[string]any{"pebble": p})
	return text
}

func (o *Options) env() []string {
	env := []string{
		"PEBBLE_WFE_NONCEREJECT=" + strconv.Itoa(o.NonceReject),
		"PEBBLE_AUTHZREUSE=" + strconv.Itoa(o.AuthzReuse),
		"PEBBLE_ALTERNATE_ROOTS=" + strconv.Itoa(o.AlternateRoots),
	}
	if o.Sleep == 0 {
		return append(env, "PEBBLE_VA_NOSLEEP=1")
	}
	return append(env, "PEBBLE_VA_SLEEPTIME="+strconv.Itoa(o.Sleep))
}

// challtestsrv runs a DNS server that knows every name as 127.0.0.1.
func (s *Server) challtestsrv() string {
	dns, manage := FreeAddress(s.t), FreeAddress(s.t)
	s.run(exec.Command(filepath.Join(os.Getenv(Variable), "pebble-challtestsrv"),
		"-dnsserver", dns, "-management", manage, "-defaultIPv4", "127.0.0.1", "-defaultIPv6", "",
		"-http01", "", "-https01", "", "-tlsalpn01", "", "-doh", ""), filepath.Join(s.t.TempDir(), "log"))
	s.await2("tcp", manage)
	return dns
}

func (s *Server) run(cmd *exec.Cmd, logFile string) {
	s.t.Helper()
	file, err := os.Create(logFile)
	if err != nil {
		s.t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = file, file
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = file.Close()
		if s.t.Failed() {
			text, _ := os.ReadFile(logFile)
			s.t.Logf("%s:\n%s", cmd.Path, text[max(0, len(text)-6000):])
		}
	})
}

const patience = 30 * time.Second

func (s *Server) await(u string) {
	s.t.Helper()
	for deadline := time.Now().Add(patience); ; {
		resp, err := s.client.Get(u)
		if err == nil {
			_ = resp.Body.Close()
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("%s does not come up: %v", u, err)
		}
		<-time.After(20 * time.Millisecond)
	}
}

func (s *Server) await2(network, addr string) {
	s.t.Helper()
	for deadline := time.Now().Add(patience); ; {
		conn, err := net.Dial(network, addr)
		if err == nil {
			_ = conn.Close()
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("%s does not come up: %v", addr, err)
		}
		<-time.After(20 * time.Millisecond)
	}
}

// front starts the proxy.
func (s *Server) front(certPEM, keyPEM []byte) {
	target, _ := url.Parse(s.Direct)
	s.proxy = &httputil.ReverseProxy{
		Rewrite:      func(r *httputil.ProxyRequest) { r.SetURL(target); r.Out.Host = r.In.Host },
		Transport:    s.client.Transport,
		ErrorLog:     log.New(io.Discard, "", 0),
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { panic(http.ErrAbortHandler) },
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		s.t.Fatal(err)
	}
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}})
	if err != nil {
		s.t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(s.serve), ErrorLog: log.New(io.Discard, "", 0)}
	go func() { _ = server.Serve(ln) }()
	s.t.Cleanup(func() { _ = server.Close() })
	s.URL = "https://" + ln.Addr().String() + "/dir"
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	call := &Call{Kind: kind(r.URL.Path), Path: r.URL.Path, From: r.UserAgent(), Body: payload(r)}
	s.mu.Lock()
	hook, down := s.hook, s.down
	s.mu.Unlock()
	if down {
		panic(http.ErrAbortHandler)
	}
	if hook != nil && s.replied(w, call, hook(call)) {
		s.note(call)
		return
	}
	rec := &recorder{header: make(http.Header), status: 200}
	s.proxy.ServeHTTP(rec, r)
	call.Status, call.Header, call.After = rec.status, rec.header, true
	s.note(call)
	body := rec.body.Bytes()
	if hook != nil {
		v := hook(call)
		if s.replied(w, call, v) {
			return
		}
		if v.Rewrite != nil {
			body = v.Rewrite(body)
			rec.header.Del("Content-Length")
		}
	}
	for k, v := range rec.header {
		w.Header()[k] = v
	}
	w.WriteHeader(rec.status)
	_, _ = w.Write(body)
}

// replied answers in the server's place, if the hook wants that.
func (s *Server) replied(w http.ResponseWriter, c *Call, v Verdict) bool {
	switch {
	case v.Drop:
		panic(http.ErrAbortHandler)
	case v.Status == 0:
		return false
	}
	c.Status = v.Status
	for k, values := range v.Header {
		w.Header()[k] = values
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(v.Status)
	_ = json.NewEncoder(w).Encode(map[string]any{"type": "urn:ietf:params:acme:error:" + v.Problem, "detail": cmp.Or(v.Detail, "the test says so"), "status": v.Status})
	return true
}

func (s *Server) note(c *Call) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, *c)
}

type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) WriteHeader(status int)      { r.status = status }
func (r *recorder) Write(p []byte) (int, error) { return r.body.Write(p) }

var kinds = []struct{ prefix, kind string }{
	{"/dir", "directory"}, {"/nonce-plz", "nonce"}, {"/sign-me-up", "account"}, {"/order-plz", "order"},
	{"/my-order/", "poll"}, {"/finalize-order/", "finalize"}, {"/authZ/", "authz"}, {"/chalZ/", "challenge"},
	{"/certZ/", "certificate"}, {"/draft-ietf-acme-ari-03/", "renewal"},
}

func kind(path string) string {
	for _, k := range kinds {
		if strings.HasPrefix(path, k.prefix) {
			return k.kind
		}
	}
	return "other"
}

// payload returns what a JWS signs, and leaves the request readable.
func payload(r *http.Request) json.RawMessage {
	text, _ := io.ReadAll(r.Body)
	r.Body = io.NopCloser(bytes.NewReader(text))
	var jws struct {
		Payload string `json:"payload"`
	}
	if json.Unmarshal(text, &jws) != nil {
		return nil
	}
	out, _ := base64.RawURLEncoding.DecodeString(jws.Payload)
	return out
}

// Hook has every call go by f: before it is passed on and, with After, when
// pebble has answered. nil: no hook.
func (s *Server) Hook(f func(*Call) Verdict) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hook = f
}

// Down cuts every connection from now on, or stops doing so.
func (s *Server) Down(down bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = down
}

// Calls returns the calls of a kind that were answered.
func (s *Server) Calls(kind string) []Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Call
	for _, c := range s.calls {
		if c.Kind == kind {
			out = append(out, c)
		}
	}
	return out
}

// Orders returns, for each set of names, how many orders were made for it.
func (s *Server) Orders() map[string]int {
	out := make(map[string]int)
	for _, c := range s.Calls("order") {
		if c.Status == http.StatusCreated {
			out[c.Names()]++
		}
	}
	return out
}

// Names are those of a new order, joined by commas.
func (c *Call) Names() string {
	var order struct {
		Identifiers []struct{ Value string }
	}
	_ = json.Unmarshal(c.Body, &order)
	var names []string
	for _, id := range order.Identifiers {
		names = append(names, id.Value)
	}
	return strings.Join(names, ",")
}

// Root returns the CA's root: the usual one, or that of an alternate chain.
func (s *Server) Root(n int) *x509.Certificate { return s.certificate("/roots/" + strconv.Itoa(n)) }

// Intermediate returns what signs certificates, and OCSP responses for them. It
// needs Options.OCSP: pebble hands out keys of RSA only.
func (s *Server) Intermediate() (*x509.Certificate, crypto.Signer) {
	s.t.Helper()
	key, err := x509.ParsePKCS1PrivateKey(s.managed("/intermediate-keys/0"))
	if err != nil {
		s.t.Fatal(err)
	}
	return s.certificate("/intermediates/0"), key
}

func (s *Server) certificate(path string) *x509.Certificate {
	s.t.Helper()
	cert, err := x509.ParseCertificate(s.managed(path))
	if err != nil {
		s.t.Fatal(err)
	}
	return cert
}

// managed returns what is at a path of the management's server.
func (s *Server) managed(path string) []byte {
	s.t.Helper()
	resp, err := s.client.Get(s.manage + path)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		s.t.Fatalf("no PEM at %s: %s", path, text)
	}
	return block.Bytes
}

// Bundle writes the CA of the server's own certificate to a file.
func (s *Server) Bundle() string {
	file := filepath.Join(s.t.TempDir(), "bundle.pem")
	write(s.t, file, testcert.PEM(s.CA.Cert))
	return file
}

// nextPort is where FreeAddress goes on looking. Ports below 32768 are given to
// no connection that this host makes itself.
var nextPort atomic.Int32

// FreeAddress is a free address of this host. It is not given again.
func FreeAddress(t testing.TB) string {
	t.Helper()
	nextPort.CompareAndSwap(0, int32(12000+os.Getpid()*97%16000))
	for range 1000 {
		ln, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(int(nextPort.Add(1))))
		if err == nil {
			defer ln.Close()
			return ln.Addr().String()
		}
	}
	t.Fatal("there is no free port")
	return ""
}

func write(t testing.TB, name string, text []byte) {
	t.Helper()
	if err := os.WriteFile(name, text, 0o600); err != nil {
		t.Fatal(err)
	}
}
