package envtest_test

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/portico-ingress/portico/test/envtest"
)

// measureProcess starts the program itself at what populate has made, sends
// requests to known hosts from the first connection on, and measures how long it
// takes until it is ready and how much memory that needs. An answer that is
// not that of a route to no good endpoint, such as a 404, fails.
func (c *cluster) measureProcess(b *testing.B, n int) {
	p := c.startProcess(b)
	var answers int
	for ready := time.Duration(0); ready == 0; answers++ {
		p.check(b)
		status, err := p.ask(scaleHost(answers * 7919 % n))
		switch {
		case err != nil: // not listening yet
		case status < 500:
			b.Fatalf("%v after the start, request %d to a known host is answered by %d", time.Since(p.begun), answers, status)
		}
		if p.ready() {
			ready = time.Since(p.begun)
			b.ReportMetric(ready.Seconds(), "s-to-ready")
		}
	}
	for i := range 100 {
		if status, err := p.ask(scaleHost(i * 7919 % n)); err != nil || status < 500 {
			b.Fatalf("ready, and a known host is answered by %d, %v", status, err)
		}
	}
	b.ReportMetric(p.memory(b, "VmHWM"), "MiB-peak")
	b.ReportMetric(p.memory(b, "VmRSS"), "MiB")
	b.ReportMetric(0, "ns/op")
}

// A process is the program at work.
type process struct {
	cmd         *exec.Cmd
	begun       time.Time
	log         bytes.Buffer // to be read when ended is closed
	ended       chan struct{}
	http, admin string
	client      *http.Client
}

func (c *cluster) startProcess(b *testing.B) *process {
	b.Helper()
	program := filepath.Join(b.TempDir(), "portico")
	if out, err := exec.CommandContext(b.Context(), "go", "build", "-o", program, "../../cmd/portico").CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	p := &process{http: freeAddress(b), admin: freeAddress(b), ended: make(chan struct{})}
	p.client = &http.Client{Timeout: time.Minute, Transport: &http.Transport{DisableKeepAlives: true}}
	p.cmd = exec.CommandContext(b.Context(), program, "controller", "--kubeconfig", envtest.Kubeconfig(b), "--controller-name", c.controller,
		"--http-addr", p.http, "--https-addr", "", "--admin-addr", p.admin, "--debug-addr", "", "--leader-elect=false", "--publish-status=false",
		"--access-log=false", "--drain-delay", "0s")
	p.cmd.Stderr = &p.log
	if err := p.cmd.Start(); err != nil {
		b.Fatal(err)
	}
	p.begun = time.Now()
	go func() { _ = p.cmd.Wait(); close(p.ended) }()
	b.Cleanup(func() {
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		<-p.ended
	})
	return p
}

func freeAddress(b *testing.B) string {
	b.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// check ends the benchmark if the process has ended.
func (p *process) check(b *testing.B) {
	select {
	case <-p.ended:
		b.Fatalf("the program ended: %s", &p.log)
	default:
	}
}

func (p *process) ask(host string) (status int, err error) {
	req, err := http.NewRequest(http.MethodGet, "http://"+p.http+"/", nil)
	if err != nil {
		return 0, err
	}
	req.Host = host
	return p.do(req)
}

func (p *process) do(req *http.Request) (status int, err error) {
	resp, err := p.client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	return resp.StatusCode, nil
}

func (p *process) ready() bool {
	req, err := http.NewRequest(http.MethodGet, "http://"+p.admin+"/readyz", nil)
	if err != nil {
		return false
	}
	status, err := p.do(req)
	return err == nil && status == http.StatusOK
}

// memory returns a field of the process's status, in MiB.
func (p *process) memory(b *testing.B, field string) float64 {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		b.Fatal(err)
	}
	for _, line := range strings.Split(string(text), "\n") {
		if rest, ok := strings.CutPrefix(line, field+":"); ok {
			kib, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			if err != nil {
				b.Fatal(err)
			}
			return kib / 1024
		}
	}
	b.Fatalf("no %s in\n%s", field, text)
	return 0
}
