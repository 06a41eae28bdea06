package l4_test

import (
	"fmt"
	"testing"

	"github.com/portico-ingress/portico/router/l4"
	"github.com/portico-ingress/portico/test/many"
)

// BenchmarkChange replaces one endpoint: the cost must not depend on the
// number of Services.
func BenchmarkChange(b *testing.B) {
	for _, n := range []int{100, 10_000, 50_000} {
		b.Run(fmt.Sprintf("services=%d", n), func(b *testing.B) {
			p := l4.NewPlanner(many.Node())
			all := make([]*l4.Service, n)
			for i := range all {
				all[i] = many.Services{Endpoints: 5, Local: 1}.Service(i)
				p.Set(all[i])
			}
			p.Plan()
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				at := i * 7919 % n
				all[at] = many.SwapOne(all[at], i)
				p.Set(all[at])
				if c := p.Take(); len(c.Set) != 1 {
					b.Fatalf("%d updates, want 1", len(c.Set))
				}
			}
		})
	}
}

// BenchmarkChangeLarge replaces one of the many endpoints of one Service.
func BenchmarkChangeLarge(b *testing.B) {
	for _, n := range []int{1000, 100_000} {
		b.Run(fmt.Sprintf("endpoints=%d", n), func(b *testing.B) {
			p := l4.NewPlanner(many.Node())
			s := many.Services{Endpoints: n, Local: 1}.Service(0)
			p.Set(s)
			p.Plan()
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				s = many.SwapOne(s, i)
				p.Set(s)
				if c := p.Take(); len(c.Set) != 1 || len(c.Set[0].ClusterDelta.Added) != 1 {
					b.Fatal("not one endpoint")
				}
			}
		})
	}
}

// BenchmarkPlan decides everything, as at a start.
func BenchmarkPlan(b *testing.B) {
	for _, size := range []struct{ services, endpoints int }{{10_000, 5}, {50_000, 10}} {
		b.Run(fmt.Sprintf("%dx%d", size.services, size.endpoints), func(b *testing.B) {
			all := make([]*l4.Service, size.services)
			for i := range all {
				all[i] = many.Services{Endpoints: size.endpoints, Local: 1}.Service(i)
			}
			b.ReportAllocs()
			for b.Loop() {
				p := l4.NewPlanner(many.Node())
				for _, s := range all {
					p.Set(s)
				}
				if plan := p.Plan(); len(plan.Forwardings) != size.services {
					b.Fatal(len(plan.Forwardings))
				}
			}
		})
	}
}
