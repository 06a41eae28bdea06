package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// sample is one measurement.
type sample struct {
	PerRequest  float64 `json:"cpuMicrosPerRequest"`
	Requests    float64 `json:"requestsPerSecond"`
	Utilisation float64 `json:"coreUtilisation"`
}

// result is one row of one peer.
type result struct {
	Workload string   `json:"workload"`
	Peer     string   `json:"peer"`
	Version  string   `json:"version"`
	Median   sample   `json:"median"`
	Least    float64  `json:"least"` // CPU µs per request
	Most     float64  `json:"most"`
	Ratio    float64  `json:"ratio"` // of the medians, to the first peer
	Load     string   `json:"loadAverage"`
	Samples  []sample `json:"samples"`
}

func median(of []sample, by func(sample) float64) float64 {
	sorted := slices.SortedFunc(slices.Values(of), func(a, b sample) int { return cmp.Compare(by(a), by(b)) })
	return by(sorted[len(sorted)/2])
}

// report prints the row of a workload and keeps it.
func (b *bench) report(w workload, peers []*peer, samples [][]sample) {
	load, _ := os.ReadFile("/proc/loadavg")
	average, _, _ := strings.Cut(string(load), " ")
	fmt.Printf("\n%s (load average %s, %d rounds)\n", w.title, average, b.rounds)
	base := 0.0
	for i, p := range peers {
		of := func(s sample) float64 { return s.PerRequest }
		r := result{Workload: w.title, Peer: p.name, Version: p.version, Load: average, Samples: samples[i]}
		r.Median = sample{median(samples[i], of), median(samples[i], func(s sample) float64 { return s.Requests }), median(samples[i], func(s sample) float64 { return s.Utilisation })}
		r.Least = slices.MinFunc(samples[i], func(a, b sample) int { return cmp.Compare(a.PerRequest, b.PerRequest) }).PerRequest
		r.Most = slices.MaxFunc(samples[i], func(a, b sample) int { return cmp.Compare(a.PerRequest, b.PerRequest) }).PerRequest
		if i == 0 {
			base = r.Median.PerRequest
		}
		r.Ratio = r.Median.PerRequest / base
		b.results = append(b.results, r)
		fmt.Printf("  %-14s %9.1f µs of CPU a request (%.1f to %.1f)  ratio %.2f  %8.0f requests/s at %3.0f %% of the core\n",
			filepath.Base(p.name), r.Median.PerRequest, r.Least, r.Most, r.Ratio, r.Median.Requests, 100*r.Median.Utilisation)
	}
}

// writeJSON writes everything that was measured.
func (b *bench) writeJSON(path string) error {
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	out, err := json.MarshalIndent(map[string]any{
		"when": time.Now().UTC().Format(time.RFC3339), "kernel": strings.TrimSpace(string(kernel)), "cores": runtime.NumCPU(), "go": runtime.Version(), "results": b.results,
	}, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, append(out, '\n'), 0o644)
}
