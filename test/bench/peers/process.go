package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// The cores: the proxy has the first for itself.
const (
	proxyCore = "0"
	loadCore  = "1"
)

// process is a program that runs until it is stopped.
type process struct {
	cmd  *exec.Cmd
	done chan struct{}
}

// start runs a program on a core, and waits until it listens.
func start(ctx context.Context, core, name, log string, port int, args ...string) (*process, error) {
	f, err := os.Create(log)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	p := &process{cmd: exec.Command("taskset", append([]string{"-c", core}, args...)...), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = f, f
	p.cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { defer close(p.done); _ = p.cmd.Wait() }()
	retry := time.NewTicker(50 * time.Millisecond)
	defer retry.Stop()
	for range 200 {
		if nc, err := net.Dial("tcp", "127.0.0.1:"+strconv.Itoa(port)); err == nil {
			nc.Close()
			return p, nil
		}
		select {
		case <-retry.C:
		case <-p.done:
			said, _ := os.ReadFile(log)
			return nil, fmt.Errorf("%s ended: %s", name, said)
		case <-ctx.Done():
			p.stop()
			return nil, ctx.Err()
		}
	}
	p.stop()
	return nil, errors.New(name + " does not listen")
}

func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(5 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

// family is a process and its children.
func family(pid int) []int {
	out := []int{pid}
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, t := range tasks {
		b, _ := os.ReadFile(t)
		for _, c := range strings.Fields(string(b)) {
			if n, err := strconv.Atoi(c); err == nil {
				out = append(out, family(n)...)
			}
		}
	}
	return out
}

// cpu is the time that all threads have run.
func (p *process) cpu() time.Duration {
	var sum int64
	for _, pid := range family(p.cmd.Process.Pid) {
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
		for _, t := range tasks {
			b, _ := os.ReadFile(t)
			ns, _, _ := strings.Cut(string(b), " ")
			n, _ := strconv.ParseInt(ns, 10, 64)
			sum += n
		}
	}
	return time.Duration(sum)
}

// peer is one proxy under test.
type peer struct {
	*process
	name        string
	version     string
	http, https int
	args        []string
	log         string
	folder      string // of Portico's manifests
}

// startPeer starts a proxy with the certificate of a kind.
func (b *bench) startPeer(ctx context.Context, name, kind string) (*peer, error) {
	p := &peer{name: name, http: freePort(), https: freePort()}
	var args []string
	switch name {
	case "nginx":
		p.version = version("nginx", "-v")
		args = b.nginx(p, kind, nginxConf)
	case "nginx-lua":
		p.version = version("nginx", "-v") + ", with Lua"
		args = b.nginx(p, kind, nginxLuaConf)
	case "haproxy":
		p.version = version("haproxy", "-v")
		args = []string{"haproxy", "-db", "-f", b.configure(p, kind, haproxyCfg, "haproxy.cfg")}
	case "reverseproxy":
		self, err := os.Executable()
		if err != nil {
			return nil, err
		}
		p.version = "net/http, httputil.ReverseProxy"
		args = []string{self, "-play", "reverseproxy", "-args", fmt.Sprintf("%d,%d,%d,%s", p.http, p.https, b.backend, filepath.Join(b.dir, kind))}
	case "caddy":
		p.version = version("caddy", "version")
		args = []string{"caddy", "run", "--adapter", "caddyfile", "--config", b.configure(p, kind, caddyfile, "Caddyfile")}
	case "traefik", "traefik-fast":
		p.version = version("traefik", "version")
		args = b.traefik(p, kind)
	default: // a build of Portico, perhaps with many hosts
		program, many, _ := strings.Cut(name, ":")
		if program == "portico" {
			program = b.program
		}
		p.version = version(program, "version")
		hosts, _ := strconv.Atoi(many)
		p.folder = filepath.Dir(b.configure(p, kind, manyHosts(hosts)+porticoYAML, filepath.Join(filepath.Base(name)+".d", "all.yaml")))
		args = []string{program, "serve", "-f", p.folder, "--local-ca=false", "--access-log=false", "--default-tls-secret=default/bench",
			"--http-addr", fmt.Sprintf("127.0.0.1:%d", p.http), "--https-addr", fmt.Sprintf("127.0.0.1:%d", p.https),
			"--admin-addr", "127.0.0.1:0", "--debug-addr", b.debug, "--watch-without-class"}
	}
	p.args, p.log = args, filepath.Join(b.dir, filepath.Base(name)+".log")
	var err error
	p.process, err = start(ctx, proxyCore, name, p.log, p.https, args...)
	return p, err
}

// nginx writes a configuration and what it includes, and returns how it is started.
func (b *bench) nginx(p *peer, kind, conf string) []string {
	b.configure(p, kind, nginxHTTP, p.name+"/http.inc")
	b.configure(p, kind, nginxLocation, p.name+"/location.inc")
	path := b.configure(p, kind, conf, p.name+"/nginx.conf")
	return []string{"nginx", "-e", filepath.Join(filepath.Dir(path), "err"), "-c", path}
}

// traefik does as nginx. As traefik-fast it has its own client, which is an
// experiment, in place of net/http's.
func (b *bench) traefik(p *peer, kind string) []string {
	text := traefikYAML
	if p.name == "traefik-fast" {
		text += "experimental: {fastProxy: {}}\n"
	}
	b.configure(p, kind, traefikRoutes, p.name+"/routes.yml")
	return []string{"traefik", "--configFile=" + b.configure(p, kind, text, p.name+"/traefik.yml")}
}

// restart has a peer begin anew.
func (b *bench) restart(ctx context.Context, p *peer) (err error) {
	p.stop()
	p.process, err = start(ctx, proxyCore, p.name, p.log, p.https, p.args...)
	return err
}

// manyHosts are Ingresses of hosts h0.bench, h1.bench and so on.
func manyHosts(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: h%[1]d}, spec: {rules: [{host: h%[1]d.bench, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: bench, port: {number: 80}}}}]}}]}}\n---\n", i)
	}
	return b.String()
}

// configure fills a configuration in and returns its path.
func (b *bench) configure(p *peer, kind, text, file string) string {
	crt, _ := os.ReadFile(filepath.Join(b.dir, kind+".crt"))
	key, _ := os.ReadFile(filepath.Join(b.dir, kind+".key"))
	text = strings.NewReplacer(
		"DIR", b.dir, "NAME", p.name, "KIND", kind, "BACKEND", strconv.Itoa(b.backend), "HTTPS", strconv.Itoa(p.https), "HTTP", strconv.Itoa(p.http),
		"CRT64", base64.StdEncoding.EncodeToString(crt), "KEY64", base64.StdEncoding.EncodeToString(key),
	).Replace(text)
	path := filepath.Join(b.dir, file)
	_ = os.MkdirAll(filepath.Dir(path), 0o700)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		panic(err)
	}
	return path
}

func freePort() int {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).Port
}
