package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// openLoop sends requests at times that were fixed before, however long the answers
// take: about a third of what nginx could do. It tells what a request costs and
// how long it takes.
func openLoop(ctx context.Context, b *bench, p *peer, length time.Duration) (sample, error) {
	times := filepath.Join(b.dir, "times.tsv")
	defer os.Remove(times)
	s, err := cpu(func(ctx context.Context, b *bench, p *peer, length time.Duration) (int, error) {
		out, err := exec.CommandContext(ctx, "taskset", "-c", loadCore, "h2load", "--h1", "-t1", "-c64", "-m1", "--rps=200", "--log-file="+times,
			"-D", strconv.Itoa(int(length.Seconds())), p.url("https", "/")).CombinedOutput()
		m := h2Done.FindSubmatch(out)
		if err != nil || m == nil || string(m[2]) != "0" || string(m[3]) != "0" {
			return 0, fmt.Errorf("h2load: %v\n%s", err, out)
		}
		return strconv.Atoi(string(m[1]))
	})(ctx, b, p, length)
	if err != nil {
		return s, err
	}
	took, err := durations(times)
	if err != nil || len(took) == 0 {
		return s, fmt.Errorf("h2load wrote no times: %w", err)
	}
	s.P50, s.P99 = took[len(took)/2], took[len(took)*99/100]
	return s, nil
}

// durations reads how many microseconds each request took, sorted.
func durations(file string) ([]int, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var out []int
	for lines := bufio.NewScanner(f); lines.Scan(); {
		columns := strings.Split(lines.Text(), "\t")
		if len(columns) < 3 {
			continue
		}
		n, err := strconv.Atoi(columns[2])
		if err != nil {
			return nil, err
		}
		out = append(out, n)
	}
	slices.Sort(out)
	return out, nil
}

// idleConns are so many that what a process needs anyway does not count.
const idleConns = 2000

// idle opens connections to a process that has just started, sends a request on
// each, and tells what each one costs in memory when nothing more comes.
func idle(ctx context.Context, b *bench, p *peer, _ time.Duration) (sample, error) {
	if err := b.restart(ctx, p); err != nil {
		return sample{}, err
	}
	config := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13}
	open := func(n int) ([]net.Conn, error) {
		var conns []net.Conn
		for range n {
			tc, err := tls.Dial("tcp", "127.0.0.1:"+strconv.Itoa(p.https), config)
			if err != nil {
				return conns, err
			}
			conns = append(conns, tc)
			if _, err := io.WriteString(tc, "GET / HTTP/1.1\r\nHost: h0.bench\r\n\r\n"); err != nil {
				return conns, err
			}
			answer := make([]byte, 4<<10)
			if n, err := tc.Read(answer); err != nil || !strings.HasPrefix(string(answer[:n]), "HTTP/1.1 200") {
				return conns, fmt.Errorf("%q, %w", answer[:n], err)
			}
		}
		return conns, nil
	}
	first, err := open(100) // what the first connections bring with them is not theirs
	defer closeAll(first)
	if err != nil {
		return sample{}, err
	}
	before := p.settled(ctx)
	conns, err := open(idleConns)
	defer closeAll(conns)
	if err != nil {
		return sample{}, err
	}
	return sample{Value: float64(p.settled(ctx)-before) / idleConns}, nil
}

func closeAll(conns []net.Conn) {
	for _, c := range conns {
		_ = c.Close()
	}
}

// settled returns the memory of a process in KiB, when it has not changed for
// three seconds: some give it back late.
func (p *peer) settled(ctx context.Context) int {
	last, same := 0, 0
	for same < 15 && ctx.Err() == nil {
		pause := time.NewTimer(200 * time.Millisecond)
		select {
		case <-pause.C:
		case <-ctx.Done():
		}
		pause.Stop()
		now := p.memory()
		if same++; now != last {
			same = 0
		}
		last = now
	}
	return last
}

// memory is what a process and its children need for themselves, in KiB.
func (p *peer) memory() int {
	sum := 0
	for _, pid := range family(p.cmd.Process.Pid) {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		for line := range strings.Lines(string(text)) {
			if rest, ok := strings.CutPrefix(line, "Pss:"); ok {
				n, _ := strconv.Atoi(strings.Fields(rest)[0])
				sum += n
			}
		}
	}
	return sum
}
