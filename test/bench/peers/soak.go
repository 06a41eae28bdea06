package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// soak puts Portico under everything at once for a long time, and compares what it
// holds when all has gone with what it held after a first, short time of the same.
// It returns an error if goroutines, descriptors or memory were left behind.
func (b *bench) soak(ctx context.Context, length time.Duration) error {
	os.Setenv("PORTICO_BACKEND_IDLE_TIMEOUT", "2s") // so that what is at rest is soon gone
	b.debug = fmt.Sprintf("127.0.0.1:%d", freePort())
	p, err := b.startPeer(ctx, "portico:1", "ecdsa")
	if err != nil {
		return err
	}
	defer p.stop()
	if err := b.mix(ctx, p, min(length/5, 20*time.Second)); err != nil {
		return err
	}
	before, err := b.held(ctx, p)
	if err != nil {
		return err
	}
	fmt.Printf("%-12s %s\n", "at first", before)
	for from := time.Now(); time.Since(from) < length; {
		if err := b.mix(ctx, p, min(length-time.Since(from), time.Minute)); err != nil {
			return err
		}
		now, err := b.held(ctx, p)
		if err != nil {
			return err
		}
		fmt.Printf("%-12s %s\n", time.Since(from).Round(time.Second), now)
	}
	after, err := b.held(ctx, p)
	if err != nil {
		return err
	}
	return after.leaked(before)
}

// held is what a process holds without a single connection.
type held struct{ goroutines, descriptors, heapKiB, rssKiB int }

func (h held) String() string {
	return fmt.Sprintf("%4d goroutines, %4d descriptors, %6d KiB of heap, %6d KiB in all", h.goroutines, h.descriptors, h.heapKiB, h.rssKiB)
}

// leaked allows for pools and caches that have grown since.
func (h held) leaked(before held) error {
	var errs []error
	if h.goroutines > before.goroutines+5 {
		errs = append(errs, fmt.Errorf("%d goroutines are left behind", h.goroutines-before.goroutines))
	}
	if h.descriptors > before.descriptors+5 {
		errs = append(errs, fmt.Errorf("%d descriptors are left behind", h.descriptors-before.descriptors))
	}
	if h.heapKiB > before.heapKiB+max(before.heapKiB/4, 8<<10) {
		errs = append(errs, fmt.Errorf("the heap has grown by %d KiB", h.heapKiB-before.heapKiB))
	}
	return errors.Join(errs...)
}

var (
	goroutineCount = regexp.MustCompile(`goroutine profile: total (\d+)`)
	heapCount      = regexp.MustCompile(`# HeapAlloc = (\d+)`)
)

// held waits until connections to backends have ended, too, and collects garbage.
func (b *bench) held(ctx context.Context, p *peer) (held, error) {
	var last held
	for same := 0; same < 5; {
		pause := time.NewTimer(time.Second)
		select {
		case <-pause.C:
		case <-ctx.Done():
			return last, ctx.Err()
		}
		g, err1 := b.count("goroutine?debug=1", goroutineCount)
		h, err2 := b.count("heap?debug=1&gc=1", heapCount)
		files, err3 := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid))
		if err := errors.Join(err1, err2, err3); err != nil {
			return last, err
		}
		now := held{g, len(files), h >> 10, p.memory()}
		if same++; now.goroutines != last.goroutines || now.descriptors != last.descriptors {
			same = 0
		}
		last = now
	}
	return last, nil
}

func (b *bench) count(page string, what *regexp.Regexp) (int, error) {
	resp, err := http.Get("http://" + b.debug + "/debug/pprof/" + page)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	m := what.FindSubmatch(text)
	if err != nil || m == nil {
		return 0, fmt.Errorf("%s: %s, %w", page, resp.Status, err)
	}
	return strconv.Atoi(string(m[1]))
}

// mix runs every kind of load at once, and changes the manifests meanwhile.
func (b *bench) mix(ctx context.Context, p *peer, length time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, length+30*time.Second)
	defer cancel()
	loads := []load{
		wrk("http", "/", 16), wrk("https", "/", 16), wrk("http", "/bytes/1048576", 2), wrk("https", "/bytes/1048576", 2),
		wrk("http", "/", 2, "-s", "upload.lua"), h2load, handshakes(true), rude, b.edits,
	}
	errs := make([]error, len(loads))
	var wg sync.WaitGroup
	for i, l := range loads {
		wg.Go(func() { _, errs[i] = l(ctx, b, p, max(length, 2*time.Second)) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// edits adds a host and takes it away again.
func (b *bench) edits(ctx context.Context, _ *bench, p *peer, length time.Duration) (int, error) {
	file := filepath.Join(p.folder, "edited.yaml")
	defer os.Remove(file)
	until, tick := time.Now().Add(length), time.NewTicker(500*time.Millisecond)
	defer tick.Stop()
	n := 0
	for ; time.Now().Before(until); n++ {
		if err := os.WriteFile(file, []byte(strings.ReplaceAll(manyHosts(1), "h0", "edited"+strconv.Itoa(n%50))), 0o600); err != nil {
			return n, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return n, nil
		}
	}
	return n, nil
}

// rudeness is what clients do that do not play by the rules.
var rudeness = []string{
	"",
	"GET / HTTP/1.1\r\nHo",
	"GET / HTTP/1.1\r\nHost: x\r\n\r\n", // and gone
	"GET /bytes/1048576 HTTP/1.1\r\nHost: x\r\n\r\n",                              // and gone in the middle
	"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nhello",              // and no more
	"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello",  // and no more
	"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello", // malformed
	"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",        // HTTP/2 without a request
	"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff",        // frames that are none
	"CONNECT x:1 HTTP/1.1\r\nHost: x:1\r\n\r\n",
}

// rude opens connections, over TLS and without, says something and leaves, at times
// with a reset.
func rude(ctx context.Context, _ *bench, p *peer, length time.Duration) (int, error) {
	until := time.Now().Add(length)
	var done atomic.Int64
	var wg sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		wg.Go(func() {
			for time.Now().Before(until) && ctx.Err() == nil && errs[i] == nil {
				if errs[i] = leave(p); errs[i] == nil {
					done.Add(1)
				}
			}
		})
	}
	wg.Wait()
	return int(done.Load()), errors.Join(errs...)
}

func leave(p *peer) error {
	said := rudeness[rand.IntN(len(rudeness))]
	port := p.http
	secure := rand.IntN(2) == 0
	if secure {
		port = p.https
	}
	nc, err := net.Dial("tcp", "127.0.0.1:"+strconv.Itoa(port))
	if err != nil {
		return err
	}
	defer nc.Close()
	if rand.IntN(2) == 0 {
		_ = nc.(*net.TCPConn).SetLinger(0)
	}
	var to net.Conn = nc
	if secure && rand.IntN(4) > 0 { // else plain words to TLS
		to = tls.Client(nc, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13})
	}
	_ = nc.SetDeadline(time.Now().Add(time.Duration(rand.IntN(50)) * time.Millisecond))
	_, _ = io.WriteString(to, said)
	_, _ = io.CopyN(io.Discard, to, rand.Int64N(100<<10)) // until the deadline at most
	return nil
}
