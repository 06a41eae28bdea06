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
	Value       float64 `json:"value"` // in the workload's unit
	Requests    float64 `json:"requestsPerSecond,omitempty"`
	Utilisation float64 `json:"coreUtilisation,omitempty"`
	P50         int     `json:"p50Micros,omitempty"`
	P99         int     `json:"p99Micros,omitempty"`
}

// result is one row of one peer.
type result struct {
	Workload string   `json:"workload"`
	Unit     string   `json:"unit"`
	Peer     string   `json:"peer"`
	Version  string   `json:"version"`
	Median   sample   `json:"median"`
	Least    float64  `json:"least"`
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
		of := func(s sample) float64 { return s.Value }
		r := result{Workload: w.title, Unit: w.unit, Peer: p.name, Version: p.version, Load: average, Samples: samples[i]}
		r.Median = sample{
			median(samples[i], of), median(samples[i], func(s sample) float64 { return s.Requests }), median(samples[i], func(s sample) float64 { return s.Utilisation }),
			int(median(samples[i], func(s sample) float64 { return float64(s.P50) })), int(median(samples[i], func(s sample) float64 { return float64(s.P99) })),
		}
		r.Least = slices.MinFunc(samples[i], func(a, b sample) int { return cmp.Compare(a.Value, b.Value) }).Value
		r.Most = slices.MaxFunc(samples[i], func(a, b sample) int { return cmp.Compare(a.Value, b.Value) }).Value
		if i == 0 {
			base = r.Median.Value
		}
		r.Ratio = r.Median.Value / base
		b.results = append(b.results, r)
		fmt.Printf("  %-14s %9.1f %s (%.1f to %.1f)  ratio %.2f", filepath.Base(p.name), r.Median.Value, w.unit, r.Least, r.Most, r.Ratio)
		if r.Median.Requests > 0 {
			fmt.Printf("  %8.0f requests/s at %3.0f %% of the core", r.Median.Requests, 100*r.Median.Utilisation)
		}
		if r.Median.P50 > 0 {
			fmt.Printf("  p50 %d µs, p99 %d µs", r.Median.P50, r.Median.P99)
		}
		fmt.Println()
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
