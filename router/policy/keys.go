package policy

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/portico-ingress/portico/router/diag"
)

// Prefixes of annotations, in the order in which they win: a key under the
// first hides the same key under the second.
const (
	Prefix      = "portico.dev/"
	NginxPrefix = "nginx.ingress.kubernetes.io/"
)

// Reasons of the problems with annotations.
const (
	ReasonInvalid    diag.Reason = "InvalidAnnotation"
	ReasonUnknown    diag.Reason = "UnknownAnnotation"
	ReasonIgnored    diag.Reason = "AnnotationIgnored"
	ReasonUnenforced diag.Reason = "ProtectionNotEnforced"
	ReasonCanary     diag.Reason = "CanaryNotServed"
)

// Key is one annotation that a route understands, under either prefix.
type Key struct {
	Name string // without prefix
	Doc  string // one line
	set  func(p *Policy, value string) error
	// guards tells that it protects something: routes with a malformed value
	// are refused, for they must not fail open.
	guards bool
}

// Keys is every annotation that is understood, sorted by name: the single
// source of parser, documentation and hints.
var Keys = []Key{
	{"backend-protocol", `HTTP, HTTPS, GRPC or GRPCS: what the backends speak (default: what the Service port's appProtocol says, else HTTP)`,
		func(p *Policy, v string) error { return p.Backend.setProtocol(v) }, false},
	{"issuer", `name of the configured issuer that the certificates of spec.tls come from`,
		func(*Policy, string) error { return nil }, false}, // read by controllers/translate
	{"proxy-ssl-name", `name in the certificates of HTTPS and GRPCS backends, and asked for by SNI (default: the Service's DNS name)`,
		func(p *Policy, v string) error { return p.Backend.setName(v) }, false},
	{"proxy-ssl-secret", `Secret of the Ingress's namespace with the CA (ca.crt) that HTTPS and GRPCS backends are verified against, and optionally a client certificate (tls.crt, tls.key)`,
		func(p *Policy, v string) error { return p.Backend.setSecret(v) }, true},
	{"proxy-ssl-verify", `"on" or "off": verify HTTPS and GRPCS backends (default: if proxy-ssl-secret has a CA); "on" without a CA answers 503`,
		func(p *Policy, v string) error { return p.Backend.setVerify(v) }, true},
	{"ssl-redirect", `"true" (default) or "false": answer plaintext requests for a host with TLS by 308 to https`,
		func(p *Policy, v string) error { return setSwitch(&p.SSLRedirect, v) }, false},
}

func setSwitch(s *Switch, value string) error {
	on, err := strconv.ParseBool(value)
	if err != nil {
		return fmt.Errorf(`%q is neither "true" nor "false"`, value)
	}
	*s = Off
	if on {
		*s = On
	}
	return nil
}

// protective are the keys, under either prefix, that restrict who may use a
// route. None is enforced yet, so a route that asks for one is refused: it must
// not fail open. The function reports a value that asks for nothing.
var protective = map[string]func(value string) bool{
	"auth-secret":             is(""),
	"auth-tls-match-cn":       is(""),
	"auth-tls-secret":         is(""),
	"auth-tls-verify-client":  is("off"),
	"auth-snippet":            is(""),
	"auth-type":               is(""),
	"auth-url":                is(""),
	"allowlist-source-range":  allowsAll,
	"configuration-snippet":   is(""), // nobody knows what it protects
	"denylist-source-range":   is(""),
	"enable-modsecurity":      is("false"),
	"enable-owasp-core-rules": is("false"),
	"modsecurity-snippet":     is(""),
	"satisfy":                 is(""),
	"server-snippet":          is(""),
	"ssl-passthrough":         is("false"), // we would end TLS that must not be ended here
	"whitelist-source-range":  allowsAll,
}

func is(harmless string) func(value string) bool {
	return func(value string) bool { return value == harmless }
}

// allowsAll reports a list that names everybody. cert-manager writes one on the
// Ingresses of its HTTP-01 challenges: "0.0.0.0/0,::/0". One of both alone
// denies the other family.
func allowsAll(ranges string) bool {
	var all4, all6 bool
	for text := range strings.SplitSeq(ranges, ",") {
		p, err := netip.ParsePrefix(strings.TrimSpace(text))
		if err == nil && p.Bits() == 0 {
			all4, all6 = all4 || p.Addr().Is4(), all6 || p.Addr().Is6()
		}
	}
	return all4 && all6
}

// Parse reads a policy from the annotations of one object. Problems carry
// field, reason, message and remedy; the caller adds the object. A malformed
// value leaves the default.
func Parse(annotations map[string]string) (Policy, []diag.Problem) {
	var p Policy
	var problems []diag.Problem
	for _, k := range Keys {
		for _, prefix := range []string{Prefix, NginxPrefix} {
			value, ok := annotations[prefix+k.Name]
			if !ok {
				continue
			}
			if err := k.set(&p, strings.TrimSpace(value)); err != nil {
				what := "the default is used"
				if k.guards {
					what = "the routes of this Ingress answer 503"
					p.Refuse = "annotation " + k.Name + " is malformed"
				}
				problems = append(problems, diag.Problem{
					Field: field(prefix + k.Name), Reason: ReasonInvalid,
					Message: fmt.Sprintf("annotation %s: %v; %s", prefix+k.Name, err, what), Remedy: "It takes " + k.Doc,
				})
			}
			break
		}
	}
	problems = append(problems, unknown(annotations)...)
	if keys := unenforced(annotations); len(keys) > 0 {
		p.Refuse = "a protection that the Ingress asks for is not enforced"
		problems = append(problems, diag.Problem{
			Field: "metadata.annotations", Reason: ReasonUnenforced,
			Message: fmt.Sprintf("not supported: %s; they may protect the routes of this Ingress, which answer 503 rather than being served unprotected", strings.Join(keys, ", ")),
			Remedy:  "Remove the annotations to serve the routes without that protection",
		})
	}
	return p, problems
}

// Canary reports an Ingress that asks to be a canary: with ingress-nginx it gets
// a share of another Ingress's traffic. Canaries are not supported, and serving
// one as a whole could give it all of the traffic, so it is not served.
func Canary(annotations map[string]string) (diag.Problem, bool) {
	name := NginxPrefix + "canary"
	on, err := strconv.ParseBool(annotations[name])
	return diag.Problem{
		Field: field(name), Reason: ReasonCanary,
		Message: "canaries are not supported; this Ingress is not served, and all traffic stays with the Ingress that it is the canary of",
		Remedy:  "Remove the annotation to serve the Ingress as an ordinary one",
	}, err == nil && on
}

// unknown reports keys under our prefix that do not exist, and in one problem
// the ingress-nginx keys that have no effect here.
func unknown(annotations map[string]string) []diag.Problem {
	var problems []diag.Problem
	var ignored []string
	for _, name := range slices.Sorted(maps.Keys(annotations)) {
		if key, ok := strings.CutPrefix(name, Prefix); ok && !known(key) && !isProtective(key) {
			problems = append(problems, diag.Problem{
				Field: field(name), Reason: ReasonUnknown,
				Message: fmt.Sprintf("annotation %s does not exist", name), Remedy: "Known are " + keyNames(),
			})
		}
		if key, ok := strings.CutPrefix(name, NginxPrefix); ok && !known(key) && !isProtective(key) {
			ignored = append(ignored, name)
		}
	}
	if len(ignored) > 0 {
		problems = append(problems, diag.Problem{
			Field: "metadata.annotations", Reason: ReasonIgnored,
			Message: "without effect here: " + strings.Join(ignored, ", "), Remedy: "Remove what is named, or check that the routes work without it",
		})
	}
	return problems
}

// unenforced returns the annotations that ask for a protection.
func unenforced(annotations map[string]string) []string {
	var names []string
	for _, key := range slices.Sorted(maps.Keys(protective)) {
		for _, prefix := range []string{Prefix, NginxPrefix} {
			value, ok := annotations[prefix+key]
			if !ok {
				continue
			}
			if value = strings.TrimSpace(value); value != "" && !protective[key](value) {
				names = append(names, prefix+key)
			}
			break
		}
	}
	return names
}

func isProtective(key string) bool {
	_, ok := protective[key]
	return ok
}

func known(key string) bool {
	return slices.ContainsFunc(Keys, func(k Key) bool { return k.Name == key })
}

func keyNames() string {
	var names []string
	for _, k := range Keys {
		names = append(names, Prefix+k.Name)
	}
	return strings.Join(names, ", ")
}

func field(annotation string) string { return "metadata.annotations[" + annotation + "]" }
