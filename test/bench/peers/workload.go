package main

import (
	"context"
	"crypto/tls"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

var (
	//go:embed nginx.conf
	nginxConf string
	//go:embed nginx-lua.conf
	nginxLuaConf string
	//go:embed nginx-http.inc
	nginxHTTP string
	//go:embed nginx-location.inc
	nginxLocation string
	//go:embed haproxy.cfg
	haproxyCfg string
	//go:embed portico.yaml
	porticoYAML string
	//go:embed Caddyfile
	caddyfile string
	//go:embed traefik.yml
	traefikYAML string
	//go:embed traefik-routes.yml
	traefikRoutes string
	//go:embed upload.lua
	uploadLua string
)

// workload is one row of the table.
type workload struct {
	name, title string
	unit        string
	run         func(ctx context.Context, b *bench, p *peer, length time.Duration) (sample, error)
}

// group is workloads that the same processes are measured with.
type group struct {
	kind      string   // of certificate
	peers     []string // nil: those that were asked for
	workloads []workload
}

const cpuUnit = "µs of CPU a request"

var groups = []group{
	{kind: "ecdsa", workloads: []workload{
		{"get", "small GET, h1 keep-alive, plaintext", cpuUnit, cpu(wrk("http", "/", 64))},
		{"get-tls", "the same over TLS 1.3", cpuUnit, cpu(wrk("https", "/", 64))},
		{"h2", "h2 over TLS, 64 × 10 streams", cpuUnit, cpu(h2load)},
		{"handshake", "new TLS connection per request, ECDSA full", cpuUnit, cpu(handshakes(false))},
		{"resumed", "new TLS connection per request, ECDSA resumed", cpuUnit, cpu(handshakes(true))},
		{"download", "1 MiB download, plaintext", cpuUnit, cpu(wrk("http", "/bytes/1048576", 16))},
		{"download-tls", "1 MiB download, TLS", cpuUnit, cpu(wrk("https", "/bytes/1048576", 16))},
		{"upload", "1 MiB upload, plaintext", cpuUnit, cpu(wrk("http", "/", 16, "-s", "upload.lua"))},
		{"upload-tls", "1 MiB upload, TLS", cpuUnit, cpu(wrk("https", "/", 16, "-s", "upload.lua"))},
		{"open", "small GET over TLS, 12,800 a second, open loop", cpuUnit, openLoop},
		{"idle", "memory per idle TLS connection, after a request", "KiB", idle},
	}},
	{kind: "rsa", workloads: []workload{
		{"handshake-rsa", "new TLS connection per request, RSA-2048 full", cpuUnit, cpu(handshakes(false))},
	}},
	{kind: "ecdsa", peers: []string{"portico:1", "portico:10000"}, workloads: []workload{
		{"hosts", "small GET, one host and 10,000", cpuUnit, cpu(wrk("http", "/", 64, "-H", "Host: h0.bench"))},
	}},
}

// load asks for as much as it can in a time, and returns how many requests were
// answered.
type load func(ctx context.Context, b *bench, p *peer, length time.Duration) (int, error)

// cpu measures what requests cost.
func cpu(l load) func(context.Context, *bench, *peer, time.Duration) (sample, error) {
	return func(ctx context.Context, b *bench, p *peer, length time.Duration) (sample, error) {
		before, from := p.cpu(), time.Now()
		n, err := l(ctx, b, p, length)
		if err != nil {
			return sample{}, err
		}
		s := sample{Value: (p.cpu() - before).Seconds() * 1e6 / float64(n), Requests: float64(n) / time.Since(from).Seconds()}
		s.Utilisation = s.Value * s.Requests / 1e6
		return s, nil
	}
}

func (p *peer) url(scheme, path string) string {
	port := p.http
	if scheme == "https" {
		port = p.https
	}
	return fmt.Sprintf("%s://127.0.0.1:%d%s", scheme, port, path)
}

var (
	wrkDone   = regexp.MustCompile(`(\d+) requests in`)
	wrkFailed = regexp.MustCompile(`Non-2xx.*|Socket errors.*`)
	h2Done    = regexp.MustCompile(`(\d+) succeeded, (\d+) failed, (\d+) errored`)
)

func wrk(scheme, path string, connections int, more ...string) load {
	return func(ctx context.Context, b *bench, p *peer, length time.Duration) (int, error) {
		args := []string{"-c", loadCore, "wrk", "-t1", "-c" + strconv.Itoa(connections), "-d" + strconv.Itoa(int(length.Seconds())) + "s", "--timeout", "20s"}
		if err := os.WriteFile(filepath.Join(b.dir, "upload.lua"), []byte(uploadLua), 0o600); err != nil {
			return 0, err
		}
		cmd := exec.CommandContext(ctx, "taskset", append(append(args, more...), p.url(scheme, path))...)
		cmd.Dir = b.dir
		out, err := cmd.CombinedOutput()
		m := wrkDone.FindSubmatch(out)
		if err != nil || m == nil || wrkFailed.Match(out) {
			return 0, fmt.Errorf("wrk: %v\n%s", err, out)
		}
		return strconv.Atoi(string(m[1]))
	}
}

func h2load(ctx context.Context, _ *bench, p *peer, length time.Duration) (int, error) {
	out, err := exec.CommandContext(ctx, "taskset", "-c", loadCore, "h2load", "-t1", "-c64", "-m10",
		"-D", strconv.Itoa(int(length.Seconds())), p.url("https", "/")).CombinedOutput()
	m := h2Done.FindSubmatch(out)
	if err != nil || m == nil || string(m[2]) != "0" || string(m[3]) != "0" {
		return 0, fmt.Errorf("h2load: %v\n%s", err, out)
	}
	return strconv.Atoi(string(m[1]))
}

// handshakes makes a connection for each request.
func handshakes(resumed bool) load {
	return func(ctx context.Context, _ *bench, p *peer, length time.Duration) (int, error) {
		ctx, cancel := context.WithTimeout(ctx, length)
		defer cancel()
		var done atomic.Int64
		var wg sync.WaitGroup
		errs := make([]error, 8)
		for i := range errs {
			wg.Go(func() {
				c := &tls.Config{InsecureSkipVerify: true, CurvePreferences: []tls.CurveID{tls.X25519}, MinVersion: tls.VersionTLS13}
				if resumed {
					c.ClientSessionCache = tls.NewLRUClientSessionCache(1)
				}
				for n := 0; ctx.Err() == nil && errs[i] == nil; n++ {
					if errs[i] = handshake(p.https, c, resumed && n > 0); errs[i] == nil {
						done.Add(1)
					}
				}
			})
		}
		wg.Wait()
		return int(done.Load()), errors.Join(errs...)
	}
}

const closing = "GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n"

func handshake(port int, c *tls.Config, resumed bool) error {
	nc, err := net.Dial("tcp", "127.0.0.1:"+strconv.Itoa(port))
	if err != nil {
		return err
	}
	defer nc.Close()
	tc := tls.Client(nc, c)
	if _, err := io.WriteString(tc, closing); err != nil {
		return err
	}
	head := make([]byte, 12)
	if _, err := io.ReadFull(tc, head); err != nil || string(head) != "HTTP/1.1 200" {
		return fmt.Errorf("%q, %w", head, err)
	}
	_, _ = io.Copy(io.Discard, tc)
	if tc.ConnectionState().DidResume != resumed {
		return fmt.Errorf("the session was resumed: %t, but should: %t", !resumed, resumed)
	}
	return nil
}
