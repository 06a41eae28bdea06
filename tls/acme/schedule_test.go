package acme

import (
	"crypto/x509"
	"fmt"
	"testing"
	"time"

	acmelib "github.com/mholt/acmez/v3/acme"
)

// begun is when the tests' clocks start.
var begun = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)

const day = 24 * time.Hour

// life is one certificate of a simulation, with a CA that is asked by hand.
type life struct {
	facts  Facts
	length time.Duration // of certificates
	slow   time.Duration // what the CA's clock is ahead of ours; negative: behind
	orders []time.Time
	asked  int
}

func newLife(n int, length time.Duration, issued time.Time) *life {
	return &life{length: length, facts: Facts{ID: fmt.Sprint("certificate ", n), NotBefore: issued, NotAfter: issued.Add(length), Started: begun}}
}

// run goes from one action to the next until the end, with a CA that answers
// orders by the given reason, or issues where there is none.
func (l *life) run(from, to time.Time, ca func(at time.Time) Reason) {
	for now := from; ; {
		l.facts.Now = now
		next := Next(l.facts)
		if now = latest(next.At, now); now.After(to) {
			return
		}
		if next.Kind == AskRenewal {
			l.asked++
			l.facts.Renewal = &Suggestion{Next: now.Add(askEvery)}
			continue
		}
		l.orders = append(l.orders, now)
		if reason := ca(now); reason != "" {
			l.facts.Failures.Count++
			l.facts.Failures.Last, l.facts.Failures.Reason = now, reason
			continue
		}
		l.facts.NotBefore, l.facts.NotAfter, l.facts.Failures = now.Add(l.slow), now.Add(l.slow).Add(l.length), Failures{}
		if l.facts.Issued = now; l.facts.hasty(now) {
			l.facts.Hasty++
		}
	}
}

func issues(time.Time) Reason { return "" }

func TestRenewalOver40Days(t *testing.T) {
	for length, certificates := range map[time.Duration]int{90 * day: 50, 6 * day: 50, 5 * time.Minute: 2} {
		for n := range certificates {
			l := newLife(n, length, begun)
			l.run(begun, begun.Add(40*day), issues)
			last := begun
			for _, at := range l.orders {
				if age := at.Sub(last); age > length*2/3 || age < length*2/3-length/20 {
					t.Fatalf("%v: renewed after %v", length, age)
				}
				last = at
			}
			if low, high := int(40*day/(length*2/3)), int(40*day/(length*2/3-length/20)); len(l.orders) < low || len(l.orders) > high {
				t.Errorf("%v: %d orders in 40 days, want %d to %d", length, len(l.orders), low, high)
			}
		}
	}
}

// TestCADownFor40Days: it is asked again and again, neither often nor never, and
// the first moment that it answers gives a certificate.
func TestCADownFor40Days(t *testing.T) {
	l := newLife(1, 90*day, begun.Add(-58*day))
	back := begun.Add(40 * day)
	l.run(begun, back.Add(day), func(at time.Time) Reason {
		if at.Before(back) {
			return ReasonUnavailable
		}
		return ""
	})
	last := l.orders[len(l.orders)-1]
	if first := l.orders[0]; first.After(begun.Add(3*day)) || last.Sub(back) > 15*time.Minute || last.Before(back) {
		t.Errorf("first tried at %v, last at %v", first, last)
	}
	if n := len(l.orders); n < 40*24*4 || n > 40*24*6+20 {
		t.Errorf("%d attempts in 40 days", n)
	}
	if !l.facts.NotAfter.Equal(last.Add(90 * day)) {
		t.Error("there is no certificate in the end")
	}
}

// TestBackoff: each kind of failure is tried again later and later, up to a
// limit, and certificates do not do it at once.
func TestBackoff(t *testing.T) {
	for reason, b := range backoffs {
		f := Facts{ID: "x", Now: begun, Failures: Failures{Last: begun, Reason: reason}}
		var last time.Duration
		for f.Failures.Count = 1; f.Failures.Count < 40; f.Failures.Count++ {
			wait := Next(f).At.Sub(begun)
			if wait < min(b.first, b.longest) || wait > b.longest*5/4 {
				t.Errorf("%s: try %d after %v", reason, f.Failures.Count+1, wait)
			}
			if wait < last*3/4 {
				t.Errorf("%s: try %d after %v, the one before after %v", reason, f.Failures.Count+1, wait, last)
			}
			last = wait
		}
		times := make(map[time.Duration]bool)
		for n := range 100 {
			f.ID = fmt.Sprint(n)
			times[Next(f).At.Sub(begun)] = true
		}
		if len(times) < 90 {
			t.Errorf("%s: 100 certificates are tried at %d times", reason, len(times))
		}
	}
}

func TestRetryAfterIsHonoured(t *testing.T) {
	f := Facts{ID: "x", Now: begun, Failures: Failures{Count: 1, Last: begun, Reason: ReasonRateLimited}}
	for after, want := range map[time.Duration]time.Duration{day: day, 3650 * day: maxRetry} {
		if f.Failures.RetryAfter = begun.Add(after); !Next(f).At.Equal(begun.Add(want)) {
			t.Errorf("Retry-After in %v: tried at %v", after, Next(f).At)
		}
	}
	f.Failures.RetryAfter, f.Limited = time.Time{}, begun.Add(time.Hour)
	f.Failures.Reason = ReasonValidation
	if got := Next(f).At; got.Before(f.Limited) {
		t.Errorf("a host that failed too often is validated at %v", got)
	}
}

// TestHeld: an issuer that has had enough of us is left alone as long as it says,
// or for a while, and never for longer than a week.
func TestHeld(t *testing.T) {
	last := begun.Add(-time.Minute)
	for _, c := range []struct{ last, after, want time.Time }{
		{last, begun.Add(day), begun.Add(day)},
		{last, time.Time{}, last.Add(15 * time.Minute)},
		{last, begun.Add(3650 * day), last.Add(maxRetry)},
		{begun.Add(400 * day), begun.Add(401 * day), begun.Add(day)}, // said under another clock
	} {
		n := Failures{Count: 1, Last: c.last, Reason: ReasonRateLimited, RetryAfter: c.after, Wide: true}
		f := Facts{ID: "x", Now: begun, Started: begun, Held: n.held(begun, begun)}
		if got := Next(f).At; !got.Equal(c.want) {
			t.Errorf("%+v: ordered at %v, want %v", n, got, c.want)
		}
		n.Wide = false
		if got := n.held(begun, begun); !got.IsZero() {
			t.Errorf("what is about names holds up others until %v", got)
		}
	}
}

// TestWaitsEnd: whatever a wrong clock or a CA said, the time of the next attempt
// does not move on with those who look.
func TestWaitsEnd(t *testing.T) {
	for name, failures := range map[string]Failures{
		"a failure in the future": {Count: 1, Last: begun.Add(400 * day), Reason: ReasonUnavailable},
		"Retry-After in years":    {Count: 1, Last: begun, Reason: ReasonRateLimited, RetryAfter: begun.Add(3650 * day)},
		"both":                    {Count: 2, Last: begun.Add(400 * day), Reason: ReasonRateLimited, RetryAfter: begun.Add(3650 * day)},
	} {
		f := Facts{ID: "x", Started: begun, NotBefore: begun.Add(-80 * day), NotAfter: begun.Add(10 * day), Failures: failures}
		for f.Now = begun; Next(f).At.After(f.Now); f.Now = f.Now.Add(15 * time.Minute) {
			if f.Now.After(begun.Add(8 * day)) {
				t.Fatalf("%s: after %v the next attempt is at %v", name, f.Now.Sub(begun), Next(f).At)
			}
		}
	}
}

func TestSuggestedTime(t *testing.T) {
	for _, c := range []struct{ at, want time.Duration }{
		{30 * day, 30 * day},
		{-day, 0}, // revoked: renew at once
		{89*day + 12*time.Hour, 90 * day / 100 * newestRenew},
	} {
		f := Facts{ID: "x", Now: begun, NotBefore: begun, NotAfter: begun.Add(90 * day), Asks: true,
			Renewal: &Suggestion{At: begun.Add(c.at), Next: begun.Add(100 * day)}}
		if c.want == 0 {
			f.Renewal.Next = begun.Add(askEvery)
		}
		for Next(f).Kind == AskRenewal { // which changes nothing
			f.Now = Next(f).At
			f.Renewal.Next = f.Now.Add(askEvery)
		}
		if next := Next(f); next.Kind != PlaceOrder || latest(next.At, begun).Sub(begun) != c.want {
			t.Errorf("suggested %v: %+v", c.at, next)
		}
	}
	unasked := newLife(1, 90*day, begun)
	unasked.facts.Asks = true
	unasked.run(begun, begun.Add(10*day), issues)
	if unasked.asked < 35 || unasked.asked > 41 || len(unasked.orders) != 0 {
		t.Errorf("asked %d times in ten days, %d orders", unasked.asked, len(unasked.orders))
	}
}

// TestSuggestedLate: however late the CA suggests, there is room for two more tries
// after validations that failed, and for what the three orders take.
func TestSuggestedLate(t *testing.T) {
	for _, length := range []time.Duration{90 * day, 6 * day, day, 2 * time.Hour, time.Hour, 20 * time.Minute, 5 * time.Minute, time.Minute} {
		for n := range 20 {
			l := newLife(n, length, begun)
			l.facts.Renewal = &Suggestion{At: begun.Add(length - time.Second), Next: begun.Add(length)}
			last := begun.Add(length - min(3*oneOrder, length/20))
			l.run(begun, last, func(time.Time) Reason { return ReasonValidation })
			if len(l.orders) < 3 || l.orders[0].After(begun.Add(length/100*newestRenew)) || l.orders[0].Before(begun.Add(length*2/3)) {
				t.Fatalf("certificates for %v: tried at %v, the certificate ends at %v", length, l.orders, l.facts.NotAfter)
			}
		}
	}
}

// TestSuggestedInThePast: a window that is over means now, but not sooner after the
// last certificate than any other.
func TestSuggestedInThePast(t *testing.T) {
	for _, c := range []struct {
		length, age, window time.Duration // the window's age
		hasty               int
		want                time.Duration
	}{
		{90 * day, 10 * day, day, 0, 0},
		{90 * day, 10 * day, 20 * day, 0, 0}, // it was over before there was a certificate
		{90 * day, time.Minute, day, 0, 59 * time.Minute},
		{90 * day, time.Minute, day, 2, 4*time.Hour - time.Minute},
		{15 * time.Minute, time.Minute, time.Hour, 0, 4 * time.Minute},
		{15 * time.Minute, 6 * time.Minute, time.Hour, 0, 0},
	} {
		f := Facts{ID: "x", Now: begun, Started: begun.Add(-100 * day), Asks: true, Hasty: c.hasty, Issued: begun.Add(-c.age),
			NotBefore: begun.Add(-c.age), NotAfter: begun.Add(c.length - c.age)}
		leaf := &x509.Certificate{NotBefore: f.NotBefore, NotAfter: f.NotAfter}
		info := acmelib.RenewalInfo{SelectedTime: begun.Add(-c.window)}
		info.SuggestedWindow.Start, info.SuggestedWindow.End = begun.Add(-c.window-time.Hour), begun.Add(-c.window)
		f.Renewal = suggestion(nil, info, nil, leaf, begun)
		f.Renewal.Next = begun.Add(day)
		if next := Next(f); next.Kind != PlaceOrder || latest(next.At, begun).Sub(begun) != c.want {
			t.Errorf("%+v: %v in %v", c, next.Kind, next.At.Sub(begun))
		}
	}
}

// TestClockJumps: a clock that is set forward orders nothing before it has
// proved itself; when it is set right again there was no storm, and nothing is
// forgotten.
func TestClockJumps(t *testing.T) {
	const certificates = 1000
	for _, jumped := range []time.Duration{400 * day, day, -day, -400 * day} {
		storm := 0
		for n := range certificates {
			l := newLife(n, 90*day, begun)
			l.facts.Jumped = begun.Add(jumped)
			l.run(begun.Add(jumped), begun.Add(jumped+59*time.Minute), issues)
			storm += len(l.orders)
			l.facts.Jumped = begun.Add(time.Hour) // set right
			l.run(begun.Add(time.Hour), begun.Add(40*day), issues)
			if len(l.orders) != 0 {
				storm++
			}
		}
		if storm != 0 {
			t.Errorf("a jump by %v: %d orders", jumped, storm)
		}
	}
	// One that stays is believed, certificate after certificate.
	minutes := make(map[int]int)
	for n := range certificates {
		l := newLife(n, 90*day, begun)
		l.facts.Jumped = begun.Add(400 * day)
		l.run(l.facts.Jumped, l.facts.Jumped.Add(3*time.Hour), issues)
		if len(l.orders) != 1 {
			t.Fatalf("%d orders", len(l.orders))
		}
		minutes[int(l.orders[0].Sub(l.facts.Jumped)/time.Minute)]++
	}
	for minute, n := range minutes {
		if minute < 60 || minute > 120 || n > 40 {
			t.Errorf("minute %d: %d orders", minute, n)
		}
	}
}

// TestStartSpreads: a process that starts with many certificates that are due
// does not order them all at once.
func TestStartSpreads(t *testing.T) {
	minutes := make(map[int]int)
	for n := range 1000 {
		l := newLife(n, 90*day, begun.Add(-80*day))
		l.run(begun, begun.Add(time.Hour), issues)
		minutes[int(l.orders[0].Sub(begun)/time.Minute)]++
	}
	for minute, n := range minutes {
		if minute >= 10 || n > 150 {
			t.Errorf("minute %d: %d orders", minute, n)
		}
	}
}

// TestClocksDiffer: certificates that are due as soon as they come do not make
// order after order, and each is ordered later than the one before.
func TestClocksDiffer(t *testing.T) {
	for _, c := range []struct {
		length, slow time.Duration
		most         int
	}{{90 * day, -400 * day, 12}, {6 * day, -5 * day, 24}, {5 * time.Minute, -time.Hour, 40 * 24 * 36}} {
		l := newLife(1, c.length, begun.Add(-c.length))
		l.slow = c.slow
		l.run(begun, begun.Add(40*day), issues)
		if n := len(l.orders); n < 2 || n > c.most {
			t.Errorf("certificates for %v from a clock off by %v: %d orders in 40 days", c.length, c.slow, n)
		}
		for i := 1; i < len(l.orders); i++ {
			if gap := l.orders[i].Sub(l.orders[i-1]); gap < min(time.Hour, c.length/3) {
				t.Errorf("certificates for %v: two orders within %v", c.length, gap)
			}
		}
	}
	// What another clock said holds up nothing for longer.
	f := Facts{ID: "x", Now: begun, Started: begun, Issued: begun.Add(400 * day), NotBefore: begun.Add(-80 * day), NotAfter: begun.Add(10 * day)}
	if wait := Next(f).At.Sub(begun); wait > 61*time.Minute {
		t.Errorf("tried in %v", wait)
	}
}

// TestFailuresUnderAnotherClock: what failed in the future holds nothing up.
func TestFailuresUnderAnotherClock(t *testing.T) {
	f := Facts{ID: "x", Now: begun, Failures: Failures{Count: 3, Last: begun.Add(400 * day), Reason: ReasonUnavailable}}
	if wait := Next(f).At.Sub(begun); wait > time.Minute {
		t.Errorf("tried in %v", wait)
	}
}
