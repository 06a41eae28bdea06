// Command peers measures what a request costs Portico and its peers, in one run
// on one machine: the CPU time of the proxy alone, pinned to one core, while
// load and backend have the others. Runs are interleaved, so that what disturbs
// the machine disturbs all.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// bench is one run of everything.
type bench struct {
	dir     string // of certificates and configurations
	program string // Portico
	backend int    // port
	rounds  int
	length  time.Duration
	debug   string // --debug-addr of Portico; empty: none
	results []result
}

func main() {
	play := flag.String("play", "", "play a part: backend, reverseproxy (used by this program itself)")
	rounds := flag.Int("rounds", 5, "rounds of every workload")
	length := flag.Duration("length", 3*time.Second, "length of one measurement")
	names := flag.String("peers", "nginx,haproxy,reverseproxy,portico", "whom to measure; ratios are to the first")
	only := flag.String("workloads", "", "workloads by name, comma-separated (default: all)")
	program := flag.String("portico", "bin/portico", "Portico's program")
	out := flag.String("json", "bin/bench.json", "where to write the results")
	soak := flag.Duration("soak", 0, "in place of everything else, let Portico hold out that long, and look for what it leaves behind")
	args := flag.String("args", "", "of a part that is played")
	flag.Parse()
	if *play != "" {
		playPart(*play, *args)
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	b := &bench{program: *program, rounds: *rounds, length: *length, debug: os.Getenv("BENCH_DEBUG_ADDR")}
	measure := func(ctx context.Context) error { return b.runGroups(ctx, strings.Split(*names, ","), *only) }
	if *soak > 0 {
		measure = func(ctx context.Context) error { return b.soak(ctx, *soak) }
	}
	if err := b.run(ctx, measure); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	if *soak > 0 {
		fmt.Println("nothing is left behind")
		return
	}
	if err := b.writeJSON(*out); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// run measures with a backend and certificates.
func (b *bench) run(ctx context.Context, measure func(context.Context) error) (err error) {
	if b.dir, err = os.MkdirTemp("", "portico-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	if err := writeCertificates(b.dir); err != nil {
		return err
	}
	b.backend = freePort()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	back, err := start(ctx, loadCore, "backend", filepath.Join(b.dir, "backend.log"), b.backend, self, "-play", "backend", "-args", fmt.Sprint(b.backend))
	if err != nil {
		return err
	}
	defer back.stop()
	return measure(ctx)
}

func (b *bench) runGroups(ctx context.Context, names []string, only string) error {
	for _, g := range groups {
		var todo []workload
		for _, w := range g.workloads {
			if only == "" || slices.Contains(strings.Split(only, ","), w.name) {
				todo = append(todo, w)
			}
		}
		if len(g.peers) == 0 {
			g.peers = names
		}
		if err := b.runGroup(ctx, g, todo); err != nil {
			return err
		}
	}
	return nil
}

// runGroup measures workloads with the same peers.
func (b *bench) runGroup(ctx context.Context, g group, todo []workload) error {
	if len(todo) == 0 {
		return nil
	}
	var peers []*peer
	for _, name := range g.peers {
		p, err := b.startPeer(ctx, name, g.kind)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		defer func() { p.stop() }()
		peers = append(peers, p)
	}
	for _, w := range todo {
		if err := b.measure(ctx, w, peers); err != nil {
			return err
		}
	}
	return nil
}

// measure interleaves rounds of one workload.
func (b *bench) measure(ctx context.Context, w workload, peers []*peer) error {
	samples := make([][]sample, len(peers))
	for round := -1; round < b.rounds; round++ {
		for i, p := range peers {
			length := b.length
			if round < 0 {
				length = time.Second // warm-up
			}
			s, err := w.run(ctx, b, p, length)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil {
				return fmt.Errorf("%s at %s: %w", w.name, p.name, err)
			}
			if round >= 0 {
				samples[i] = append(samples[i], s)
			}
		}
	}
	b.report(w, peers, samples)
	return nil
}

// version is what a peer says it is.
func version(name string, args ...string) string {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil && len(out) == 0 {
		return err.Error()
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	return line
}
