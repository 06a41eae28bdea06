//go:build linux && root

package nft_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/portico-ingress/portico/router/l4"
	"github.com/portico-ingress/portico/test/many"
	"github.com/portico-ingress/portico/test/netns"
)

func benchService(i, endpoints int, affinity time.Duration) *l4.Service {
	s := many.Services{Endpoints: endpoints, Local: 1}.Service(i)
	s.Affinity = affinity
	return s
}

// BenchmarkChange replaces one endpoint, or adds one and takes it away in turns,
// from what the Service is now to the commit: the cost must not depend on the
// number of Services or endpoints.
func BenchmarkChange(b *testing.B) {
	for _, size := range []struct {
		services, endpoints int
		affinity            time.Duration
		kind                string
		change              func(*l4.Service, int) *l4.Service
	}{
		{100, 5, 0, "swap", many.SwapOne}, {10_000, 5, 0, "swap", many.SwapOne}, {50_000, 10, 0, "swap", many.SwapOne}, {1, 100_000, 0, "swap", many.SwapOne},
		{100, 5, time.Hour, "swap", many.SwapOne}, {10_000, 5, time.Hour, "swap", many.SwapOne},
		{100, 5, time.Hour, "grow", many.GrowOne}, {10_000, 5, time.Hour, "grow", many.GrowOne},
		{1, 50_000, time.Hour, "swap", many.SwapOne}, {1, 50_000, time.Hour, "grow", many.GrowOne},
	} {
		b.Run(fmt.Sprintf("%dx%d affinity=%s %s", size.services, size.endpoints, size.affinity, size.kind), func(b *testing.B) {
			k, p := open(b, netns.New(b)), l4.NewPlanner(many.Node())
			all := make([]*l4.Service, size.services)
			for i := range all {
				all[i] = benchService(i, size.endpoints, size.affinity)
				p.Set(all[i])
			}
			k.replace(b, p.Plan())
			var took []time.Duration
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				at := i / 2 * 7919 % len(all)
				all[at] = size.change(all[at], i)
				began := time.Now()
				p.Set(all[at])
				k.apply(b, p.Take())
				took = append(took, time.Since(began))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
		})
	}
}

// BenchmarkReplace programs everything, as a start does: into an empty kernel,
// and over what is there.
func BenchmarkReplace(b *testing.B) {
	for _, size := range []struct {
		services, endpoints int
		affinity            time.Duration
	}{{1000, 5, 0}, {10_000, 5, 0}, {50_000, 10, 0}, {1000, 5, time.Hour}, {10_000, 5, time.Hour}} {
		for _, empty := range []bool{true, false} {
			b.Run(fmt.Sprintf("%dx%d affinity=%s empty=%t", size.services, size.endpoints, size.affinity, empty), func(b *testing.B) {
				p := l4.NewPlanner(many.Node())
				for i := range size.services {
					p.Set(benchService(i, size.endpoints, size.affinity))
				}
				plan := p.Plan()
				k := open(b, netns.New(b))
				k.replace(b, plan)
				for b.Loop() {
					if empty {
						b.StopTimer()
						k.delete(b)
						b.StartTimer()
					}
					k.replace(b, plan)
				}
			})
		}
	}
}
