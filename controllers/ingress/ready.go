package ingress

import (
	"fmt"
	"maps"
	"slices"

	"sigs.k8s.io/controller-runtime/pkg/client"
)

// A Check is one condition of readiness.
type Check struct {
	Name  string
	Ready bool
	// Detail says what is waited for, or what is degraded although ready;
	// empty if there is nothing to say.
	Detail string
}

// syncCheck asks an informer whether its first list was delivered.
type syncCheck struct {
	name   string
	object client.Object // of the type that is watched
	synced func() bool
}

// Ready returns every condition of readiness, in a fixed order. The first
// table is served when all are met. Safe for concurrent use; never blocks on
// the apiserver.
func (c *Controller) Ready() []Check {
	var checks []Check
	for _, s := range c.synced {
		check := Check{Name: s.name, Ready: s.synced()}
		if !check.Ready {
			check.Detail = "the first list has not been delivered"
			if why := c.opts.Watches.why(s.object); why != "" {
				check.Detail += ": " + why
			}
		} else if why := c.classless.Load(); why != nil && s.name == "ingressclasses" {
			check.Detail = *why
		}
		checks = append(checks, check)
	}
	released := c.opts.Publisher.Snapshot() != nil
	checks = append(checks, c.secrets.checks(released)...)
	if c.opts.Apiserver != nil {
		checks = append(checks, c.opts.Apiserver.check())
	}
	table := Check{Name: "table", Ready: released}
	if !table.Ready {
		table.Detail = "the first table has not been published"
	}
	return append(checks, table)
}

// checks tells of every scope, and of the Secrets watched by name together.
// Once a table is served those only degrade: Ingresses that anybody makes decide
// what they are, and they come to all replicas at once.
func (s *secrets) checks(released bool) []Check {
	s.mu.Lock()
	defer s.mu.Unlock()
	var checks []Check
	for _, ns := range slices.Sorted(maps.Keys(s.scopes)) {
		f := s.scopes[ns]
		check := Check{Name: "secrets", Ready: f.phase != waiting}
		if ns != "" {
			check.Name = "secrets[" + ns + "]"
		}
		switch f.phase {
		case waiting:
			check.Detail = "the first list has not been delivered"
		case refused:
			check.Detail = "refused, certificates of this scope are read one by one or not at all: " + f.refusal
		}
		checks = append(checks, check)
	}
	if len(s.named) > 0 {
		named := s.namedCheck()
		named.Ready = named.Ready || released
		checks = append(checks, named)
	}
	return checks
}

func (s *secrets) namedCheck() Check {
	var open, unreadable int
	for _, f := range s.named {
		switch f.phase {
		case waiting:
			open++
		case refused:
			unreadable++
		}
	}
	check := Check{Name: "secrets by name", Ready: open == 0}
	if open+unreadable > 0 {
		check.Detail = fmt.Sprintf("of %d, %d not delivered yet, %d refused", len(s.named), open, unreadable)
	}
	return check
}
