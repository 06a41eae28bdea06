package l4_test

import (
	"testing"

	"github.com/portico-ingress/portico/router/l4"
	"github.com/portico-ingress/portico/test/flows"
)

func TestFlows(t *testing.T) {
	cases, err := flows.Load()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			p := l4.NewPlanner(c.Node)
			for _, s := range c.Services {
				p.Set(s)
			}
			plan := p.Plan()
			for _, f := range c.Flows {
				o := plan.Trace(f.Packet)
				if got := o.String(); got != f.Want {
					t.Errorf("%s:\n got %s\nwant %s\nsteps %q", f.Name, got, f.Want, o.Steps)
				}
			}
		})
	}
}
