package acme

import (
	"slices"
	"time"
)

// Holds say until when ACME servers want no orders from us, whichever certificate
// it was that they had enough of. The zero value holds nothing. Not safe for
// concurrent use.
type Holds struct {
	until map[holder]time.Time
}

// holder is whom an ACME server has had enough of: an issuer, by an account of its
// own at each directory.
type holder struct{ issuer, account string }

// Add takes what a record knows. started is since when somebody looks: what was
// said under another clock counts from then.
func (h *Holds) Add(r *Record, now, started time.Time) {
	until, at := r.Failures.held(now, started), holder{r.Issuer, r.Failures.Account}
	if !until.After(h.until[at]) {
		return
	}
	if h.until == nil {
		h.until = make(map[holder]time.Time)
	}
	h.until[at] = until
}

// Until returns until when no order for w can be placed, because one of the
// directories that it has to ask wants none; zero: none does. r is its record, and
// may be nil.
func (h *Holds) Until(w Wanted, r *Record) time.Time {
	var until time.Time
	if len(h.until) == 0 {
		return until
	}
	for _, account := range w.Issuer.accounts(first(r)) {
		until = latest(until, h.until[holder{w.Issuer.Name, account}])
	}
	return until
}

// first reports whether an order would be the first of a record, which a test
// directory has to issue before.
func first(r *Record) bool { return r == nil || r.Leaf() == nil }

// account names the account that the issuer has at a directory: with another
// address or binding it is another one, of which nothing was said yet. It is for the
// storage only: a weak key could be guessed from it.
func (i *Issuer) account(directory string) string {
	words := []string{directory, i.Email}
	if i.EAB != nil {
		words = append(words, i.EAB.KeyID, i.EAB.MACKey)
	}
	return digest(words)
}

// accounts are those that an order needs; first tells that it is the first for its
// names.
func (i *Issuer) accounts(first bool) []string {
	if first && i.Staging != "" {
		return []string{i.account(i.Staging), i.account(i.Directory)}
	}
	return []string{i.account(i.Directory)}
}

// failures are those of a record that tell something of the next attempt. What
// another account or directory said before the issuer was changed tells nothing;
// the failed validations of hosts stay.
func (w Wanted) failures(r *Record) Failures {
	n := r.Failures
	if n.Count == 0 || slices.Contains(w.Issuer.accounts(first(r)), n.Account) {
		return n
	}
	return Failures{Validations: n.Validations}
}
