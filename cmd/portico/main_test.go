package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/portico-ingress/portico/cmd/internal/program"
)

// asProgram is set in the environment of a test binary that is to be portico.
const asProgram = "PORTICO_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
	}
	goleak.VerifyTestMain(m)
}

// execute runs the command as main does.
func execute(t *testing.T, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	code = program.Run(t.Context(), newRoot(), args, program.Streams{In: strings.NewReader(stdin), Out: &out, Err: &err})
	return code, out.String(), err.String()
}

const samples = "../../config/samples"

func TestExitCodes(t *testing.T) {
	broken := filepath.Join(t.TempDir(), "broken.yaml")
	if err := os.WriteFile(broken, []byte("apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: x}\nspec: {rules: [{hots: a}]}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		args []string
		code int
		want string // in either output
	}{
		"version":            {[]string{"version"}, 0, "portico "},
		"help":               {[]string{"--help"}, 0, "portico explain"},
		"routed":             {[]string{"explain", "https://shop.localhost/", "-f", samples}, 0, "forwarded to default/shop:80"},
		"not routed":         {[]string{"explain", "https://nothing.localhost/", "-f", samples}, 1, "=> 404"},
		"redirected":         {[]string{"explain", "http://shop.localhost/", "-f", samples}, 1, "=> 308"},
		"json":               {[]string{"explain", "https://shop.localhost/", "-f", samples, "-o", "json"}, 0, `"routed": true`},
		"bad URL":            {[]string{"explain", "ftp://x/", "-f", samples}, 2, "scheme"},
		"refused path":       {[]string{"explain", "http://x/..%2f", "-f", samples}, 1, "=> 400"},
		"no folder":          {[]string{"explain", "http://x/", "-f", "/does/not/exist"}, 2, "/does/not/exist"},
		"broken manifest":    {[]string{"explain", "http://x/", "-f", broken}, 2, "broken.yaml:4"},
		"two sources":        {[]string{"explain", "http://x/", "-f", samples, "--kubeconfig", "x"}, 2, "either"},
		"bad limits":         {[]string{"serve", "-f", samples, "--max-header-bytes", "7", "--backend-eject-time", "0s"}, 2, "--backend-eject-time ($PORTICO_BACKEND_EJECT_TIME)"},
		"no time":            {[]string{"serve", "-f", samples, "--tunnel-timeout", "0", "--max-uri-bytes", "7"}, 2, "--tunnel-timeout ($PORTICO_TUNNEL_TIMEOUT): 0s is not above 0"},
		"negative time":      {[]string{"serve", "-f", samples, "--drain-timeout", "-1s"}, 2, "--drain-timeout ($PORTICO_DRAIN_TIMEOUT): -1s is negative"},
		"acme e-mail alone":  {[]string{"serve", "-f", samples, "--acme-email", "a@example.com"}, 2, "--acme-directory ($PORTICO_ACME_DIRECTORY): is missing"},
		"acme by http":       {[]string{"serve", "-f", samples, "--acme-directory", "http://ca.example/dir"}, 2, "is not an https URL"},
		"acme EAB":           {[]string{"serve", "-f", samples, "--acme-directory", "https://ca.example/dir", "--acme-eab-key-id", "x"}, 2, "both keyID and keyFile"},
		"acme file":          {[]string{"controller", "--acme-issuers", "/does/not/exist", "--acme-namespace", "A b"}, 2, "--acme-namespace ($PORTICO_ACME_NAMESPACE)"},
		"acme no YAML":       {[]string{"controller", "--acme-issuers", broken}, 2, "broken.yaml"},
		"cert help":          {[]string{"cert"}, 0, "cert [command]"},
		"cert nobody":        {[]string{"cert", "list", "--debug-addr", "127.0.0.1:1"}, 1, "no Portico answers at --debug-addr 127.0.0.1:1"},
		"cert bad address":   {[]string{"cert", "why", "a.example", "--debug-addr", "x"}, 2, "--debug-addr ($PORTICO_DEBUG_ADDR)"},
		"cert bad output":    {[]string{"cert", "list", "-o", "yaml"}, 2, "neither text nor json"},
		"cert no host":       {[]string{"cert", "why"}, 2, "takes one host"},
		"cert bad host":      {[]string{"cert", "why", "a b"}, 2, "is not a host"},
		"no URL":             {[]string{"explain"}, 2, "one URL"},
		"unknown flag":       {[]string{"serve", "--nonsense"}, 2, "portico serve --help"},
		"unknown command":    {[]string{"nonsense"}, 2, "nonsense"},
		"files as arguments": {[]string{"convert", samples}, 2, "-f"},
		"serve no folder":    {[]string{"serve", "-f", "/does/not/exist", "--http-addr", "127.0.0.1:0", "--https-addr", "", "--admin-addr", "", "--debug-addr", ""}, 2, "/does/not/exist"},
		"serve nothing":      {[]string{"serve"}, 2, "--filename"},
		"faults together":    {[]string{"serve", "-f", samples, "--http-addr", "x", "--trusted-proxies", "y", "--default-tls-secret", "z"}, 2, "--trusted-proxies ($PORTICO_TRUSTED_PROXIES)"},
		"no cluster":         {[]string{"controller", "--kubeconfig", "/does/not/exist"}, 2, "--kubeconfig"},
		"status":             {[]string{"controller", "--publish-status=maybe"}, 2, "--publish-status"},
	} {
		code, out, err := execute(t, "", tc.args...)
		if code != tc.code || !strings.Contains(out+err, tc.want) {
			t.Errorf("%s: exit code %d, want %d with %q in\n%s%s", name, code, tc.code, tc.want, out, err)
		}
	}
}

func TestExplainReadsStdin(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(samples, "shop.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if code, out, _ := execute(t, string(text), "explain", "https://shop.localhost/", "-f", "-"); code != 1 || !strings.Contains(out, "Service default/shop does not exist") {
		t.Errorf("exit code %d:\n%s", code, out)
	}
}

// TestClusterDomain: however the domain is written, a Service of type
// ExternalName does not lead into another namespace of the cluster.
func TestClusterDomain(t *testing.T) {
	const manifests = `
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {type: ExternalName, externalName: db.other.svc.cluster.local, ports: [{port: 80}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: db}
spec: {defaultBackend: {service: {name: db, port: {number: 80}}}}
`
	for domain, want := range map[string]string{
		"cluster.local":  "not in namespace default",
		"Cluster.Local.": "not in namespace default",
		"cluster local":  "--cluster-domain",
		"":               "not in namespace default",
	} {
		code, out, err := execute(t, manifests, "explain", "http://db.example/", "-f", "-", "--allow-external-names", "--cluster-domain", domain)
		if code == 0 || !strings.Contains(out+err, want) {
			t.Errorf("%q: exit code %d, no %q in\n%s%s", domain, code, want, out, err)
		}
	}
}

// TestConvertOthers: classes are converted as well, faults of other kinds are no
// concern, and what is left out is named.
func TestConvertOthers(t *testing.T) {
	const in = `{apiVersion: networking.k8s.io/v1beta1, kind: IngressClass, metadata: {name: old, annotations: {kubectl.kubernetes.io/last-applied-configuration: x}}, spec: {controller: a.b/c}}
---
{apiVersion: v1, kind: Service, metadata: {name: broken}, spec: {}}
---
{apiVersion: apps/v1, kind: Deployment, metadata: {name: d}}
`
	code, out, err := execute(t, in, "convert", "-f", "-")
	const want = "apiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata:\n  name: old\nspec:\n  controller: a.b/c\n"
	if code != 0 || out != want {
		t.Errorf("exit code %d:\n%s", code, out)
	}
	if want := "left out: 1 of apps/v1 Deployment, Service default/broken\n"; err != want {
		t.Errorf("standard error: %q, want %q", err, want)
	}
	const quoted = `{apiVersion: extensions/v1beta1, kind: Ingress, metadata: {name: i}, spec: {backend: {serviceName: s, servicePort: "8080"}}}`
	if code, _, err := execute(t, quoted, "convert", "-f", "-"); code != 2 || !strings.Contains(err, "without quotes") {
		t.Errorf("exit code %d: %s", code, err)
	}
}

// TestConvertKeepsTheNamespace: kubectl chooses one where the manifest names
// none, and so it must be with what is printed.
func TestConvertKeepsTheNamespace(t *testing.T) {
	const old = "apiVersion: extensions/v1beta1\nkind: Ingress\nmetadata: {name: x%s}\nspec:\n  backend: {serviceName: web, servicePort: http}\n"
	for _, namespace := range []string{"", "default", "shop"} {
		written := ""
		if namespace != "" {
			written = ", namespace: " + namespace
		}
		code, out, err := execute(t, fmt.Sprintf(old, written), "convert", "-f", "-")
		if got := regexp.MustCompile(`namespace: (\w+)`).FindStringSubmatch(out); code != 0 || (got == nil) != (namespace == "") || got != nil && got[1] != namespace {
			t.Errorf("namespace %q: exit code %d:\n%s%s", namespace, code, out, err)
		}
	}
}

func TestConvert(t *testing.T) {
	const old = "apiVersion: extensions/v1beta1\nkind: Ingress\nmetadata: {name: x}\nspec:\n  backend: {serviceName: web, servicePort: http}\n"
	code, out, _ := execute(t, old, "convert", "-f", "-")
	if code != 0 || !strings.Contains(out, "apiVersion: networking.k8s.io/v1\n") || !strings.Contains(out, "defaultBackend:") || strings.Contains(out, "servicePort") {
		t.Errorf("exit code %d:\n%s", code, out)
	}
	if code, again, _ := execute(t, out, "convert", "-f", "-"); code != 0 || again != out {
		t.Errorf("converting again, exit code %d:\n%s", code, again)
	}
	for _, bad := range []string{"", "kind: Ingress\n", "apiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec: {ports: [{port: 80}]}\n"} {
		if code, out, err := execute(t, bad, "convert", "-f", "-"); code != 2 || out != "" || err == "" {
			t.Errorf("%q: exit code %d, %q, %q", bad, code, out, err)
		}
	}
}

// TestEveryFlagHasAVariable: the variable sets the flag, the flag goes before
// it, and a bad value names the variable.
func TestEveryFlagHasAVariable(t *testing.T) {
	code, out, _ := execute(t, "", "serve", "--help")
	for _, want := range []string{"--http-addr", "$PORTICO_HTTP_ADDR", "--trusted-proxies", "$PORTICO_TRUSTED_PROXIES", "$PORTICO_FILENAME"} {
		if code != 0 || !strings.Contains(out, want) {
			t.Errorf("%s is not in the help", want)
		}
	}
	t.Setenv("PORTICO_OUTPUT", "json")
	t.Setenv("PORTICO_FILENAME", samples)
	if code, out, err := execute(t, "", "explain", "https://shop.localhost/"); code != 0 || !strings.HasPrefix(out, "{") {
		t.Errorf("exit code %d: %s%s", code, out, err)
	}
	if _, out, _ := execute(t, "", "explain", "https://shop.localhost/", "-o", "text"); strings.HasPrefix(out, "{") {
		t.Error("the variable went before the flag")
	}
	t.Setenv("PORTICO_LOCAL_CA", "perhaps")
	if code, _, err := execute(t, "", "explain", "https://shop.localhost/"); code != 2 || !strings.Contains(err, "PORTICO_LOCAL_CA") {
		t.Errorf("exit code %d: %s", code, err)
	}
}

func TestParsePrefixes(t *testing.T) {
	got, err := program.ParsePrefixes([]string{"10.1.2.3", "10.0.0.0/8", "::ffff:192.0.2.0/120", "2001:db8::1"})
	if want := "[10.1.2.3/32 10.0.0.0/8 192.0.2.0/24 2001:db8::1/128]"; err != nil || fmt.Sprint(got) != want {
		t.Errorf("got %v, %v; want %s", got, err, want)
	}
	for _, bad := range []string{"x", "10.0.0.0/33", "::ffff:0.0.0.0/64"} {
		if _, err := program.ParsePrefixes([]string{bad}); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

// served is one `portico serve` in this process.
type served struct {
	mu  sync.Mutex
	log bytes.Buffer
	got chan struct{} // has room for one: something was written
}

func (s *served) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case s.got <- struct{}{}:
	default:
	}
	return s.log.Write(p)
}

// until waits for a text in what was written.
func (s *served) until(t *testing.T, pattern string) []string {
	t.Helper()
	re := regexp.MustCompile(pattern)
	for {
		s.mu.Lock()
		m := re.FindStringSubmatch(s.log.String())
		s.mu.Unlock()
		if m != nil {
			return m
		}
		select {
		case <-s.got:
		case <-t.Context().Done():
			t.Fatalf("never printed %s", pattern)
		}
	}
}

// TestServe goes through the life of `portico serve`: it serves a folder,
// follows an edit, keeps serving over a broken one, and finishes a request that
// is in flight when it is told to stop.
func TestServe(t *testing.T) {
	hold := make(chan struct{})
	arrived := make(chan struct{}, 1)
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/hold" {
			arrived <- struct{}{}
			<-hold
		}
		fmt.Fprintf(w, "hello from %s", r.URL.Path)
	}))
	defer backend.Close()
	_, port, _ := net.SplitHostPort(backend.Listener.Addr().String())
	manifest := filepath.Join(t.TempDir(), "app.yaml")
	write := func(path string) {
		t.Helper()
		if err := os.WriteFile(manifest, []byte(strings.NewReplacer("PATH", path, "PORT", port).Replace(appManifest)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("/one")

	log := &served{got: make(chan struct{}, 1)}
	ctx, stop := context.WithCancel(t.Context())
	exit := make(chan int, 1)
	go func() {
		exit <- program.Run(ctx, newRoot(), []string{"serve", "-f", manifest, "--http-addr", "127.0.0.1:0", "--https-addr", "127.0.0.1:0",
			"--admin-addr", "127.0.0.1:0", "--debug-addr", "127.0.0.1:0", "--acme-dir", t.TempDir(), "--drain-timeout", "1m"},
			program.Streams{In: strings.NewReader(""), Out: io.Discard, Err: log})
	}()
	base := log.until(t, `(http://app\.localhost:\d+)/`)[1]
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) { // not every resolver knows *.localhost
			_, port, _ := net.SplitHostPort(addr)
			return new(net.Dialer).DialContext(ctx, network, net.JoinHostPort("127.0.0.1", port))
		},
	}}
	get := func(path string) string {
		resp, err := client.Get(base + path)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			return ""
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		return fmt.Sprintf("%d %s", resp.StatusCode, body)
	}
	if got := get("/one"); got != "200 hello from /one" {
		t.Fatalf("got %q", got)
	}
	write("/two")
	for !strings.HasPrefix(get("/two"), "200") { // each answer takes a moment; the edit takes effect within a second
		if t.Context().Err() != nil {
			t.Fatal("the edit never took effect")
		}
	}
	write("/thr ee: [")
	log.until(t, `app\.yaml:\d+: .*\n`)
	if got := get("/two"); got != "200 hello from /two" {
		t.Errorf("after a broken edit: %q", got)
	}
	write("/hold")
	log.until(t, "mended")
	for strings.HasPrefix(get("/two"), "200") {
		if t.Context().Err() != nil {
			t.Fatal("the mended edit never took effect")
		}
	}
	answer := make(chan string, 1)
	go func() { answer <- get("/hold") }()
	<-arrived
	stop()
	log.until(t, "draining")
	close(hold)
	if got := <-answer; got != "200 hello from /hold" {
		t.Errorf("the request in flight got %q", got)
	}
	if code := <-exit; code != 0 {
		t.Errorf("exit code %d", code)
	}
	log.until(t, "nothing was cut")
}

// TestStopWithoutRights: a controller that may list nothing says so, and ends
// when it is told to. It is a process of its own, which is to be gone whole.
func TestStopWithoutRights(t *testing.T) {
	apiserver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprint(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"you may not list","reason":"Forbidden","code":403}`)
	}))
	defer apiserver.Close()
	config := filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf(`{apiVersion: v1, kind: Config, current-context: x, contexts: [{name: x, context: {cluster: x}}], clusters: [{name: x, cluster: {server: %q}}]}`, apiserver.URL)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	log := &served{got: make(chan struct{}, 1)}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "controller", "--kubeconfig", config, "--http-addr", "127.0.0.1:0", "--https-addr", "",
		"--admin-addr", "", "--debug-addr", "", "--leader-elect=false", "--drain-delay", "0s")
	cmd.Env = append(os.Environ(), asProgram+"=yes")
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	log.until(t, "you may not list")
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// TestRedirectToPickedPort: where the system picks the port of --https-addr,
// redirects name that one.
func TestRedirectToPickedPort(t *testing.T) {
	const manifests = `apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: app}
spec:
  tls: [{hosts: [a.localhost]}]
  rules:
  - {host: a.localhost, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: app, port: {number: 80}}}}]}}
  - {host: b.localhost}
`
	log := &served{got: make(chan struct{}, 1)}
	ctx, stop := context.WithCancel(t.Context())
	exit := make(chan int, 1)
	go func() {
		exit <- program.Run(ctx, newRoot(), []string{"serve", "-f", "-", "--http-addr", "127.0.0.1:0", "--https-addr", "127.0.0.1:0",
			"--admin-addr", "", "--debug-addr", "", "--local-ca=false"}, program.Streams{In: strings.NewReader(manifests), Out: io.Discard, Err: log})
	}()
	defer func() { stop(); <-exit }()
	secure := log.until(t, `https://a\.localhost:\d+/`)[0]
	plain := log.until(t, `http://b\.localhost:(\d+)/`)[1]
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://127.0.0.1:"+plain+"/x", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "a.localhost"
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if got := resp.Header.Get("Location"); got != secure+"x" {
		t.Errorf("redirected to %q, not to %q", got, secure+"x")
	}
}

const appManifest = `apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: app}
spec:
  rules:
  - host: app.localhost
    http:
      paths:
      - {path: PATH, pathType: Prefix, backend: {service: {name: app, port: {number: 80}}}}
---
apiVersion: v1
kind: Service
metadata: {name: app}
spec: {ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: app, labels: {kubernetes.io/service-name: app}}
addressType: IPv4
ports: [{port: PORT}]
endpoints: [{addresses: [127.0.0.1]}]
`
