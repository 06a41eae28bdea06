package acme

import (
	"context"
	"crypto/x509"
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
	if f := misconfigured(err); f != nil {
		return f
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

// misconfigured returns the failure that an error is if it stays until a setting of
// the issuer changes, nil otherwise. acmez has no types for most of them.
func misconfigured(err error) *failure {
	refused := func(format string, args ...any) *failure {
		return &failure{reason: ReasonRefused, message: fmt.Sprintf(format, args...)}
	}
	text := err.Error()
	var unknown x509.UnknownAuthorityError
	m, profile := noDirectory.FindStringSubmatch(text), unknownProfile.FindStringSubmatch(text)
	switch {
	case errors.As(err, &unknown):
		return refused("%s; if the server's CA is one of your own, name it in the issuer's caBundle", unknown.Error())
	case strings.Contains(text, "does not advertise support for profiles"):
		return refused("the CA offers no profiles; leave out the issuer's profile")
	case profile != nil:
		return refused("the CA does not offer the issuer's profile %s; it has %s", profile[1], profileNames(profile[2]))
	case m == nil:
		return nil
	case m[1] == "429", strings.HasPrefix(m[1], "5"):
		return &failure{reason: ReasonUnavailable, message: "the directory answers HTTP " + m[1]}
	case m[1] != "":
		return refused("the directory answers HTTP %s, as no ACME server does; check the issuer's directory", m[1])
	}
	return refused("what the directory answers is not that of an ACME server; check the issuer's directory (%s)", m[0])
}

var (
	noDirectory    = regexp.MustCompile(`provisioning client: (?:(?:unexpected status code: )?HTTP (\d+)|response Content-Type is \S*|JSON-decoding response body|server did not return error headers)`)
	unknownProfile = regexp.MustCompile(`unknown profile name '(.*)'; supported profiles: map\[(.*)\]`)
	profileKey     = regexp.MustCompile(`(?:^| )([^ :]+):`)
)

// profileNames returns the names in a map of profiles and descriptions, as fmt
// writes it. A description may look like another one.
func profileNames(text string) string {
	var names []string
	for _, m := range profileKey.FindAllStringSubmatch(text, -1) {
		names = append(names, m[1])
	}
	return strings.Join(slices.DeleteFunc(names, func(n string) bool { return strings.HasPrefix(n, "http") }), ", ")
}

// settings are those of an issuer that mend what a CA complains of.
var settings = map[string]string{
	acmelib.ProblemTypeExternalAccountRequired:          "give the issuer eab, with the keyID and the key of your account at the CA",
	acmelib.ProblemTypeInvalidContact:                   "check the issuer's email",
	acmelib.ProblemTypeUnsupportedContact:               "check the issuer's email",
	acmelib.ProblemTypeBadPublicKey:                     "try another keyType of the issuer",
	acmelib.ProblemTypeNamespace + "invalidProfile":     "check the issuer's profile",
	acmelib.ProblemTypeNamespace + "userActionRequired": "the CA wants something done by hand first",
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
	case p.Type == acmelib.ProblemTypeUnauthorized && strings.Contains(strings.ToLower(p.Detail), "external"):
		f.message += "; check the issuer's eab"
	case p.Type == acmelib.ProblemTypeUnauthorized && strings.Contains(strings.ToLower(p.Detail), "account"):
		f.message += "; if the account was deactivated, another email or name of the issuer makes a new one"
	}
	if hint, ok := settings[p.Type]; ok {
		f.message += "; " + hint
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
	return !setOfNames.MatchString(text) && ofAccount.MatchString(text) && !slices.ContainsFunc(names, func(name string) bool { return mentions(text, name) })
}

// ofAccount finds, in lower case, that a text is about an account or an address, or
// that the CA is busy. "Error creating new order :: " begins texts about anything.
var ofAccount = regexp.MustCompile(`\b(accounts?|orders|registrations?|ip|busy)\b`)

// setOfNames finds that a text is about the names of an order, whichever they are.
var setOfNames = regexp.MustCompile(`\b(set of|these) (identifiers|domains|names)\b`)

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
