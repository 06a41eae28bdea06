package acme

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	acmelib "github.com/mholt/acmez/v3/acme"

	"github.com/portico-ingress/portico/router/diag"
)

// Reason is the kind of a failure, for backoff and metrics.
type Reason string

// The reasons. A validation costs the CA and counts against its limits, so it
// is tried again later than a CA that cannot be reached.
const (
	ReasonValidation  Reason = "validation"   // a challenge was not answered as it should be
	ReasonRateLimited Reason = "rate_limited" // the CA has had enough
	ReasonUnavailable Reason = "unavailable"  // the CA cannot be reached or has an error
	ReasonRefused     Reason = "refused"      // the CA will not issue this
	ReasonStorage     Reason = "storage"      // what has to be stored cannot be
	ReasonChallenge   Reason = "challenge"    // a challenge cannot be prepared, for example by DNS
)

// failure is why an order did not succeed.
type failure struct {
	reason     Reason
	message    string
	host       string // whose validation failed; "" if unknown
	account    string // that was asked; "": that at the issuer's directory
	retryAfter time.Time
	wide       bool // it is about the account or the address, not about the names
}

func (f *failure) Error() string { return f.message }

// errStorage marks errors of the storage.
var errStorage = errors.New("storage")

// classify says what kind of failure an error of certmagic is. Messages hold
// the CA's own words, and where it says what is wrong nothing else.
func classify(err error) *failure {
	f := *kindOf(err)
	f.message = diag.OneLine(f.message, maxMessage)
	return &f
}

// maxMessage bounds what is stored and shown of a CA's words, in bytes.
const maxMessage = 640

func kindOf(err error) *failure {
	var own *failure
	if errors.As(err, &own) {
		return own
	}
	var problem acmelib.Problem
	if errors.As(err, &problem) {
		return classifyProblem(problem)
	}
	var network net.Error
	f := &failure{reason: ReasonRefused, message: err.Error()}
	switch {
	case errors.Is(err, errStorage):
		f.reason = ReasonStorage
	case errors.As(err, &network), errors.Is(err, context.DeadlineExceeded):
		f.reason = ReasonUnavailable
	case strings.Contains(f.message, "presenting for challenge"), strings.Contains(f.message, "waiting for solver"):
		f.reason = ReasonChallenge
	default:
		// What is no ACME problem is an answer that no ACME server gives.
		f.reason = ReasonUnavailable
	}
	return f
}

func classifyProblem(p acmelib.Problem) *failure {
	f := &failure{reason: ReasonRefused, message: words(p)}
	if authz, ok := p.Resource.(acmelib.Authorization); ok {
		f.host = authz.IdentifierValue()
		f.message = f.host + ": " + f.message
	}
	switch {
	case p.Type == acmelib.ProblemTypeRateLimited || p.Status == http.StatusTooManyRequests:
		f.reason = ReasonRateLimited
	case p.Status >= 500 || p.Type == acmelib.ProblemTypeServerInternal || p.Type == acmelib.ProblemTypeBadNonce || p.Type == acmelib.ProblemTypeOrderNotReady:
		f.reason = ReasonUnavailable
	case f.host != "":
		f.reason = ReasonValidation
	case p.Type == acmelib.ProblemTypeUnauthorized && strings.Contains(strings.ToLower(p.Detail), "account"):
		f.message += "; if the account was deactivated, another email or name of the issuer makes a new one"
	}
	return f
}

// words are what the CA says, with the kind of the problem in front.
func words(p acmelib.Problem) string {
	kind := strings.TrimPrefix(p.Type, acmelib.ProblemTypeNamespace)
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s", kind, p.Detail)
	for _, sub := range p.Subproblems {
		fmt.Fprintf(&b, "; %s: %s", sub.Identifier.Value, sub.Detail)
	}
	return b.String()
}

// wide reports whether a CA has had enough of the account, of our address or of
// everybody, so that orders for other names fare no better. ACME has no word for
// that (RFC 8555 §6.6). What names a host, or a domain above it, is about names;
// so is what speaks of none of the former, since only these names then wait in
// vain. Who says nothing but Retry-After means everybody.
func wide(f *failure, err error, names []string) bool {
	if f.reason == ReasonUnavailable {
		return !f.retryAfter.IsZero()
	}
	var p acmelib.Problem
	if f.reason != ReasonRateLimited || f.host != "" || !errors.As(err, &p) {
		return false
	}
	if slices.ContainsFunc(p.Subproblems, func(s acmelib.Subproblem) bool { return s.Identifier.Value != "" }) {
		return false
	}
	text := strings.ToLower(strings.TrimSpace(links.ReplaceAllString(p.Detail, "")))
	if text == "" {
		return p.Status == http.StatusTooManyRequests && !f.retryAfter.IsZero()
	}
	return ofAccount.MatchString(text) && !slices.ContainsFunc(names, func(name string) bool { return mentions(text, name) })
}

// ofAccount finds, in lower case, that a text is about an account or an address, or
// that the CA is busy. "Error creating new order :: " begins texts about anything.
var ofAccount = regexp.MustCompile(`\b(accounts?|orders|registrations?|ip|busy)\b`)

// links are to a CA's own pages, whose names say nothing.
var links = regexp.MustCompile(`https?://\S+`)

// mentions reports whether a text has a name, or a domain of at least two labels
// above it.
func mentions(text, name string) bool {
	for name = strings.TrimPrefix(name, "*."); strings.Contains(name, "."); _, name, _ = strings.Cut(name, ".") {
		if strings.Contains(text, name) {
			return true
		}
	}
	return false
}
