package acme

import (
	"hash/fnv"
	"strconv"
	"time"
)

// Facts are all that decides what is to be done for a certificate.
type Facts struct {
	ID  string // spreads certificates over time
	Now time.Time
	// NotBefore and NotAfter are those of the certificate; zero: there is
	// none.
	NotBefore, NotAfter time.Time
	// Renewal is what the CA last suggested; nil: it was not asked.
	Renewal *Suggestion
	// Asks tells that the CA can be asked for a suggestion.
	Asks     bool
	Failures Failures
	// Issued is when the certificate came, by our own clock; zero: unknown.
	Issued time.Time
	// Hasty counts how often in a row a certificate was due as soon as it
	// came.
	Hasty int
	// Limited is until when a host has had its share of failed validations.
	Limited time.Time
	// Held is until when a directory that has to be asked wants no orders at
	// all.
	Held time.Time
	// Started is since when somebody looks: what was due before is spread,
	// and does not begin at once everywhere.
	Started time.Time
	// Jumped is what the clock said after it was last set; zero: it was not.
	Jumped time.Time
}

// Kind is what to do.
type Kind uint8

// The kinds.
const (
	PlaceOrder Kind = iota
	AskRenewal      // ask the CA when to renew (RFC 9773)
)

// Action is what to do next, when, and why then.
type Action struct {
	Kind Kind
	At   time.Time
	Why  string
}

const (
	maxSpread   = 10 * time.Minute   // of what was due before somebody looked
	jumpHold    = time.Hour          // a clock that was set must prove itself
	floor       = time.Hour          // between certificates of one set of names
	maxRetry    = 7 * 24 * time.Hour // a CA that says "in ten years" is asked in a week
	shortLife   = 24 * time.Hour     // below it, a CA expects several orders a day
	askEvery    = 6 * time.Hour      // RFC 9773 §4.3.2 without a Retry-After
	askAgain    = time.Hour          // after an answer that is of no use
	newestRenew = 95                 // per cent of a lifetime: no suggestion is followed beyond
	oneOrder    = 5 * time.Minute    // may take so long
)

// Next decides what is to be done next for a certificate. It is pure: the same
// facts give the same answer in every process, and nothing is remembered of
// times that a wrong clock showed.
func Next(f Facts) Action {
	if f.NotAfter.IsZero() {
		since := f.Now
		if !f.Started.IsZero() && f.Started.Before(f.Now) {
			since = f.Started // not after what has failed since
		}
		return Action{PlaceOrder, latest(since, f.retry(0), f.Limited, f.Held), f.because("there is no certificate yet")}
	}
	life := f.NotAfter.Sub(f.NotBefore)
	due, why := f.due(life)
	at := latest(due, f.retry(life), f.Limited, f.Held, f.hold(due, life), f.floor(life))
	if ask, ok := f.ask(life); ok && ask.Before(at) && at.After(f.Now) {
		return Action{AskRenewal, ask, "the CA is asked when to renew"}
	}
	return Action{PlaceOrder, at, f.because(why)}
}

func (f Facts) because(why string) string {
	if f.Held.After(f.Now) {
		why += "; the CA wants no orders before " + f.Held.UTC().Format(time.RFC3339)
	}
	if f.Failures.Count > 0 {
		return "try " + strconv.Itoa(f.Failures.Count+1) + ": " + why
	}
	return why
}

// due is when to renew: the CA's time, as far as it leaves room for tries that
// fail, else at two thirds of the lifetime, a little earlier for each certificate
// than for the next.
func (f Facts) due(life time.Duration) (time.Time, string) {
	if s := f.Renewal; s != nil && !s.At.IsZero() {
		at := s.At
		if last := f.NotAfter.Add(-room(life)); at.After(last) {
			at = last
		}
		return at, "the CA suggests it"
	}
	third := life / 3
	return f.NotAfter.Add(-third).Add(-f.share(f.NotBefore.String(), life/20)), "two thirds of its life are over"
}

// room is what has to be left of a lifetime for a renewal: a twentieth, and enough
// to try twice more after validations that failed, but no more than a third.
func room(life time.Duration) time.Duration {
	b := backoffs[ReasonValidation]
	tries := (b.after(1, life) + b.after(2, life)) * 5 / 4 // with the longest share
	return min(max(life-life/100*newestRenew, tries+min(3*oneOrder, life/20)), life/3)
}

// RenewalDue returns when the certificate is to be renewed, and why then, however
// its renewal is getting on; zero: there is no certificate.
func (f Facts) RenewalDue() (time.Time, string) {
	if f.NotAfter.IsZero() {
		return time.Time{}, ""
	}
	return f.due(f.NotAfter.Sub(f.NotBefore))
}

// Due reports whether the certificate is to be renewed, or has ended.
func (f Facts) Due() bool { return f.hasty(f.Now) }

// hasty reports whether a certificate that was just issued is due already: the
// CA's clock and ours differ, or it suggests so.
func (f Facts) hasty(at time.Time) bool {
	due, _ := f.due(f.NotAfter.Sub(f.NotBefore))
	return !due.After(at)
}

// wasHasty reports whether a certificate was due before it could be replaced.
func (f Facts) wasHasty() bool {
	life := f.NotAfter.Sub(f.NotBefore)
	return !f.Issued.IsZero() && f.hasty(f.Issued.Add(min(floor, life/3)))
}

// floor is when the next certificate may be ordered after one that came. It is
// doubled each time that one was due as soon as it came, up to a third of the
// lifetime: otherwise two clocks that differ would make order after order.
func (f Facts) floor(life time.Duration) time.Time {
	if f.Issued.IsZero() {
		return time.Time{}
	}
	issued := f.Issued
	if issued.After(f.Now) {
		issued = f.Started // said by another clock
	}
	most := life / 3
	if left := f.NotAfter.Sub(issued); life < shortLife && left > 0 {
		most = min(most, left/3*2) // a CA may say that it was valid long before
	}
	return issued.Add(min(floor<<min(f.Hasty, 12), most))
}

// ask is when to ask the CA for its suggestion. If the answer could not be stored,
// it is not asked again at once.
func (f Facts) ask(life time.Duration) (at time.Time, ok bool) {
	defer func() {
		if ok && f.Failures.Reason == ReasonStorage {
			at = latest(at, f.retry(life))
		}
	}()
	if !f.Asks || f.Now.After(f.NotAfter) {
		return time.Time{}, false
	}
	if f.Renewal == nil {
		return latest(f.NotBefore, f.Started).Add(f.share("ask", min(maxSpread, f.NotAfter.Sub(f.NotBefore)/60))), true
	}
	next := f.Renewal.Next
	if limit := f.Now.Add(askEvery * 4); next.After(limit) {
		next = limit // said under another clock
	}
	return next, true
}

// hold is until when to leave alone what was due before somebody looked, or
// seems due since the clock was set.
func (f Facts) hold(due time.Time, life time.Duration) time.Time {
	var until time.Time
	if due.Before(f.Started) {
		until = f.Started.Add(f.share("start", min(maxSpread, life/60)))
	}
	if !f.Jumped.IsZero() && due.Before(f.Jumped) {
		proof := min(jumpHold, life/20)
		until = latest(until, f.Jumped.Add(proof+f.share("jump", proof)))
	}
	return until
}

// backoff is the first and the longest wait after a failure.
type backoff struct{ first, longest time.Duration }

var backoffs = map[Reason]backoff{
	ReasonValidation:  {2 * time.Minute, time.Hour},
	ReasonRateLimited: {15 * time.Minute, 6 * time.Hour},
	ReasonUnavailable: {5 * time.Second, 10 * time.Minute},
	ReasonRefused:     {5 * time.Minute, 6 * time.Hour},
	ReasonStorage:     {2 * time.Second, time.Minute},
	ReasonChallenge:   {30 * time.Second, time.Hour},
}

// after is the wait after so many failures, without the share of each certificate.
// One that lives for minutes is not given up for an hour; life is 0 where there is
// none.
func (b backoff) after(failures int, life time.Duration) time.Duration {
	longest := b.longest
	if life > 0 {
		longest = min(longest, max(life/20, 2*time.Second))
	}
	wait := min(b.first, longest)
	for i := 1; i < failures && wait < longest; i++ {
		wait = min(2*wait, longest)
	}
	return wait
}

// retry is the earliest time of another attempt after failures.
func (f Facts) retry(life time.Duration) time.Time {
	n := f.Failures
	if n.Count == 0 {
		return time.Time{}
	}
	last, after := n.times(f.Now, f.Started)
	if n.Reason == ReasonRefused && f.Started.After(last) {
		// Perhaps for a setting, which may be another one since: once is tried.
		return latest(f.Started.Add(f.share("refused", maxSpread/10)), after)
	}
	b, ok := backoffs[n.Reason]
	if !ok {
		b = backoffs[ReasonRefused]
	}
	wait := b.after(n.Count, life)
	wait += f.share("retry "+strconv.Itoa(n.Count), wait/4)
	return latest(last.Add(wait), after)
}

// times are when the last attempt failed and until when the CA did not want to be
// asked again. What was seen under another clock counts from when somebody
// started to look: now would move on with us.
func (n *Failures) times(now, started time.Time) (last, after time.Time) {
	last, after = n.Last, n.RetryAfter
	if last.After(now) {
		last = started
		if !after.IsZero() {
			after = last.Add(n.RetryAfter.Sub(n.Last))
		}
	}
	if limit := last.Add(maxRetry); after.After(limit) {
		after = limit
	}
	return last, after
}

// held is until when an issuer that has had enough of us is left alone.
func (n *Failures) held(now, started time.Time) time.Time {
	if !n.Wide {
		return time.Time{}
	}
	last, after := n.times(now, started)
	if after.IsZero() {
		after = last.Add(backoffs[n.Reason].first)
	}
	return after
}

// share is a part of d that is always the same for this certificate and
// purpose, and spreads certificates evenly.
func (f Facts) share(purpose string, d time.Duration) time.Duration {
	h := fnv.New64a()
	_, _ = h.Write([]byte(f.ID + "\x00" + purpose))
	x := h.Sum64()
	x ^= x >> 33 // FNV leaves the high bits of like words alike
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	return time.Duration(float64(d) * (float64(x>>11) / (1 << 53)))
}

func latest(times ...time.Time) time.Time {
	var out time.Time
	for _, t := range times {
		if t.After(out) {
			out = t
		}
	}
	return out
}
