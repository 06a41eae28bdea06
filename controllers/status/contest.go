package status

import (
	"fmt"
	"strings"
	"sync"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/portico-ingress/portico/router/diag"
)

// contests notices that somebody else keeps writing other addresses into the
// status that we write: most often a second installation that serves the same
// class. Both would go on for ever, as fast as the apiserver lets them; so after
// a few rounds we write rarely, and say so. Safe for concurrent use.
type contests struct {
	mu   sync.Mutex // protects the following
	open map[types.NamespacedName]*contest
}

// contest is what became of our writes to one Ingress.
type contest struct {
	want  string // as we wrote it
	last  time.Time
	lost  int       // writes in a row that somebody else replaced
	until time.Time // when to write again; zero: at once
}

const (
	// contested is after how many lost writes it is no accident.
	contested = 3
	// settled is how long a write must last to be a good one.
	settled = 10 * time.Minute
	// contestFirst and contestLongest bound the time between writes to a
	// status that somebody else writes too.
	contestFirst   = time.Minute
	contestLongest = time.Hour
)

func newContests() *contests { return &contests{open: map[types.NamespacedName]*contest{}} }

// wait returns how long not to write, 0 if it may be done now.
func (c *contests) wait(name types.NamespacedName, now time.Time) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if k := c.open[name]; k != nil {
		return max(0, k.until.Sub(now))
	}
	return 0
}

// wrote notes a write, and reports whether it is one of too many of the same.
func (c *contests) wrote(name types.NamespacedName, want string, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.open[name]
	if k == nil || k.want != want || now.Sub(k.last) > settled && now.Sub(k.until) > settled {
		c.open[name] = &contest{want: want, last: now}
		return false
	}
	k.last = now
	if k.lost++; k.lost < contested {
		return false
	}
	k.until = now.Add(min(contestFirst<<min(k.lost-contested, 10), contestLongest))
	return true
}

// forget drops an Ingress that is gone.
func (c *contests) forget(name types.NamespacedName) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.open, name)
}

// ReasonContested tells that somebody else writes the status too.
const ReasonContested diag.Reason = "StatusContested"

// contestProblem tells of a contest over the status of ing, which said have.
func contestProblem(ing *networkingv1.Ingress, have, want []address) diag.Problem {
	said := strings.Join(text(have), ", ")
	return diag.Problem{
		Object:     diag.Ref{Kind: "Ingress", Namespace: ing.Namespace, Name: ing.Name, UID: string(ing.UID)},
		Generation: ing.Generation,
		Field:      "status.loadBalancer",
		Reason:     ReasonContested,
		Message:    fmt.Sprintf("somebody else keeps writing %q where %q is written here", said, strings.Join(text(want), ", ")),
		Remedy: "If two installations serve the class, give each a controller of its own (--controller-name; controllerNames of the chart), " +
			"or have one of them write no status (--publish-status=false; publish.status)",
	}
}
