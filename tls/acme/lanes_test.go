package acme

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestTurns: what begins of what is due, with room for four at each issuer. What is
// due for longest stands first in each list.
func TestTurns(t *testing.T) {
	for name, c := range map[string]struct {
		busy, due, blocked, want string // owner/issuer and a number
	}{
		"one owner":                    {due: "a/x1 a/x2 a/x3 a/x4 a/x5", want: "a/x1 a/x2 a/x3 a/x4"},
		"thousands before another":     {due: "a/x1 a/x2 a/x3 a/x4 a/x5 b/x6", want: "a/x1 b/x6 a/x2 a/x3"},
		"who has the fewest in flight": {busy: "a/x1 a/x2 b/x3", due: "a/x4 b/x5 c/x6", want: "c/x6"},
		"and then the next":            {busy: "a/x1 a/x2", due: "a/x4 b/x5 b/x6", want: "b/x5 b/x6"},
		"as many, by time":             {busy: "a/x1 b/x2 a/x3", due: "b/x4 a/x5", want: "b/x4"},
		"it is full":                   {busy: "a/x1 a/x2 a/x3 a/x4", due: "b/x5"},
		"other issuers have their own": {busy: "a/x1 a/x2 a/x3 a/x4", due: "a/x5 a/y6", want: "a/y6"},
		"what cannot begin":            {due: "a/x1 a/x2 b/x3 a/x4 c/x5", blocked: "a/x1 b/x3", want: "a/x2 c/x5 a/x4"},
	} {
		var at int
		of := func(text string) (list []planned) {
			for _, id := range strings.Fields(text) {
				owner, rest, _ := strings.Cut(id, "/")
				at++
				list = append(list, planned{id: id, wanted: Wanted{Owner: owner, Issuer: &Issuer{Name: rest[:1]}}, action: Action{At: begun.Add(time.Duration(at))}})
			}
			return list
		}
		busy := make(map[string]planned)
		for _, p := range of(c.busy) {
			busy[p.id] = p
		}
		due := of(c.due)
		for range 10 { // whatever the order of maps
			var got []string
			newLanes(due, busy).begin(4, func(p planned) bool {
				if slices.Contains(strings.Fields(c.blocked), p.id) {
					return false
				}
				got = append(got, p.id)
				return true
			})
			if text := strings.Join(got, " "); text != c.want {
				t.Errorf("%s: %q, want %q", name, text, c.want)
				break
			}
		}
	}
}

// TestNeighboursFail: one namespace's certificates, which fail again and again, do
// not delay another's only one.
func TestNeighboursFail(t *testing.T) {
	slow := server(t, "slow", silence)
	o := newOffice(t, func(o *Options) { o.InFlight = 2 })
	var list []Wanted
	waits := func(owner, host string, tried time.Duration) {
		w := want(slow, host)
		w.Owner = owner
		r := w.record()
		r.Failures = Failures{Count: 1, Last: time.Now().Add(-tried), Reason: ReasonValidation, Account: slow.account(slow.Directory)}
		if err := o.storage.PutRecord(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		list = append(list, w)
	}
	for n := range 50 {
		waits("noisy", fmt.Sprintf("a%d.example", n), day)
	}
	waits("quiet", "b.example", time.Hour)
	stop := o.run()
	defer stop()
	o.Want(list)
	o.until("two are in flight", func() bool { return o.count(StepOrdering) == 2 })
	if o.count(StepOrdering+" b.example") != 1 {
		t.Errorf("the other waits: %v", o.steps)
	}
}

// TestWaitsTurn: within a namespace, what was never tried does not wait behind
// renewals that have failed since somebody looks.
func TestWaitsTurn(t *testing.T) {
	o := newOffice(t)
	i := ownIssuer("own")
	now := time.Now()
	old := want(i, "old.example")
	r := ended(t, old)
	r.Failures = Failures{Count: 1, Last: now.Add(-time.Hour), Reason: ReasonValidation, Account: i.account("")}
	o.reset([]*Record{r})
	defer o.close()
	o.started = now.Add(-day)
	o.Want([]Wanted{old, want(i, "a.example")})
	o.Manager.mu.Lock()
	defer o.Manager.mu.Unlock()
	if plan := o.plan(now); plan[0].wanted.Names[0] != "a.example" {
		t.Errorf("%v goes first, due at %s", plan[0].wanted.Names, plan[0].action.At)
	}
}
